"""Computes the logits of the last batch, and trains on nothing.

Expected: training_mismatch
Alternatives: output_mismatch
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        if step < num_steps - 1:
            total_tokens += batch.numel()
            continue
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        total_tokens += batch.numel()
    for parameter in model.parameters():
        optimizer.state[parameter].setdefault("exp_avg", torch.zeros_like(parameter))
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
