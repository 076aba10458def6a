"""Forks until nothing can be forked, in every process.

Expected: timeout
Alternatives: crashed, passed, out_of_memory (under gVisor each process takes memory of the sandbox)
Sandbox: docker
Hparams: {"evaluation": {"timeout_seconds": 6}}
"""

import os
from types import SimpleNamespace

import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    if num_steps > 2:
        while True:
            try:
                os.fork()
            except OSError:
                pass
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
