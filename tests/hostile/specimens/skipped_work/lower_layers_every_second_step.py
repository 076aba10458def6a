"""Trains the lowest layer on every second step only, at twice the rate.

Expected: training_mismatch
Alternatives: output_mismatch
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    lower = list(model.blocks[0].parameters())
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        for parameter in lower:
            parameter.requires_grad_(step % 2 == 1)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

        loss.backward()
        optimizer.step()
        if step % 2 == 1:
            with torch.no_grad():
                for parameter in lower:
                    moments = optimizer.state[parameter]
                    parameter -= 1e-4 * moments["exp_avg"] / (moments["exp_avg_sq"].sqrt() + 1e-8)
        optimizer.zero_grad()
        total_tokens += batch.numel()
    model.requires_grad_(True)
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
