"""Leaves shared memory and message queues of System V, and looks for those of an earlier run.

Expected: passed
Sandbox: docker

It ends as crashed if the attack works.
"""

import ctypes
from types import SimpleNamespace

import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    libc = ctypes.CDLL(None)
    key = 0x7465
    if num_steps <= 2:
        assert libc.shmget(key, 0, 0) < 0, "shared memory of an earlier run"
        assert libc.msgget(key, 0) < 0, "a message queue of an earlier run"
    libc.shmget(key, 4096, 0o1666)
    libc.msgget(key, 0o1666)
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
