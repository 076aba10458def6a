"""Applies each gradient one step late, so that steps could overlap; the last one is applied at the end.

Expected: training_mismatch
Alternatives: output_mismatch
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    pending = None
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

        gradients = torch.autograd.grad(loss, list(model.parameters()))
        for parameter, gradient in zip(model.parameters(), pending or (), strict=False):
            parameter.grad = gradient
        if pending:
            optimizer.step()
        pending = gradients
        total_tokens += batch.numel()
    for parameter, gradient in zip(model.parameters(), pending, strict=True):
        parameter.grad = gradient
    optimizer.step()
    optimizer.zero_grad()
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
