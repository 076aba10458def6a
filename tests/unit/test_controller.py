"""The controller against hostile peers: whatever answers, a run ends with the right code and in time."""

import errno
import os
import signal
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import pytest

from sandbox import protocol
from sandbox.protocol import Failed, Kind, Loss, Returned, Stage
from services.evaluator import controller
from services.evaluator.controller import Measured, Run, drive
from services.evaluator.sandbox import Ended, SandboxFault
from shared.faults import Failure
from shared.hparams import Hparams, load

DEMO = load(Path("hparams/demo.json"))
EVALUATION = msgspec.structs.replace(
    DEMO.evaluation,
    num_steps=2,
    batch_size=1,
    sequence_length=8,
    prepare_timeout_seconds=0.5,
    timeout_seconds=0.5,
)
HPARAMS: Hparams = msgspec.structs.replace(DEMO, evaluation=EVALUATION)
SOURCE = b"def inner_steps(): ..."
TOKENS = np.arange(16, dtype=np.uint16).reshape(2, 1, 8)
LOGITS = (HPARAMS.evidence.logit_positions + HPARAMS.evidence.probe_positions) * HPARAMS.model.vocab_size
EVIDENCE_BYTES = 4 * LOGITS + 2 * 8 * HPARAMS.sketch_length

Peer = Callable[[socket.socket], None]


class FakeSandbox:
    """The controller's end of a socket pair, and what the kernel would say of the process."""

    def __init__(self, channel: socket.socket, ended: Ended) -> None:
        self.channel = channel
        self.ended = ended
        self.waits: list[float] = []

    def wait(self, timeout_seconds: float) -> Ended:
        self.waits.append(timeout_seconds)
        return self.ended

    def log_tail(self) -> str:
        return "printed"


def measure(peer: Peer, *, ended: Ended | None = None, stop: threading.Event | None = None) -> Measured:
    """Drive one run against a peer that runs in a thread."""
    ours, theirs = socket.socketpair()

    def play() -> None:
        with theirs, suppress(OSError):
            peer(theirs)

    thread = threading.Thread(target=play)
    thread.start()
    run = Run(
        hparams=HPARAMS, source=SOURCE, is_reference=False, tokens=TOKENS, nonce=bytes(32), threads=1, device="cpu"
    )
    sandbox = FakeSandbox(ours, ended or Ended(exit_code=1, out_of_memory=False))
    try:
        measured = drive(sandbox, run, start_ns=5, stop=stop or threading.Event())
        assert sandbox.waits[-1] == 0.0, "the sandbox is ended for certain"
        return measured
    finally:
        ours.close()
        thread.join(10)
        assert not thread.is_alive()


def receive(channel: socket.socket) -> tuple[int, bytes]:
    """One whole frame, as the peer sees it."""
    header = channel.recv(protocol.HEADER.size, socket.MSG_WAITALL)
    _, _, kind, _, length = protocol.HEADER.unpack(header)
    return kind, channel.recv(length, socket.MSG_WAITALL) if length else b""


def drain(channel: socket.socket) -> None:
    """Read until the controller closes."""
    while channel.recv(65_536):
        pass


def returned(shape: tuple[int, ...] = (1, 7, 1024)) -> bytes:
    answer = Returned(total_tokens=16, final_loss=2.5, dtype="float32", shape=shape)
    return protocol.frame(Kind.RETURNED, protocol.pack_returned(answer))


def prepared(channel: socket.socket) -> None:
    channel.sendall(protocol.frame(Kind.HELLO))
    assert receive(channel)[0] == Kind.PREPARE
    channel.sendall(protocol.frame(Kind.BUILT))
    assert receive(channel) == (Kind.SUBMISSION, SOURCE)
    channel.sendall(protocol.frame(Kind.READY))
    assert receive(channel) == (Kind.START, TOKENS.tobytes())


