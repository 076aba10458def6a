"""One evaluation without any server: draw the data, run the candidate, run the reference, each in a fresh sandbox.

The evaluator service and a miner's local test both call this, so that both measure exactly the same way.
"""

import contextlib
import dataclasses
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sandbox.benchmark import tokens as token_sources
from sandbox.benchmark.tokens import ShardError, Tokens, TokenSource
from services.evaluator import gpu
from services.evaluator.controller import Clock, Measured, Run, drive
from services.evaluator.machine import Placement
from services.evaluator.sandbox import Provider, SandboxFault, Spec
from shared import hparams
from shared.events import Machine
from shared.faults import Failure
from shared.hparams import Hparams

NONCE_BYTES = 32
SEED_BITS = 53
"""So that a seed survives every JSON reader."""

REFERENCE_SOURCE = Path(token_sources.__file__).with_name("reference.py")


@dataclass(frozen=True, kw_only=True)
class Draw:
    """The secrets of one run, shared with its reference alone: docs/adr/0010 says what another run could learn."""

    seed: int
    nonce: bytes


def draw() -> Draw:
    """Fresh secrets from the operating system. Never called before the submission's code is fixed."""
    return Draw(seed=secrets.randbits(SEED_BITS), nonce=secrets.token_bytes(NONCE_BYTES))


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where runs take place: the machine, the sandboxes, the tokens."""

    provider: Provider
    hparams: Hparams
    placement: Placement
    tokens: TokenSource


def open_bench(provider: Provider, parameters: Hparams, placement: Placement, shards: Path | None) -> Bench:
    """Prepare the token source that the hparams name.

    Raises:
        SandboxFault: the competition's shards are not here or not right.
    """
    vocab_size = parameters.model.vocab_size
    if isinstance(parameters.data, hparams.Synthetic):
        source: TokenSource = token_sources.Synthetic(vocab_size=vocab_size)
    elif shards is None:
        raise SandboxFault("the hparams name token shards; set TOURNAMENT_SHARDS_DIR to the folder that holds them")
    else:
        expected = [(shard.name, shard.sha256) for shard in parameters.data.shards]
        try:
            source = token_sources.open_shards(shards, expected, vocab_size=vocab_size)
        except ShardError as error:
            raise SandboxFault(str(error)) from None
    return Bench(provider=provider, hparams=parameters, placement=placement, tokens=source)


def measure_candidate(
    bench: Bench, source: bytes, secret: Draw, *, name: str, stop: threading.Event | None = None
) -> Measured:
    """One run of a submission in a fresh sandbox.

    Nothing parses the file here, because some files hold Python's parser for seconds, and with it this process and its
    heartbeats. Who took it in has checked these very bytes; if they are no Python all the same, the runner says so.

    Raises:
        SandboxFault: the validator's own fault.
    """
    measured = _measure(bench, source, secret, name=name, is_reference=False, stop=stop)
    _require_full_speed(measured)
    return measured


def measure_reference(bench: Bench, secret: Draw, *, name: str, stop: threading.Event | None = None) -> Measured:
    """One run of the trusted reference with the same secrets; always has evidence.

    Raises:
        SandboxFault: it failed, which is never the submission's fault.
    """
    source = REFERENCE_SOURCE.read_bytes()
    measured = _measure(bench, source, secret, name=name, is_reference=True, stop=stop)
    if measured.evidence is None:
        raise SandboxFault(f"the reference run failed: {measured.failure}: {measured.detail}\n{measured.log_tail}")
    return measured


def machine(bench: Bench, measured: Measured) -> Machine:
    """What a run was measured on, as it is recorded."""
    return Machine(
        hostname=socket.gethostname(),
        accelerator=bench.placement.accelerator,
        cpus=bench.placement.cpus,
        sandbox=bench.provider.kind,
        image=bench.provider.image,
        runtime=bench.provider.runtime,
        gpu=measured.gpu,
    )


def _measure(
    bench: Bench,
    source: bytes,
    secret: Draw,
    *,
    name: str,
    is_reference: bool,
    stop: threading.Event | None,
    clock: Clock = time.perf_counter_ns,
) -> Measured:
    evaluation, placement = bench.hparams.evaluation, bench.placement
    run = Run(
        hparams=bench.hparams,
        source=source,
        is_reference=is_reference,
        tokens=_draw_tokens(bench, secret),
        nonce=secret.nonce,
        threads=max(1, len(placement.cpus)),
        device="cpu" if placement.gpu_uuid is None else "cuda",
    )
    spec = Spec(name=name, limits=bench.hparams.sandbox, cpus=placement.cpus, gpu_uuid=placement.gpu_uuid)
    with _watching(placement.gpu_uuid, clock) as watch:
        asked = clock()
        with bench.provider.open(spec, evaluation.prepare_timeout_seconds) as sandbox:
            measured = drive(sandbox, run, start_ns=clock() - asked, clock=clock, stop=stop or threading.Event())
    if watch is None or measured.began_ns == 0:
        return measured
    ended_ns = clock() if measured.evidence is None else measured.began_ns + measured.elapsed_ns
    return dataclasses.replace(measured, gpu=watch.between(measured.began_ns, ended_ns))


@contextlib.contextmanager
def _watching(gpu_uuid: str | None, clock: Clock) -> Iterator[gpu.Watch | None]:
    if gpu_uuid is None:
        yield None
        return
    gpu.wait_until_free(gpu_uuid)
    with gpu.watching(gpu_uuid, clock) as watch:
        yield watch


def _require_full_speed(measured: Measured) -> None:
    """A run on a GPU that was too hot says nothing of the code, unless it failed for another reason than time."""
    if measured.gpu is not None and measured.gpu.slowdowns and measured.failure in (None, Failure.TIMEOUT):
        raise SandboxFault(
            f"the GPU {measured.gpu.uuid} was slowed down while the clock ran ({', '.join(measured.gpu.slowdowns)}), "
            "so the run does not count; look after its cooling and its power"
        )


def _draw_tokens(bench: Bench, secret: Draw) -> Tokens:
    evaluation = bench.hparams.evaluation
    try:
        return bench.tokens.draw(
            secret.seed, steps=evaluation.num_steps, batch=evaluation.batch_size, length=evaluation.sequence_length
        )
    except ShardError as error:
        raise SandboxFault(str(error)) from None
