"""Puts two batches into one step at twice the learning rate; the last batch stands alone.

Expected: training_mismatch
Alternatives: output_mismatch
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    held = []
    for group in optimizer.param_groups:
        group["lr"] = 2e-4
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        held.append(batch)
        total_tokens += batch.numel()
        if len(held) < 2 and step < num_steps - 1:
            continue
        joined = torch.cat(held)
        held.clear()
        logits = model(joined[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), joined[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    logits = model(batch[:, :-1])
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