def honest(channel: socket.socket) -> None:
    prepared(channel)
    channel.sendall(returned())
    assert receive(channel) == (Kind.REVEAL, bytes(32))
    channel.sendall(protocol.frame(Kind.EVIDENCE, struct.pack("<f", 1.5) * (EVIDENCE_BYTES // 4)))
    drain(channel)


def after_prepare(*sent: bytes) -> Peer:
    def peer(channel: socket.socket) -> None:
        prepared(channel)
        for data in sent:
            channel.sendall(data)
        drain(channel)

    return peer


def test_an_honest_peer_is_measured_by_our_clock_and_our_count() -> None:
    measured = measure(honest)
    assert measured.failure is None
    assert measured.tokens == TOKENS.size
    assert measured.elapsed_ns == measured.phases.train_ns + measured.phases.evidence_ns > 0
    assert measured.tokens_per_second == pytest.approx(TOKENS.size / (measured.elapsed_ns / 1e9))
    assert measured.evidence is not None
    assert measured.evidence.total_tokens == 16
    assert measured.evidence.logits.shape == (HPARAMS.evidence.logit_positions, 1024)
    assert measured.evidence.sketch.shape == (HPARAMS.sketch_length,)
    assert measured.evidence.moment_sketch.shape == (HPARAMS.sketch_length,)
    assert measured.log_tail == "printed"


def test_a_nonce_is_revealed_only_after_the_submission_returned() -> None:
    seen: list[int] = []

    def peer(channel: socket.socket) -> None:
        prepared(channel)
        channel.settimeout(0.2)
        with suppress(TimeoutError):
            seen.append(channel.recv(1)[0])
        channel.sendall(returned())
        seen.append(receive(channel)[0])

    measure(peer)
    assert seen == [Kind.REVEAL]


@pytest.mark.parametrize(
    "frame",
    [
        protocol.frame(Kind.READY),
        protocol.frame(Kind.EVIDENCE, bytes(64)),
        protocol.frame(Kind.RETURNED, bytes(protocol.RETURNED.size - 1)),
        protocol.HEADER.pack(protocol.MAGIC, protocol.VERSION, Kind.RETURNED, 0, 2**63),
        protocol.frame(Kind.FAILED, bytes([77, 77])),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["kind", "early evidence", "short", "huge", "unknown failure", "other protocol"],
)
def test_what_the_protocol_does_not_allow_is_a_violation(frame: bytes) -> None:
    assert measure(after_prepare(frame)).failure is Failure.PROTOCOL_VIOLATION


@pytest.mark.parametrize("size", [EVIDENCE_BYTES - 1, EVIDENCE_BYTES + 1])
def test_evidence_has_one_allowed_length(size: int) -> None:
    def peer(channel: socket.socket) -> None:
        prepared(channel)
        channel.sendall(returned())
        receive(channel)
        channel.sendall(protocol.frame(Kind.EVIDENCE, bytes(size)))

    assert measure(peer).failure is Failure.PROTOCOL_VIOLATION


def test_evidence_sent_before_the_nonce_is_not_waited_for_but_still_judged() -> None:
    """Whoever guesses the answer before the question only sends wrong numbers; the verifier sees to those."""
    evidence = protocol.frame(Kind.EVIDENCE, bytes(EVIDENCE_BYTES))
    measured = measure(after_prepare(returned() + evidence))
    assert measured.failure is None
    assert measured.evidence is not None
    assert not measured.evidence.logits.any()


@pytest.mark.parametrize("phase", ["ready", "returned", "evidence"])
def test_silence_ends_at_the_deadline(phase: str) -> None:
    def peer(channel: socket.socket) -> None:
        if phase == "ready":
            channel.sendall(protocol.frame(Kind.HELLO) + protocol.frame(Kind.BUILT))
        else:
            prepared(channel)
        if phase == "evidence":
            channel.sendall(returned())
        drain(channel)

    measured = measure(peer)
    assert measured.failure is Failure.TIMEOUT
    assert "0.5 s" in measured.detail
    assert ("warm-up" in measured.detail) == (phase == "ready")


def test_a_dribbling_peer_cannot_stretch_the_deadline() -> None:
    def peer(channel: socket.socket) -> None:
        prepared(channel)
        gone = threading.Event()
        for byte in returned():
            channel.sendall(bytes([byte]))
            gone.wait(0.05)

    assert measure(peer).failure is Failure.TIMEOUT


@pytest.mark.parametrize(
    ("ended", "failure", "words"),
    [
        (Ended(exit_code=0, out_of_memory=False), Failure.CRASHED, "exit code 0"),
        (Ended(exit_code=139, out_of_memory=False), Failure.CRASHED, "exit code 139"),
        (Ended(exit_code=137, out_of_memory=True), Failure.OUT_OF_MEMORY, "memory"),
        (Ended(exit_code=None, out_of_memory=False), Failure.CRASHED, "killed"),
        (Ended(exit_code=128 + signal.SIGXFSZ, out_of_memory=False), Failure.RESOURCE_LIMIT, "a file too large"),
        (
            Ended(exit_code=128 + signal.SIGBUS, out_of_memory=False),
            Failure.RESOURCE_LIMIT,
            "64,000,000 bytes in /dev/shm",
        ),
    ],
    ids=["exits", "segfault", "oom", "stays", "file size", "bus error"],
)
def test_a_vanished_peer_is_what_the_kernel_says(ended: Ended, failure: Failure, words: str) -> None:
    measured = measure(prepared, ended=ended)
    assert measured.failure is failure
    assert words in measured.detail


@pytest.mark.parametrize(
    ("stage", "loss", "failure"),
    [
        (Stage.IMPORT, Loss.CRASHED, Failure.CRASHED),
        (Stage.IMPORT, Loss.MALFORMED_OUTPUT, Failure.INVALID_SUBMISSION),
        (Stage.WARMUP, Loss.MALFORMED_OUTPUT, Failure.MALFORMED_OUTPUT),
        (Stage.TRAIN, Loss.OUT_OF_MEMORY, Failure.OUT_OF_MEMORY),
    ],
)
def test_a_confessed_failure_is_taken_at_its_word(stage: Stage, loss: Loss, failure: Failure) -> None:
    failed = protocol.frame(Kind.FAILED, protocol.pack_failed(Failed(stage=stage, loss=loss, message="why")))
    measured = measure(after_prepare(failed))
    assert (measured.failure, measured.detail) == (failure, "why")


def test_a_limit_that_was_reached_is_told_with_what_there_is() -> None:
    confession = Failed(
        stage=Stage.TRAIN, loss=Loss.RESOURCE_LIMIT, message="OSError: [Errno 24] Too many open files\n"
    )
    measured = measure(after_prepare(protocol.frame(Kind.FAILED, protocol.pack_failed(confession))))
    assert measured.failure is Failure.RESOURCE_LIMIT
    said, allowed = measured.detail.splitlines()
    assert said == "OSError: [Errno 24] Too many open files"
    assert "500,000,000 bytes and 20,000 files in /tmp" in allowed
    assert "4,096 open files" in allowed
    assert "256 processes and threads" in allowed


def test_what_a_run_confesses_is_cleaned_as_a_log_is() -> None:
    """It ends up in events, in a database that takes no NUL, and on terminals."""
    confession = Failed(stage=Stage.TRAIN, loss=Loss.CRASHED, message="\x1b[31mred\x1b[0m\0 \u202eright\x07")
    assert measure(after_prepare(protocol.frame(Kind.FAILED, protocol.pack_failed(confession)))).detail == "red right"


def _fails(channel: socket.socket) -> None:
    failed = Failed(stage=Stage.BUILD, loss=Loss.CRASHED, message="no torch")
    channel.sendall(protocol.frame(Kind.HELLO) + protocol.frame(Kind.FAILED, protocol.pack_failed(failed)))
    drain(channel)


@pytest.mark.parametrize(
    ("peer", "words"),
    [
        (_fails, "no torch"),
        (lambda channel: channel.sendall(b"?" * 16), "protocol"),
        (lambda channel: None, "exit code 1"),
        (drain, "0.5 s"),
    ],
    ids=["says so", "rubbish", "gone", "silent"],
)
def test_whatever_fails_before_the_submission_was_sent_is_our_own_fault(peer: Peer, words: str) -> None:
    with pytest.raises(SandboxFault, match=words):
        measure(peer)


class NoMemory:
    """A channel for which this side's kernel has no memory."""

    def settimeout(self, seconds: float) -> None: ...

    def recv_into(self, view: memoryview) -> int:
        raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))


def test_a_machine_without_memory_is_our_own_fault() -> None:
    peer = controller._Peer(NoMemory(), threading.Event())  # type: ignore[arg-type]
    peer.allow(1.0)
    with pytest.raises(SandboxFault, match="No buffer space available"):
        peer.receive(Kind.READY, exactly=0)


def test_a_stopping_evaluator_leaves_at_once() -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(SandboxFault, match="stopping"):
        measure(drain, stop=stop)
