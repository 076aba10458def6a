"""Drives one run over its channel, and holds the clock. It believes nothing that arrives.

Time, tokens, seed and nonce are the controller's own. The peer's frames are parsed as hostile input, each with its cap
and its deadline. A run ends as `Measured`: with evidence to be judged elsewhere, or with the failure code of what the
submission did. What is the validator's own fault raises SandboxFault instead.
"""

import errno
import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sandbox import protocol
from sandbox.protocol import ChannelClosed, Failed, Kind, Loss, ProtocolViolation, Returned, Stage
from services.evaluator import interior
from services.evaluator.log_tail import clean
from services.evaluator.sandbox import SIGNAL_EXIT_CODES, Ended, Sandbox, SandboxFault
from shared.events import Gpu, Phases
from shared.evidence import Evidence
from shared.faults import Failure
from shared.hparams import Hparams

END_SECONDS = 5.0
"""How long a sandbox whose channel closed may take to end by itself."""
POLL_SECONDS = 0.25
"""How often a blocked read looks whether the evaluator is stopping."""

Clock = Callable[[], int]
"""Monotonic nanoseconds."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything one run needs."""

    hparams: Hparams
    source: bytes
    is_reference: bool
    tokens: npt.NDArray[np.uint16]
    """(steps, batch, sequence): fresh, drawn by the controller."""
    nonce: bytes
    threads: int
    device: str
    """"cuda" or "cpu"."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """How one run ended."""

    failure: Failure | None
    detail: str
    tokens: int
    """Tokens handed out; 0 when the timed region never began."""
    elapsed_ns: int
    phases: Phases
    evidence: Evidence | None
    log_tail: str = ""
    began_ns: int = 0
    """When the timed region began, on the controller's clock; 0 when it never did."""
    gpu: Gpu | None = None
    """What the driver said meanwhile; added by whoever watched it."""

    @property
    def tokens_per_second(self) -> float:
        """0.0 for a run without evidence."""
        return 0.0 if self.evidence is None else self.tokens / (self.elapsed_ns / 1e9)


class _Deadline(Exception):
    """The peer did not answer in time."""


class _Lost(Exception):
    """The runner said that the run is lost."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.message)
        self.failed = failed


@dataclass
class _Progress:
    """What is known so far, so that a run which fails halfway still reports its times."""

    submitted: bool = False
    """Whether the submission was sent. Until then every failure is the validator's own."""
    began_ns: int = 0
    prepare_ns: int = 0
    train_ns: int = 0
    evidence_ns: int = 0
    tokens: int = 0


def drive(
    sandbox: Sandbox, run: Run, *, start_ns: int, clock: Clock = time.perf_counter_ns, stop: threading.Event
) -> Measured:
    """Take an open sandbox through one run. `start_ns` is how long opening it took.

    Raises:
        SandboxFault: the evaluator is stopping, or the sandbox failed before the submission was sent to it.
    """
    progress = _Progress()
    evidence: Evidence | None = None
    failure: Failure | None = None
    detail = ""
    try:
        evidence = _exchange(_Peer(sandbox.channel, stop), run, progress, clock)
    except _Deadline:
        failure, detail = Failure.TIMEOUT, _timeout_detail(run.hparams, progress)
    except ProtocolViolation as error:
        failure, detail = Failure.PROTOCOL_VIOLATION, f"the sandbox answered outside the protocol: {error}"
    except _Lost as lost:
        failure, detail = _classify(lost.failed, run.hparams)
    except ChannelClosed:
        failure, detail = _ended(sandbox.wait(END_SECONDS), run.hparams)
    sandbox.wait(0.0)
    if failure is not None and not progress.submitted:
        raise SandboxFault(f"the sandbox failed before the submission was sent to it: {detail}\n{sandbox.log_tail()}")
    return Measured(
        failure=failure,
        detail=detail,
        tokens=progress.tokens,
        elapsed_ns=progress.train_ns + progress.evidence_ns,
        phases=Phases(
            start_ns=start_ns,
            prepare_ns=progress.prepare_ns,
            train_ns=progress.train_ns,
            evidence_ns=progress.evidence_ns,
        ),
        evidence=evidence,
        log_tail=sandbox.log_tail(),
        began_ns=progress.began_ns,
    )


