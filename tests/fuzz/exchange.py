"""One run of the real controller against a peer made of given bytes, and what must hold whatever those are."""

import threading
import time
import unicodedata

import msgspec
import numpy as np

from sandbox import protocol
from sandbox.protocol import Kind, Returned
from services.evaluator import controller
from services.evaluator.controller import Measured, Run, drive
from services.evaluator.sandbox import Ended, SandboxFault
from shared.faults import Failure
from tests.support.tiny import TINY

_DEADLINE_SECONDS = 0.3
SLACK_SECONDS = 5.0
"""What a busy machine may add to a deadline."""
HPARAMS = msgspec.structs.replace(
    TINY,
    evaluation=msgspec.structs.replace(
        TINY.evaluation, prepare_timeout_seconds=_DEADLINE_SECONDS, timeout_seconds=_DEADLINE_SECONDS
    ),
)
SIZES = controller._evidence_sizes(HPARAMS, is_reference=False)
LARGEST_READ = max(sum(SIZES), protocol.FAILED_CAPS[1])
RUN = Run(
    hparams=HPARAMS,
    source=b"def inner_steps(): ...",
    is_reference=False,
    tokens=np.zeros((4, 1, 32), dtype=np.uint16),
    nonce=bytes(protocol.NONCE_BYTES),
    threads=1,
    device="cpu",
)
HONEST = (
    protocol.frame(Kind.HELLO),
    protocol.frame(Kind.BUILT),
    protocol.frame(Kind.READY),
    protocol.frame(
        Kind.RETURNED,
        protocol.pack_returned(Returned(total_tokens=128, final_loss=1.0, dtype="float32", shape=(1, 31, 64))),
    ),
    protocol.frame(Kind.EVIDENCE, bytes(sum(SIZES))),
)
"""What an honest runner sends in one run, frame by frame."""
OUTCOMES = {
    None,
    Failure.TIMEOUT,
    Failure.PROTOCOL_VIOLATION,
    Failure.OUT_OF_MEMORY,
    Failure.INVALID_SUBMISSION,
    Failure.MALFORMED_OUTPUT,
    Failure.RESOURCE_LIMIT,
    Failure.CRASHED,
}


class Scripted:
    """A channel whose peer has sent these bytes already, and closes after them. It notes the largest read."""

    def __init__(self, data: bytes, *, chunk: int = 2**30) -> None:
        self._data = memoryview(data)
        self._chunk = chunk
        self.largest = 0

    def settimeout(self, seconds: float) -> None:
        assert seconds >= 0

    def send(self, data: memoryview) -> int:
        return len(data)

    def recv_into(self, view: memoryview) -> int:
        self.largest = max(self.largest, len(view))
        count = min(len(view), len(self._data), self._chunk)
        view[:count] = self._data[:count]
        self._data = self._data[count:]
        return count


class Inside:
    """A sandbox that has ended by itself."""

    def __init__(self, channel: object) -> None:
        self.channel = channel

    def wait(self, timeout_seconds: float) -> Ended:
        return Ended(exit_code=0, out_of_memory=False)

    def log_tail(self) -> str:
        return ""


def outcome(channel: object) -> Measured | None:
    """How the run ended; None for the validator's own fault, which is only possible before the submission was sent.

    Raises:
        AssertionError: something that must hold did not.
    """
    began = time.monotonic()
    try:
        measured = drive(Inside(channel), RUN, start_ns=1, stop=threading.Event())  # type: ignore[arg-type]
    except SandboxFault:
        measured = None
    assert time.monotonic() - began < 2 * _DEADLINE_SECONDS + SLACK_SECONDS
    if measured is not None:
        assert measured.failure in OUTCOMES
        assert (measured.evidence is None) == (measured.failure is not None)
        assert len(measured.detail.encode()) <= protocol.MAX_MESSAGE_BYTES + 1000
        assert all(c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") for c in measured.detail)
        assert measured.tokens in (0, RUN.tokens.size)
    return measured


def scripted(data: bytes, *, chunk: int = 2**30) -> Measured | None:
    """The outcome against a peer of these bytes, with the bound on what is allocated for it."""
    channel = Scripted(data, chunk=chunk)
    measured = outcome(channel)
    assert channel.largest <= LARGEST_READ
    return measured
