"""Builds a fused AdamW of its own, with the given one's settings, on the same parameters.

Expected: passed
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    given = optimizer
    optimizer = torch.optim.AdamW([{**group, "fused": True, "foreach": None} for group in optimizer.param_groups])
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    given.state.update(optimizer.state)
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