def _exchange(peer: "_Peer", run: Run, progress: _Progress, clock: Clock) -> Evidence:
    hparams, evaluation = run.hparams, run.hparams.evaluation
    job = protocol.frame(Kind.PREPARE, json.dumps(_job(run)).encode())
    start = protocol.frame(Kind.START, run.tokens.astype("<u2").tobytes())
    reveal = protocol.frame(Kind.REVEAL, run.nonce)
    sizes = _evidence_sizes(hparams, is_reference=run.is_reference)

    began = clock()
    peer.allow(evaluation.prepare_timeout_seconds)
    peer.receive(Kind.HELLO, exactly=0)
    peer.send(job)
    peer.receive(Kind.BUILT, exactly=0)
    progress.submitted = True
    peer.send(protocol.frame(Kind.SUBMISSION, run.source))
    peer.receive(Kind.READY, exactly=0)
    progress.prepare_ns = clock() - began

    progress.tokens = run.tokens.size
    peer.allow(evaluation.timeout_seconds)
    progress.began_ns = clock()
    peer.send(start)
    returned = protocol.unpack_returned(peer.receive(Kind.RETURNED, exactly=protocol.RETURNED.size))
    returned_at = clock()
    progress.train_ns = returned_at - progress.began_ns
    peer.send(reveal)
    payload = peer.receive(Kind.EVIDENCE, exactly=sum(sizes))
    progress.evidence_ns = clock() - returned_at
    return _evidence(payload, sizes, returned, hparams)


class _Peer:
    """The hostile end of the channel: framed, capped, and never waited for beyond the deadline."""

    def __init__(self, channel: socket.socket, stop: threading.Event) -> None:
        self._channel = channel
        self._stop = stop
        self._deadline = 0.0

    def allow(self, seconds: float) -> None:
        """Everything from now on must be done within so many seconds."""
        self._deadline = time.monotonic() + seconds

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._channel.settimeout(self._patience())
            try:
                view = view[self._channel.send(view) :]
            except TimeoutError:
                continue
            except OSError as error:
                raise _broken(error) from error

    def receive(self, kind: Kind, *, exactly: int) -> bytearray:
        """The payload of the next frame, which must be of this kind and length, or FAILED."""
        received, payload = protocol.read_frame(
            self._read, {kind: (exactly, exactly), Kind.FAILED: protocol.FAILED_CAPS}
        )
        if received is Kind.FAILED:
            raise _Lost(protocol.unpack_failed(payload))
        return payload

    def _read(self, count: int) -> bytearray:
        buffer = bytearray(count)
        view = memoryview(buffer)
        while view:
            self._channel.settimeout(self._patience())
            try:
                received = self._channel.recv_into(view)
            except TimeoutError:
                continue
            except OSError as error:
                raise _broken(error) from error
            if received == 0:
                raise ChannelClosed
            view = view[received:]
        return buffer

    def _patience(self) -> float:
        if self._stop.is_set():
            raise SandboxFault("the evaluator is stopping")
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise _Deadline
        return min(left, POLL_SECONDS)


def _broken(error: OSError) -> ChannelClosed | SandboxFault:
    """The peer can break the connection, but it cannot use up the memory of this side."""
    if error.errno in (errno.ENOMEM, errno.ENOBUFS):
        return SandboxFault(f"the channel cannot be used: {error}")
    return ChannelClosed()


def _job(run: Run) -> dict[str, object]:
    model, optimizer, evaluation, evidence = (
        run.hparams.model,
        run.hparams.optimizer,
        run.hparams.evaluation,
        run.hparams.evidence,
    )
    return {
        "model": {
            "vocab_size": model.vocab_size,
            "layers": model.layers,
            "width": model.width,
            "heads": model.heads,
            "hidden": model.hidden,
            "initial_seed": model.initial_seed,
        },
        "optimizer": {
            "lr": optimizer.learning_rate,
            "betas": optimizer.betas,
            "eps": optimizer.epsilon,
            "weight_decay": optimizer.weight_decay,
        },
        "evidence": {
            "logit_positions": evidence.logit_positions,
            "probe_positions": evidence.probe_positions,
            "sketch_rows": evidence.sketch_rows,
            "sketch_columns": evidence.sketch_columns,
        },
        "num_steps": evaluation.num_steps,
        "batch_size": evaluation.batch_size,
        "sequence_length": evaluation.sequence_length,
        "warmup_steps": evaluation.warmup_steps,
        "threads": run.threads,
        "device": run.device,
        "is_reference": run.is_reference,
    }


