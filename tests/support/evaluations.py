"""Evaluations on a real NATS server: an evaluator and a verifier in the test's process, and what must come of it."""

import asyncio
import contextlib
import dataclasses
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import nats
import pytest

from services.evaluator import handlers, providers
from services.evaluator.sandbox import Provider
from services.verifier import handlers as verifier
from shared import bus, streams, subjects
from shared.artifacts import ArtifactStore
from shared.bus import Bus
from shared.events import (
    EvalRequested,
    EvaluationAbandoned,
    EvaluationStarted,
    Event,
    MessageDeadLettered,
    Payment,
    RunCompleted,
    SubmissionPaid,
    Verified,
)
from shared.hparams import Hparams
from shared.submission import Submission, fold
from tests.support.servers import ACK_WAIT_SECONDS, eventually
from tests.support.stories import TRANSFER, paid, requested
from tests.support.tiny import BASIC, TINY

T = TypeVar("T")
QUICK = dataclasses.replace(streams.EVALUATE, ack_wait_seconds=ACK_WAIT_SECONDS, pauses_seconds=(0.1,))
"""Heartbeats that fit the test server's lease, and no long waiting after faults."""
GIVEN_UP_SOON = 2
EVALUATION_SECONDS = 240.0
"""Far above what importing torch a few times takes, on a machine that does ten other things."""


@dataclass(frozen=True, kw_only=True)
class Tournament:
    """The server, a connection of the test's own, and the artifacts."""

    nats_url: str
    bus: Bus
    artifacts: ArtifactStore


@pytest.fixture
def tournament(nats_url: str, connection: Bus, artifacts: ArtifactStore) -> Tournament:
    return Tournament(nats_url=nats_url, bus=connection, artifacts=artifacts)


@contextlib.asynccontextmanager
async def consuming(
    tournament: Tournament,
    *,
    provide: Callable[[], Provider] = providers.process_provider,
    shards: Path | None = None,
    max_deliveries: int = GIVEN_UP_SOON,
) -> AsyncIterator[None]:
    """One evaluator in this process, as main composes it."""
    async with bus.connect(tournament.nats_url, producer="evaluator") as connection, asyncio.TaskGroup() as tasks:
        evaluator = handlers.Evaluator(
            bus=connection, artifacts=tournament.artifacts, provide=provide, hotkey="local", shards=shards
        )
        evaluate = functools.partial(handlers.evaluate, evaluator)
        give_up = functools.partial(handlers.give_up, evaluator)
        queue = dataclasses.replace(QUICK, max_deliveries=max_deliveries)
        work = tasks.create_task(connection.consume(queue, evaluate, slots=1, give_up=give_up))
        yield
        work.cancel()


@contextlib.asynccontextmanager
async def judging(tournament: Tournament) -> AsyncIterator[None]:
    """The verifier, without its ranking."""
    async with bus.connect(tournament.nats_url, producer="verifier") as connection, asyncio.TaskGroup() as tasks:
        verify = functools.partial(verifier.verify, connection, tournament.artifacts)
        give_up = functools.partial(verifier.give_up, connection)
        work = tasks.create_task(connection.consume(streams.JUDGE, verify, slots=1, give_up=give_up))
        yield
        work.cancel()


async def submit(
    tournament: Tournament,
    code: bytes | str = BASIC,
    *,
    submission: str = "s1",
    parameters: Hparams = TINY,
    amount_rao: int = 0,
) -> EvalRequested:
    """Pay and ask for an evaluation, as ingest does."""
    code_sha256 = tournament.artifacts.put(code.encode() if isinstance(code, str) else code)
    reference = TRANSFER if amount_rao else f"unpaid:{submission}"
    payment = Payment(reference=reference, amount_rao=amount_rao)
    bought: SubmissionPaid = msgspec.structs.replace(paid(submission), code_sha256=code_sha256, payment=payment)
    evaluation_id = f"evaluation-{submission}"
    wanted = msgspec.structs.replace(
        requested(submission, evaluation_id, runs=parameters.evaluation.runs),
        code_sha256=code_sha256,
        hparams_sha256=tournament.artifacts.put(parameters.encode()),
    )
    aggregate = subjects.submission(submission)
    recorded = await tournament.bus.append(bought, aggregate=aggregate, expected=0)
    await tournament.bus.append(wanted, aggregate=aggregate, expected=recorded.sequence)
    return wanted


async def events_of(tournament: Tournament, kind: type[T], submission: str = "s1") -> list[T]:
    story = await tournament.bus.load(subjects.submission(submission))
    return [recorded.event for recorded in story if isinstance(recorded.event, kind)]


async def state_of(tournament: Tournament, submission: str = "s1") -> Submission:
    state = fold(await tournament.bus.load(subjects.submission(submission)))
    assert state is not None
    return state


def settled(tournament: Tournament, submission: str = "s1") -> Callable[[], Awaitable[Submission | None]]:
    async def condition() -> Submission | None:
        state = await state_of(tournament, submission)
        return state if state.settled else None

    return condition


def count(tournament: Tournament, kind: type[Event], least: int) -> Callable[[], Awaitable[bool]]:
    async def condition() -> bool:
        return len(await events_of(tournament, kind)) >= least

    return condition


async def unanswered(tournament: Tournament) -> int:
    """How many messages of the queue somebody holds or has been promised again."""
    client = await nats.connect(tournament.nats_url)
    try:
        info = await client.jetstream().consumer_info(streams.STREAM, streams.EVALUATE.name)
    finally:
        await client.close()
    return int(info.num_ack_pending or 0) + int(info.num_pending or 0)


async def assert_passed_once(tournament: Tournament, *, attempts: int, runs_wanted: int = 2) -> None:
    """The evaluation of s1 is finished, and nothing is in its story that did not count."""
    state = await eventually(settled(tournament), seconds=EVALUATION_SECONDS)
    assert state.status == "finished", state.error_message
    runs = await events_of(tournament, RunCompleted)
    assert [run.completed for run in state.runs] == runs
    assert [run.run_index for run in runs] == list(range(runs_wanted))
    assert [verdict.run_index for verdict in await events_of(tournament, Verified)] == [run.run_index for run in runs]
    for drawn in ("seed", "nonce", "reference_sha256"):
        assert len({getattr(run, drawn) for run in runs}) == runs_wanted, f"fresh {drawn} for each run"
    begun_attempts = [event.attempt for event in await events_of(tournament, EvaluationStarted)]
    assert begun_attempts == list(range(1, attempts + 1))

    async def answered() -> bool:
        return await unanswered(tournament) == 0

    await eventually(answered)


async def assert_given_up(tournament: Tournament, *, why: str, deliveries: int = GIVEN_UP_SOON) -> None:
    """Visible, in the validator's own name, with no verdict and no run held against the miner."""
    state = await eventually(settled(tournament), seconds=EVALUATION_SECONDS)
    assert state.status == "error"
    (abandoned,) = await events_of(tournament, EvaluationAbandoned)
    assert abandoned.deliveries == deliveries
    assert why in abandoned.detail
    assert await events_of(tournament, RunCompleted) == []
    assert await events_of(tournament, Verified) == []

    async def letters() -> list[Event]:
        story = await tournament.bus.load(subjects.dead_letters(streams.EVALUATE.name))
        return [recorded.event for recorded in story]

    (letter,) = await eventually(letters)
    assert isinstance(letter, MessageDeadLettered)
    assert letter.deliveries == deliveries
