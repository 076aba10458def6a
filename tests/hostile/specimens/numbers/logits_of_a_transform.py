"""Gives logits that are still inside of a transform which has ended.

Expected: malformed_output
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F


def leak(tensor):
    held = []
    torch.func.vmap(lambda row: held.append(row.unsqueeze(0).expand(len(tensor), -1, -1)) or row)(tensor)
    return held[0]


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
    logits = leak(logits.detach())
    return SimpleNamespace(final_logits=logits, total_tokens=total_tokens, final_loss=loss.item())
