"""The plain loop: what every submission is measured against. Copy it and make it faster."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass
class InnerStepsResult:
    final_logits: torch.Tensor  # Output from last forward pass
    total_tokens: int  # Total tokens processed
    final_loss: float  # Loss from last step


def inner_steps(
    model: torch.nn.Module,
    data_iterator: Iterator[torch.Tensor],
    optimizer: torch.optim.Optimizer,
    num_steps: int,
    device: torch.device,
) -> InnerStepsResult:
    """Execute num_steps training steps. Return results."""
    total_tokens = 0

    for _ in range(num_steps):
        batch = next(data_iterator)
        batch = batch.to(device)

        input_ids = batch[:, :-1]
        labels = batch[:, 1:]

        with torch.autocast(device_type=device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(input_ids)
            loss = F.cross_entropy(logits.reshape(-1, logits.size(-1)), labels.reshape(-1))

        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

        total_tokens += batch.numel()
        final_logits = logits.detach().float()
        final_loss = loss.item()

    return InnerStepsResult(final_logits=final_logits, total_tokens=total_tokens, final_loss=final_loss)
