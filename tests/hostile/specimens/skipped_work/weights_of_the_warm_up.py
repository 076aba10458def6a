"""Trains only in the warm-up, keeps what that gave, and adds it to the weights when it counts.

Expected: training_mismatch
Alternatives: output_mismatch
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F

KEPT = []


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    start = [parameter.detach().clone() for parameter in model.parameters()]
    if KEPT:
        with torch.no_grad():
            for parameter, change in zip(model.parameters(), KEPT, strict=True):
                parameter += change * num_steps / 2
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        if KEPT and step < num_steps - 1:
            total_tokens += batch.numel()
            continue
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    if not KEPT:
        KEPT.extend(after.detach() - before for after, before in zip(model.parameters(), start, strict=True))
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
