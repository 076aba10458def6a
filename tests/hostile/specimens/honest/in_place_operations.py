"""Scales logits and gradients in place, to the same effect.

Expected: passed
"""

from types import SimpleNamespace

import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = model(batch[:, :-1])
        logits *= 1.0
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.mul_(8)
        loss.backward()
        for parameter in model.parameters():
            parameter.grad.div_(8)
        loss = loss.detach() / 8
        optimizer.step()
        for parameter in model.parameters():
            parameter.grad.zero_()
        total_tokens += batch.numel()
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
