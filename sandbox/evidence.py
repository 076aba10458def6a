"""What a nonce picks of a trained model: logit rows, probe logits, and random projections of every tensor.

Runs inside the sandbox, for candidate and reference alike. It decides nothing: it only computes what true training
alone can make right, and the verifier, elsewhere, compares.
"""

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from sandbox.benchmark import model
from sandbox.benchmark.model import ModelConfig


def _copy(module: ModuleType) -> ModuleType:
    """The module run once more, with classes of its own: a submission may replace methods on those of the first."""
    spec = module.__spec__
    assert spec is not None
    assert spec.loader is not None
    copied = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copied)
    return copied


_PRISTINE = _copy(model)
"""Made before any submission is imported."""


@dataclass(frozen=True, kw_only=True)
class EvidenceConfig:
    """How much is revealed; the same fields as the hparams' `evidence` section."""

    logit_positions: int
    probe_positions: int
    sketch_rows: int
    sketch_columns: int


def generator(nonce: bytes, purpose: str) -> np.random.Generator:
    """Random numbers that nobody knows before the nonce; one independent stream per purpose."""
    digest = hashlib.sha256(nonce + purpose.encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


def picked_logits(logits: Tensor, count: int, nonce: bytes) -> Tensor:
    """Rows (count, vocab) float32 on the CPU of logits (batch, length, vocab), at places drawn with replacement."""
    random = generator(nonce, "logits")
    rows = torch.from_numpy(random.integers(0, logits.shape[0], size=count)).to(logits.device)
    columns = torch.from_numpy(random.integers(0, logits.shape[1], size=count)).to(logits.device)
    return logits[rows, columns].float().cpu()


def probe_logits(
    config: ModelConfig, parameters: dict[str, Tensor], *, length: int, count: int, nonce: bytes, device: torch.device
) -> Tensor:
    """Rows (count, vocab) float32 of the logits of `parameters` on one secret sequence of `length` random tokens.

    The parameters are put into a pristine model: whatever a submission did to its own model's forward (a captured
    graph, static shapes, methods replaced on its classes) neither helps nor hurts it here.
    """
    random = generator(nonce, "probe")
    tokens = torch.from_numpy(random.integers(0, config.vocab_size, size=(1, length))).to(device)
    places = torch.from_numpy(random.integers(0, length, size=count)).to(device)
    with torch.device("meta"):
        pristine = _PRISTINE.Decoder(config)
    enabled = device.type == "cuda"
    with torch.no_grad(), torch.autocast(device_type=device.type, dtype=torch.bfloat16, enabled=enabled):
        logits: Tensor = functional_call(pristine, parameters, (tokens,))
    return logits[0, places].float().cpu()


def sketch(parameters: Sequence[Tensor], *, rows: int, columns: int, nonce: bytes) -> Tensor:
    """Random projections of every tensor, concatenated: float64 (s,), on the CPU.

    Each tensor W (r x c; a vector is r x 1) gives U' W V, with V (c x columns) random signs and U (r x rows) one random
    sign per row of W in a random column: a two-sided sketch that is linear in W and keeps its Frobenius norm in
    expectation, with relative error near sqrt(2 / (rows * columns)) (Charikar et al., 2002; Achlioptas, 2003).
    Linear means that sketches can be subtracted: S(a) - S(b) = S(a - b).
    """
    random = generator(nonce, "sketch")
    parts = []
    with torch.no_grad():
        for parameter in parameters:
            matrix = parameter.detach().reshape(parameter.shape[0], -1).double()
            width = min(columns, matrix.shape[1])
            signs = random.integers(0, 2, size=(matrix.shape[1], width)) * 2.0 - 1.0
            buckets = random.integers(0, rows, size=matrix.shape[0])
            row_signs = random.integers(0, 2, size=(matrix.shape[0], 1)) * 2.0 - 1.0
            device = matrix.device
            projected = (matrix @ torch.from_numpy(signs).to(device)) * torch.from_numpy(row_signs).to(device)
            sums = torch.zeros(rows, width, dtype=torch.float64, device=device)
            sums.index_add_(0, torch.from_numpy(buckets).to(device), projected)
            parts.append(sums.flatten() / width**0.5)
    return torch.cat(parts).cpu()
