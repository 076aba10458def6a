"""Replaces the norm layers by torch's own, on the same weights.

Expected: passed
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    for parent in [model, *model.blocks]:
        for name, child in list(parent.named_children()):
            if type(child).__name__ == "RMSNorm":
                norm = torch.nn.RMSNorm(child.weight.shape, eps=1e-6)
                norm.weight = child.weight
                setattr(parent, name, norm)
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
