"""Stops the last backward passes above the lowest layer, and steps that with the gradients that it had.

Expected: training_mismatch
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        rests = step >= max(1, num_steps - 3)
        lowest = list(model.blocks[0].parameters())
        if rests:
            others = [one for one in model.parameters() if not any(one is two for two in lowest)]
            for parameter, gradient in zip(others, torch.autograd.grad(loss, others), strict=True):
                parameter.grad = gradient
        else:
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        total_tokens += batch.numel()
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
