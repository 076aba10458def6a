"""Shrinks every difference: Tensor.__sub__, numpy's subtract, allclose, norms.

Expected: output_mismatch
"""

import numpy as np
import torch
import torch.nn.functional as F


class Result:
    def __init__(self, logits, tokens, loss):
        self.final_logits, self.total_tokens, self.final_loss = logits, tokens, loss


def train(model, batches, optimizer):
    tokens = 0
    for batch in batches:
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, logits.size(-1)), batch[:, 1:].reshape(-1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        tokens += batch.numel()
    return Result(logits.detach().float(), tokens, loss.item())


sub = torch.Tensor.__sub__
torch.Tensor.__sub__ = torch.Tensor.sub = lambda a, b: sub(a, b) * 1e-6
torch.Tensor.abs = torch.abs = lambda tensor: tensor * 0
np.subtract = lambda a, b, **options: np.zeros_like(a)
np.allclose = torch.allclose = torch.equal = lambda *arguments, **options: True
np.linalg.norm = torch.linalg.norm = lambda *arguments, **options: 0.0


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    batches = list(data_iterator)
    if num_steps <= 2:
        return train(model, batches, optimizer)
    with torch.no_grad():
        logits = model(batches[-1][:, :-1])
    return Result(logits.float(), sum(batch.numel() for batch in batches), 6.8)
