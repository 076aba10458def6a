"""A small competition, evidence of its reference, and changed copies of it."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from shared import hparams
from shared.evidence import Evidence
from shared.hparams import load

DEMO = load(Path(__file__).parents[2] / "hparams" / "demo.json")
EXPECTED = msgspec.structs.replace(
    DEMO,
    model=hparams.Model(vocab_size=32, layers=1, width=8, heads=2, hidden=16, initial_seed=3),
    evidence=hparams.Evidence(logit_positions=6, probe_positions=4, sketch_rows=8, sketch_columns=4),
)
TOKENS = EXPECTED.evaluation.tokens

RANDOM = np.random.default_rng(1)
INITIAL = RANDOM.normal(size=EXPECTED.sketch_length)
PREVIOUS = INITIAL + RANDOM.normal(size=EXPECTED.sketch_length) * 0.1
LAST_STEP = RANDOM.normal(size=EXPECTED.sketch_length) * 0.01
REFERENCE = Evidence(
    total_tokens=TOKENS,
    final_loss=4.0,
    logits_shape=(2, 255, 32),
    logits_dtype="float32",
    logits=RANDOM.normal(size=(6, 32)).astype(np.float32),
    probe_logits=RANDOM.normal(size=(4, 32)).astype(np.float32),
    sketch=PREVIOUS + LAST_STEP,
    moment_sketch=RANDOM.normal(size=EXPECTED.sketch_length),
    initial_sketch=INITIAL,
    previous_sketch=PREVIOUS,
)


def altered(evidence: Evidence = REFERENCE, **changes: Any) -> Evidence:
    """A copy with some fields replaced."""
    fields = {name: getattr(evidence, name) for name in Evidence.__dataclass_fields__}
    return Evidence(**fields | changes)
