"""Gives an object that says that its class is Tensor.

Expected: malformed_output
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F


class Lying:
    __class__ = torch.Tensor

    def __init__(self, logits):
        self.logits = logits

    def __getattr__(self, name):
        return getattr(self.logits, name)


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    return SimpleNamespace(final_logits=Lying(logits.detach()), total_tokens=total_tokens, final_loss=loss.item())
