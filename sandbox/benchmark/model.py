"""The model that is trained: a plain decoder-only transformer, written to be read, not to be fast.

Speed is the submissions' business. Everything here is ordinary eager PyTorch: RMSNorm, rotary positions computed in
every forward, attention with its whole score matrix, SwiGLU, tied embeddings, no biases, no dropout, no buffers.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPSILON = 1e-6
ROTARY_BASE = 10_000.0
INITIAL_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of the model; the same fields as the hparams' `model` section."""

    vocab_size: int
    layers: int
    width: int
    heads: int
    hidden: int
    initial_seed: int


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * weight, in float32 (Zhang and Sennrich, 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(dim=-1, keepdim=True) + NORM_EPSILON)
        return (y * self.weight).type_as(x)


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        size = width // self.heads
        q, k, v = (
            projection(x).view(batch, length, self.heads, size).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        cosine, sine = rotary_tables(length, size, x.device)
        q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
        scores = q @ k.transpose(-2, -1) / math.sqrt(size)
        future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        weights = F.softmax(scores.masked_fill(future, float("-inf")), dim=-1)
        mixed = weights.to(v.dtype) @ v
        out: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, length, width))
        return out


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)) (Shazeer, 2020)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return out


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width)
        self.attention = Attention(config.width, config.heads)
        self.feed_forward_norm = RMSNorm(config.width)
        self.feed_forward = FeedForward(config.width, config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        out: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return out


class Decoder(nn.Module):
    """Token ids (batch, length) int64 -> logits (batch, length, vocab)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width)

    def forward(self, input_ids: Tensor) -> Tensor:
        x: Tensor = self.embedding(input_ids)
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.embedding.weight)


def build_model(config: ModelConfig, device: torch.device) -> Decoder:
    """The model with its public initial weights: equal on every machine, because they are drawn on the CPU.

    Matrices are normal with standard deviation 0.02; those that write into the residual stream are divided by
    sqrt(2 * layers) (Radford et al., 2019). Norm weights are 1.
    """
    with torch.device("meta"):
        model = Decoder(config)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(config.initial_seed)
    residual_std = INITIAL_STD / math.sqrt(2 * config.layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0)
            else:
                std = residual_std if name.endswith(("output.weight", "down.weight")) else INITIAL_STD
                parameter.normal_(std=std, generator=generator)
    return model.to(device)


def rotary_tables(length: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (length, size / 2), float32, of position times frequency (Su et al., 2021)."""
    frequencies = ROTARY_BASE ** (-torch.arange(0, size, 2, device=device, dtype=torch.float32) / size)
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate each pair (first half, second half) of the last dimension by its position's angle."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1).type_as(x)