def _evidence_sizes(hparams: Hparams, *, is_reference: bool) -> list[int]:
    """Bytes of each part of the EVIDENCE payload: known beforehand, so the frame has one allowed length."""
    vocab, config = hparams.model.vocab_size, hparams.evidence
    sketch = 8 * hparams.sketch_length
    return [
        4 * config.logit_positions * vocab,
        4 * config.probe_positions * vocab,
        *([sketch] * (4 if is_reference else 2)),
    ]


def _evidence(payload: bytearray, sizes: list[int], returned: Returned, hparams: Hparams) -> Evidence:
    parts, offset = [], 0
    for size in sizes:
        parts.append(memoryview(payload)[offset : offset + size])
        offset += size
    sketches = [np.frombuffer(part, dtype="<f8") for part in parts[2:]]
    return Evidence(
        total_tokens=returned.total_tokens,
        final_loss=returned.final_loss,
        logits_shape=returned.shape,
        logits_dtype=returned.dtype,
        logits=np.frombuffer(parts[0], dtype="<f4").reshape(-1, hparams.model.vocab_size),
        probe_logits=np.frombuffer(parts[1], dtype="<f4").reshape(-1, hparams.model.vocab_size),
        sketch=sketches[0],
        moment_sketch=sketches[1],
        initial_sketch=sketches[2] if len(sketches) > 2 else None,
        previous_sketch=sketches[3] if len(sketches) > 2 else None,
    )


def _timeout_detail(hparams: Hparams, progress: _Progress) -> str:
    if progress.tokens == 0:
        limit = hparams.evaluation.prepare_timeout_seconds
        return f"import and warm-up did not end within {limit:g} s"
    return f"the run did not end within {hparams.evaluation.timeout_seconds:g} s"


def _classify(failed: Failed, hparams: Hparams) -> tuple[Failure, str]:
    """The code for a run that the runner gave up. Its word is taken, because it can only cost the submission."""
    message = clean(failed.message.encode(), limit_bytes=protocol.MAX_MESSAGE_BYTES)
    match failed.loss:
        case Loss.OUT_OF_MEMORY:
            return Failure.OUT_OF_MEMORY, message
        case Loss.MALFORMED_OUTPUT:
            no_function = failed.stage is Stage.IMPORT
            return (Failure.INVALID_SUBMISSION if no_function else Failure.MALFORMED_OUTPUT), message
        case Loss.RESOURCE_LIMIT:
            return Failure.RESOURCE_LIMIT, f"{message.rstrip()}\n{_allowance(hparams)}"
        case Loss.CRASHED:
            return Failure.CRASHED, message


def _ended(ended: Ended, hparams: Hparams) -> tuple[Failure, str]:
    """The code for a process that vanished without a word."""
    if ended.out_of_memory:
        return Failure.OUT_OF_MEMORY, "the sandbox ran out of memory"
    match ended.exit_code:
        case None:
            return Failure.CRASHED, "the submission closed the channel and went on running; it was killed"
        case code if code == SIGNAL_EXIT_CODES + signal.SIGXFSZ:
            return Failure.RESOURCE_LIMIT, f"the kernel ended the process for a file too large; {_allowance(hparams)}"
        case code if code == SIGNAL_EXIT_CODES + signal.SIGBUS:
            # So ends who maps a file into memory and writes to it when its folder is full.
            return Failure.RESOURCE_LIMIT, f"a bus error ended the process: no space for a file; {_allowance(hparams)}"
    return Failure.CRASHED, f"the process ended with exit code {ended.exit_code} before it returned a result"


def _allowance(hparams: Hparams) -> str:
    limits = hparams.sandbox
    return (
        f"the sandbox has {limits.tmp_bytes:,} bytes and {interior.TMP_FILES:,} files in /tmp, "
        f"{limits.shm_bytes:,} bytes in /dev/shm, "
        f"{interior.largest_file_bytes(limits):,} bytes in one file, {interior.OPEN_FILES:,} open files in a process, "
        f"{limits.processes:,} processes and threads"
    )
