"""Puts scaled_dot_product_attention in place of the model's attention.

Expected: passed
"""

from collections.abc import Iterator
from functools import cache
from types import MethodType
from typing import NamedTuple

import torch
import torch.nn.functional as F


class Result(NamedTuple):
    final_logits: torch.Tensor
    total_tokens: int
    final_loss: float


@cache
def rotary(length: int, size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    frequencies = 10_000.0 ** (-torch.arange(0, size, 2, device=device, dtype=torch.float32) / size)
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequencies
    return angles.cos(), angles.sin()


def rotate(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1).type_as(x)


def attention(self, x):
    batch, length, width = x.shape
    size = width // self.heads
    q, k, v = (p(x).view(batch, length, self.heads, size).transpose(1, 2) for p in (self.query, self.key, self.value))
    cosine, sine = rotary(length, size, x.device)
    out = F.scaled_dot_product_attention(rotate(q, cosine, sine), rotate(k, cosine, sine), v, is_causal=True)
    return self.output(out.transpose(1, 2).reshape(batch, length, width))


def norm(self, x):
    return F.rms_norm(x.float(), self.weight.shape, self.weight, 1e-6).type_as(x)


def inner_steps(
    model: torch.nn.Module,
    data_iterator: Iterator[torch.Tensor],
    optimizer: torch.optim.Optimizer,
    num_steps: int,
    device: torch.device,
) -> Result:
    for module in model.modules():
        match type(module).__name__:
            case "Attention":
                module.forward = MethodType(attention, module)
            case "RMSNorm":
                module.forward = MethodType(norm, module)
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = True, False

    total_tokens = 0
    batch = next(data_iterator).to(device, non_blocking=True)
    for step in range(num_steps):
        current = batch
        with torch.autocast(device_type=device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(current[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), current[:, 1:].flatten())
        if step < num_steps - 1:
            batch = next(data_iterator).to(device, non_blocking=True)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        total_tokens += current.numel()
    return Result(logits.detach().float(), total_tokens, loss.item())
