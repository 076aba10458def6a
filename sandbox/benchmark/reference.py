"""The reference: the plain loop that defines what a run must compute. It is also the slowest honest submission."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass
class InnerStepsResult:
    """What every inner_steps returns; any object with these three attributes will do."""

    final_logits: torch.Tensor
    """(batch, sequence - 1, vocab) float32: output of the last forward pass, before the last update."""
    total_tokens: int
    """Sum of batch.numel() over all batches."""
    final_loss: float
    """Loss of the last step."""


def inner_steps(
    model: torch.nn.Module,
    data_iterator: Iterator[torch.Tensor],
    optimizer: torch.optim.Optimizer,
    num_steps: int,
    device: torch.device,
) -> InnerStepsResult:
    """Train for num_steps batches of (batch, sequence) int64 tokens: next-token cross-entropy, bfloat16 on a GPU."""
    total_tokens = 0
    for _ in range(num_steps):
        batch = next(data_iterator).to(device)
        input_ids, labels = batch[:, :-1], batch[:, 1:]
        with torch.autocast(device_type=device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(input_ids)
            loss = F.cross_entropy(logits.reshape(-1, logits.size(-1)), labels.reshape(-1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    return InnerStepsResult(final_logits=logits.detach().float(), total_tokens=total_tokens, final_loss=loss.item())
