"""EvalRequested -> RunCompleted: load the story, claim an attempt, measure run after run, publish each as it ends."""

import asyncio
import dataclasses
import secrets
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from services.evaluator import decide
from services.evaluator.controller import Measured
from services.evaluator.evaluation import Bench, draw, machine, measure_candidate, measure_reference, open_bench
from services.evaluator.machine import place
from services.evaluator.sandbox import Provider, SandboxFault
from shared import evidence, hparams, subjects
from shared.artifacts import ArtifactStore
from shared.bus import Bus
from shared.events import EvalRequested, Recorded, RunCompleted
from shared.faults import PoisonMessage, Superseded
from shared.ids import derive_id
from shared.logs import logger

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """The resources of one evaluator process, which does one run at a time."""

    bus: Bus
    artifacts: ArtifactStore
    provide: Callable[[], Provider]
    """Asked anew for each evaluation: meanwhile the engine may have been restarted or the image rebuilt."""
    hotkey: str
    shards: Path | None
    instance: str = field(default_factory=lambda: f"{socket.gethostname()}-{secrets.token_hex(8)}")
    benches: dict[str, Bench] = field(default_factory=dict)
    """By hparams sha256: opening one checks whole shards."""


async def evaluate(evaluator: Evaluator, recorded: Recorded, deliveries: int) -> None:
    """Handle one EvalRequested from wherever an earlier attempt left it."""
    request = _request(recorded)
    aggregate = subjects.submission(request.submission_id)
    bus, instance = evaluator.bus, evaluator.instance
    story = await bus.load(aggregate)
    if not decide.is_wanted(story, request):
        return
    # All that can be missing here is looked for before an attempt is claimed.
    provider = await asyncio.to_thread(evaluator.provide)
    refusal = decide.refuses_sandbox(story, sandbox=provider.kind)
    if refusal is not None:
        raise SandboxFault(refusal)
    bench = await _bench(evaluator, provider, request)
    source = await asyncio.to_thread(evaluator.artifacts.get, request.code_sha256)
    story = await bus.transact(
        aggregate,
        lambda known: decide.start(
            known, request, evaluator=evaluator.hotkey, instance=instance, sandbox=provider.kind
        ),
        cause=recorded,
    )
    attempt = decide.claimed(story, request, instance=instance)
    if attempt is None:
        return
    try:
        while (index := decide.next_run(story, request, attempt=attempt)) is not None:
            completed = await _measure(evaluator, bench, source, request, attempt=attempt, index=index)
            story = await _report(bus, request, completed, cause=recorded)
            logger().info("run ended", run=index, failure=completed.failure, tps=completed.tokens_per_second)
    except Exception:
        _leave_to_successor(await bus.load(aggregate), request, attempt)
        raise
    _leave_to_successor(story, request, attempt)


async def give_up(evaluator: Evaluator, recorded: Recorded, deliveries: int, why: str) -> None:
    """Make it visible that an evaluation was given up. The miner is not blamed."""
    request = _request(recorded)
    await evaluator.bus.transact(
        subjects.submission(request.submission_id),
        lambda story: decide.abandon(story, request, detail=why, deliveries=deliveries),
        cause=recorded,
    )


def _request(recorded: Recorded) -> EvalRequested:
    if not isinstance(recorded.event, EvalRequested):
        raise PoisonMessage(f"expected EvalRequested, received {recorded.envelope.type}")
    return recorded.event


def _leave_to_successor(story: list[Recorded], request: EvalRequested, attempt: int) -> None:
    if decide.is_superseded(story, request, attempt=attempt):
        raise Superseded(f"attempt {attempt} took too long to show that it lives; a later one goes on")


async def _bench(evaluator: Evaluator, provider: Provider, request: EvalRequested) -> Bench:
    known = evaluator.benches.get(request.hparams_sha256)
    if known is None:
        content = await asyncio.to_thread(evaluator.artifacts.get, request.hparams_sha256)
        try:
            parameters = hparams.parse(content)
        except hparams.HparamsError as error:
            raise PoisonMessage(f"the evaluation's hparams cannot be used: {error}") from error
        placement = await asyncio.to_thread(place, parameters.sandbox.cpus)
        known = await asyncio.to_thread(open_bench, provider, parameters, placement, evaluator.shards)
        evaluator.benches[request.hparams_sha256] = known
    return dataclasses.replace(known, provider=provider)


async def _measure(
    evaluator: Evaluator,
    bench: Bench,
    source: bytes,
    request: EvalRequested,
    *,
    attempt: int,
    index: int,
) -> RunCompleted:
    """One run, and where it left evidence the reference after it, on the same data."""
    secret = draw()
    # Random too, because two tournaments on one engine may know the same evaluation.
    name = f"{request.evaluation_id[:12]}-{attempt}-{index}-{secrets.token_hex(4)}"
    measured = await _stoppable(lambda stop: measure_candidate(bench, source, secret, name=name, stop=stop))
    reference_sha256 = None
    if measured.evidence is not None:
        reference = await _stoppable(lambda stop: measure_reference(bench, secret, name=f"{name}-reference", stop=stop))
        reference_sha256 = await _store(evaluator, reference)
    return RunCompleted(
        submission_id=request.submission_id,
        evaluation_id=request.evaluation_id,
        run_id=derive_id("run", request.evaluation_id, index),
        run_index=index,
        attempt=attempt,
        hparams_sha256=request.hparams_sha256,
        evaluator=evaluator.hotkey,
        failure=measured.failure,
        detail=measured.detail,
        tokens=measured.tokens,
        elapsed_ns=measured.elapsed_ns,
        tokens_per_second=measured.tokens_per_second,
        phases=measured.phases,
        seed=secret.seed,
        nonce=secret.nonce.hex(),
        evidence_sha256=await _store(evaluator, measured),
        reference_sha256=reference_sha256,
        log_tail=measured.log_tail,
        machine=machine(bench, measured),
    )


async def _report(bus: Bus, request: EvalRequested, completed: RunCompleted, *, cause: Recorded) -> list[Recorded]:
    aggregate = subjects.submission(request.submission_id)
    return await bus.transact(aggregate, lambda story: decide.report(story, request, completed), cause=cause)


async def _store(evaluator: Evaluator, measured: Measured) -> str | None:
    found = measured.evidence
    if found is None:
        return None
    return await asyncio.to_thread(lambda: evaluator.artifacts.put(evidence.encode(found)))


async def _stoppable(work: Callable[[threading.Event], T]) -> T:
    """Run blocking work in a thread; when cancelled, tell it to stop and wait until it has cleaned up."""
    stop = threading.Event()
    task = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.gather(task, return_exceptions=True)
        raise
