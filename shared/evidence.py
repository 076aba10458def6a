"""What one run leaves behind to be judged: plain arrays in one npz file, never a pickle; of candidate or reference."""

import io
import zipfile
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.faults import PoisonMessage

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Revealed by the sandbox after the nonce. Hostile input until judged."""

    total_tokens: int
    """As the submission returned it."""
    final_loss: float
    """As the submission returned it."""
    logits_shape: tuple[int, ...]
    """Shape of the returned final_logits; (batch, sequence - 1, vocab) when right."""
    logits_dtype: str
    """Its dtype, "float32" when right."""
    logits: Float32
    """(logit_positions, vocab): the rows that the nonce picked."""
    probe_logits: Float32
    """(probe_positions, vocab): logits of the trained parameters on the secret probe batch, at picked rows."""
    sketch: Float64
    """(s,): random projections of every trained tensor, concatenated in the order of the model's parameters."""
    moment_sketch: Float64
    """(s,): the same projections of AdamW's first moments."""
    initial_sketch: Float64 | None = None
    """(s,): those of the initial parameters. Reference only."""
    previous_sketch: Float64 | None = None
    """(s,): those of the parameters just before the last step. Reference only."""


def encode(evidence: Evidence) -> bytes:
    """Deterministic npz bytes."""
    arrays: dict[str, npt.NDArray[np.generic]] = {
        "total_tokens": np.array(evidence.total_tokens, dtype=np.int64),
        "final_loss": np.array(evidence.final_loss, dtype=np.float64),
        "logits_shape": np.array(evidence.logits_shape, dtype=np.int64),
        "logits_dtype": np.array(evidence.logits_dtype),
        "logits": evidence.logits,
        "probe_logits": evidence.probe_logits,
        "sketch": evidence.sketch,
        "moment_sketch": evidence.moment_sketch,
    }
    for name in ("initial_sketch", "previous_sketch"):
        value = getattr(evidence, name)
        if value is not None:
            arrays[name] = value
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def decode(content: bytes) -> Evidence:
    """Read what `encode` wrote.

    Raises:
        PoisonMessage: the bytes are no such file. The controller wrote it, so this is corruption, not a miner's fault.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            optional = {
                name: arrays[name].astype(np.float64, copy=False)
                for name in ("initial_sketch", "previous_sketch")
                if name in arrays
            }
            return Evidence(
                total_tokens=int(arrays["total_tokens"]),
                final_loss=float(arrays["final_loss"]),
                logits_shape=tuple(int(size) for size in arrays["logits_shape"]),
                logits_dtype=str(arrays["logits_dtype"]),
                logits=arrays["logits"].astype(np.float32, copy=False),
                probe_logits=arrays["probe_logits"].astype(np.float32, copy=False),
                sketch=arrays["sketch"].astype(np.float64, copy=False),
                moment_sketch=arrays["moment_sketch"].astype(np.float64, copy=False),
                **optional,
            )
    except (ValueError, KeyError, OSError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise PoisonMessage(f"not an evidence file: {error}") from error
