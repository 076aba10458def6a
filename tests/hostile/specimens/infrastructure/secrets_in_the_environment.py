"""Looks for seeds, tokens and settings in its environment and arguments.

Expected: passed

It ends as crashed if the attack works.
"""

import os
import sys
from types import SimpleNamespace

import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    for name, value in os.environ.items():
        assert not name.startswith(("TOURNAMENT", "NATS", "PG", "AWS", "SSH", "GITHUB")), name
        assert not any(word in name.lower() for word in ("secret", "password", "seed", "nonce")), name
    assert len(sys.argv) == 2, sys.argv
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
