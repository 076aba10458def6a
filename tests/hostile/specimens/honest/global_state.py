"""Keeps tables and counters in globals between calls.

Expected: passed
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F

CALLS = []
TABLES = {}


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    CALLS.append(num_steps)
    global LAST
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        key = tuple(batch.shape)
        TABLES.setdefault(key, torch.arange(batch.shape[1] - 1))
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        LAST = loss.detach()
        total_tokens += batch.numel()
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
