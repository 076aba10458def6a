"""An evaluator's event loop goes on while a run is prepared in a thread: otherwise its lease would be lost."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sandbox.benchmark.tokens import Synthetic
from shared import evidence, streams
from shared.evidence import Evidence
from shared.hparams import Hparams, load

REAL = load(Path("hparams/hparams.json"))
DEMO = load(Path("hparams/demo.json"))
HEARTBEAT_SECONDS = streams.EVALUATE.ack_wait_seconds / 3
TICK_SECONDS = 0.01


def draw(parameters: Hparams) -> None:
    run = parameters.evaluation
    source = Synthetic(vocab_size=parameters.model.vocab_size)
    source.draw(7, steps=run.num_steps, batch=run.batch_size, length=run.sequence_length).astype("<u2").tobytes()


def encode(parameters: Hparams) -> None:
    run, revealed, vocab = parameters.evaluation, parameters.evidence, parameters.model.vocab_size
    sketch = np.ones(parameters.sketch_length)
    evidence.encode(
        Evidence(
            total_tokens=run.tokens,
            final_loss=1.0,
            logits_shape=(run.batch_size, run.sequence_length - 1, vocab),
            logits_dtype="float32",
            logits=np.ones((revealed.logit_positions, vocab), dtype=np.float32),
            probe_logits=np.ones((revealed.probe_positions, vocab), dtype=np.float32),
            sketch=sketch,
            moment_sketch=sketch,
            initial_sketch=sketch,
            previous_sketch=sketch,
        )
    )


async def longest_silence_seconds(work: Callable[[], None]) -> float:
    """The longest time in which the event loop did nothing while the work went on in a thread."""
    task = asyncio.create_task(asyncio.to_thread(work))
    longest, last = 0.0, time.monotonic()
    while not task.done():
        await asyncio.sleep(TICK_SECONDS)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    await task
    return longest


@pytest.mark.parametrize("parameters", [REAL, DEMO], ids=lambda parameters: parameters.name)
@pytest.mark.parametrize("work", [draw, encode])
async def test_a_heartbeat_is_never_late_by_another(work: Callable[[Hparams], None], parameters: Hparams) -> None:
    assert await longest_silence_seconds(lambda: work(parameters)) < HEARTBEAT_SECONDS
