"""Returns a NamedTuple of its own, with the fields in another order.

Expected: passed
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F


class Outcome(NamedTuple):
    total_tokens: int
    final_loss: float
    final_logits: torch.Tensor


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
    return Outcome(total_tokens, loss.item(), logits.detach())
