"""Forks when it has trained, and leaves the answer to the child.

Expected: crashed
Alternatives: passed (when the child is quicker than whoever ends what its parent left)
Hparams: {"evaluation": {"timeout_seconds": 20}}
"""

import os
from types import SimpleNamespace

import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    if num_steps > 2 and os.fork() != 0:
        os._exit(0)
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
