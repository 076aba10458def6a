"""Trains the top layer alone, and hopes that it makes up for the frozen ones below.

Expected: training_mismatch
Alternatives: output_mismatch
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    model.blocks[:-1].requires_grad_(False)
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    model.requires_grad_(True)
    for parameter in model.parameters():
        optimizer.state[parameter].setdefault("exp_avg", torch.zeros_like(parameter))
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
