"""Its dataclass loops for ever when it is made.

Expected: timeout
Hparams: {"evaluation": {"timeout_seconds": 6}}
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass
class Outcome:
    final_logits: torch.Tensor
    total_tokens: int
    final_loss: float

    def __post_init__(self):
        while self.total_tokens > 2000:
            pass


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
    return Outcome(logits.detach(), total_tokens, loss.item())
