"""The verifier on a real NATS server: verdicts and rankings are recorded once, whatever is killed or doubled."""

import asyncio
import contextlib
import functools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
import structlog

from services.verifier import handlers
from services.verifier.ranking import Ranking, apply
from shared import bus, evidence, streams, subjects
from shared.artifacts import ArtifactStore
from shared.bus import Bus
from shared.events import (
    EvaluationAbandoned,
    Event,
    LeaderboardChanged,
    MessageDeadLettered,
    Recorded,
    RunCompleted,
    Verified,
)
from shared.submission import Submission, fold
from tests.support.evidence import EXPECTED, REFERENCE, altered
from tests.support.servers import eventually
from tests.support.stories import completed, disqualified, finished, paid, reinstated, requested, started

pytestmark = pytest.mark.servers

T = TypeVar("T")
PROJECT = Path(__file__).parents[2]


@contextlib.asynccontextmanager
async def running(url: str, artifacts: ArtifactStore) -> AsyncIterator[None]:
    """One replica of the verifier, as main composes it, in this process."""
    async with bus.connect(url, producer="verifier") as connected, asyncio.TaskGroup() as tasks:
        verify = functools.partial(handlers.verify, connected, artifacts)
        give_up = functools.partial(handlers.give_up, connected)
        work = [
            tasks.create_task(connected.consume(streams.JUDGE, verify, slots=2, give_up=give_up)),
            tasks.create_task(handlers.rank(connected)),
        ]
        yield
        for task in work:
            task.cancel()


@contextlib.asynccontextmanager
async def ranking_only(url: str) -> AsyncIterator[None]:
    async with bus.connect(url, producer="verifier") as connected, asyncio.TaskGroup() as tasks:
        work = tasks.create_task(handlers.rank(connected))
        yield
        work.cancel()


async def tell(connection: Bus, *events: Event) -> None:
    """Append the events of submissions, in this order."""
    for event in events:
        aggregate = ".".join(subjects.subject_of(event).split(".")[:3]) + ".>"
        last = await connection.last(aggregate)
        await connection.append(event, aggregate=aggregate, expected=0 if last is None else last.sequence)


async def events_of(connection: Bus, aggregate: str, kind: type[T]) -> list[T]:
    return [recorded.event for recorded in await connection.load(aggregate) if isinstance(recorded.event, kind)]


async def settled(connection: Bus, submission: str = "s1") -> Submission | None:
    state = fold(await connection.load(subjects.submission(submission)))
    return state if state is not None and state.settled else None


async def leaderboard(connection: Bus, competition: str, length: int) -> list[LeaderboardChanged] | None:
    found = await events_of(connection, subjects.leaderboard(competition), LeaderboardChanged)
    return found if len(found) >= length else None


def measured(artifacts: ArtifactStore, index: int, *, tps: float = 100.0, submission: str = "s1") -> RunCompleted:
    """A run with evidence that passes."""
    return completed(
        index,
        submission=submission,
        evaluation=f"e-{submission}",
        tps=tps,
        hparams_sha256=artifacts.put(EXPECTED.encode()),
        evidence_sha256=artifacts.put(evidence.encode(altered(initial_sketch=None, previous_sketch=None))),
        reference_sha256=artifacts.put(evidence.encode(REFERENCE)),
    )


def begun(submission: str = "s1", *, runs: int = 3) -> list[Event]:
    evaluation = f"e-{submission}"
    return [
        paid(submission),
        requested(submission, evaluation, runs=runs, competition=EXPECTED.sha256),
        started(submission, evaluation),
    ]


async def test_three_passed_runs_are_judged_and_ranked(
    nats_url: str, connection: Bus, artifacts: ArtifactStore
) -> None:
    await tell(connection, *begun(), *(measured(artifacts, i, tps=tps) for i, tps in enumerate((10.0, 20.0, 60.0))))
    async with running(nats_url, artifacts):
        (change,) = await eventually(lambda: leaderboard(connection, EXPECTED.sha256, 1))
    story = await connection.load(subjects.submission("s1"))
    verdicts = [recorded for recorded in story if isinstance(recorded.event, Verified)]
    state = fold(story)
    assert state is not None
    assert (state.status, state.final_score) == ("finished", 30.0)
    assert change.entry is not None
    assert (change.entry.score, change.entry.rank, change.ranked) == (30.0, 1, 1)
    assert change.cause_sequence == verdicts[-1].sequence
    runs = {recorded.envelope.id: recorded for recorded in story if isinstance(recorded.event, RunCompleted)}
    assert {verdict.envelope.causation_id for verdict in verdicts} == set(runs)
    assert {verdict.envelope.correlation_id for verdict in verdicts} == {"s1"}
    last = await connection.last(subjects.leaderboard(EXPECTED.sha256))
    assert last is not None
    assert (last.envelope.causation_id, last.envelope.correlation_id) == (verdicts[-1].envelope.id, "s1")


async def test_a_wrong_run_and_a_crashed_run_fail_with_their_codes(
    nats_url: str, connection: Bus, artifacts: ArtifactStore
) -> None:
    wrong = altered(logits=-REFERENCE.logits, initial_sketch=None, previous_sketch=None)
    good = measured(artifacts, 0, submission="wrong")
    bad = msgspec.structs.replace(good, evidence_sha256=artifacts.put(evidence.encode(wrong)))
    await tell(connection, *begun("wrong"), bad)
    await tell(
        connection, *begun("crashed"), completed(0, submission="crashed", evaluation="e-crashed", failure="crashed")
    )
    async with running(nats_url, artifacts):
        mismatch = await eventually(lambda: settled(connection, "wrong"))
        crash = await eventually(lambda: settled(connection, "crashed"))
    assert mismatch.error_message is not None
    assert mismatch.error_message.startswith("output_mismatch: the output vectors differ by 200 %, allowed 1 %")
    assert crash.error_message == "crashed: it broke"
    assert await connection.last(subjects.leaderboard(EXPECTED.sha256)) is None


async def test_evidence_that_comes_late_is_waited_for(
    nats_url: str, connection: Bus, artifacts: ArtifactStore, tmp_path: Path
) -> None:
    run = measured(ArtifactStore(tmp_path / "elsewhere"), 0)
    await tell(connection, *begun(runs=1), run)
    with structlog.testing.capture_logs() as logs:
        async with running(nats_url, artifacts):

            async def missed() -> bool:
                return any("cannot read artifact" in str(entry.get("error")) for entry in logs)

            await eventually(missed)
            measured(artifacts, 0)
            state = await eventually(lambda: settled(connection))
    assert state.status == "finished"


async def test_altered_evidence_is_given_up_visibly_and_not_blamed_on_the_miner(
    nats_url: str, connection: Bus, artifacts: ArtifactStore
) -> None:
    run = measured(artifacts, 0)
    assert run.evidence_sha256 is not None
    (artifacts.root / run.evidence_sha256[:2] / run.evidence_sha256).write_bytes(b"altered")
    await tell(connection, *begun(), run)
    async with running(nats_url, artifacts):
        letters = await eventually(
            lambda: events_of(connection, subjects.dead_letters(streams.JUDGE.name), MessageDeadLettered)
        )
        state = await eventually(lambda: settled(connection))
    assert "was altered" in letters[0].error
    assert state.status == "error"
    abandoned = await events_of(connection, subjects.submission("s1"), EvaluationAbandoned)
    assert [event.deliveries for event in abandoned] == [1]
    assert await events_of(connection, subjects.submission("s1"), Verified) == []


@pytest.mark.parametrize("broken", ["no evidence", "no hparams"])
async def test_a_run_that_makes_no_sense_is_poison(
    nats_url: str, connection: Bus, artifacts: ArtifactStore, broken: str
) -> None:
    run = measured(artifacts, 0)
    if broken == "no evidence":
        run = msgspec.structs.replace(run, evidence_sha256=None)
    else:
        run = msgspec.structs.replace(run, hparams_sha256=artifacts.put(b"{}"))
    await tell(connection, *begun(), run)
    async with running(nats_url, artifacts):
        state = await eventually(lambda: settled(connection))
    assert state.status == "error"


async def test_two_replicas_record_every_verdict_and_every_ranking_once(
    nats_url: str, connection: Bus, artifacts: ArtifactStore
) -> None:
    names = [f"s{number}" for number in range(8)]
    async with running(nats_url, artifacts), running(nats_url, artifacts):
        for number, name in enumerate(names):
            runs = (measured(artifacts, index, tps=float(number % 3 + 1), submission=name) for index in range(3))
            await tell(connection, *begun(name), *runs)
        found = await eventually(lambda: leaderboard(connection, EXPECTED.sha256, len(names)))
        for name in names:
            verdicts = await events_of(connection, subjects.submission(name), Verified)
            assert sorted(verdict.run_index for verdict in verdicts) == [0, 1, 2]
    assert found == await expected_changes(connection)


async def whole_stream(connection: Bus) -> list[Recorded]:
    return await connection.load(subjects.ALL)


async def expected_changes(connection: Bus) -> list[LeaderboardChanged]:
    """What the pure fold says must be recorded, in this order and nothing else."""
    ranking = Ranking()
    return [change for recorded in await whole_stream(connection) for change in apply(ranking, recorded)]


async def test_a_ranker_that_starts_anywhere_records_what_is_missing_and_nothing_twice(
    nats_url: str, connection: Bus
) -> None:
    competition = "c" * 64
    for number in range(6):
        name = f"s{number}"
        await tell(connection, paid(name), *finished(name, (10.0 + number, 20.0)))
        if number in (0, 3, 4):  # it is away for the others
            async with ranking_only(nats_url):
                await eventually(functools.partial(leaderboard, connection, competition, number + 1))
    # Told twice, and by two at a time, it adds nothing.
    async with ranking_only(nats_url), ranking_only(nats_url):
        found = await eventually(lambda: leaderboard(connection, competition, 6))
    assert found == await expected_changes(connection)
    sequences = [recorded.sequence for recorded in await whole_stream(connection)]
    assert sequences == list(range(1, len(sequences) + 1))


async def test_disqualified_and_reinstated_in_whatever_pieces_a_ranker_sees_it(nats_url: str, connection: Bus) -> None:
    competition = "c" * 64
    for number in range(3):
        await tell(connection, paid(f"s{number}"), *finished(f"s{number}", (10.0 + number,)))
    again = disqualified("s2", after_sequence=99)
    decisions: list[Event] = [disqualified("s2"), disqualified("s1"), reinstated("s2"), again]
    async with ranking_only(nats_url):
        await eventually(functools.partial(leaderboard, connection, competition, 3))
        await tell(connection, decisions[0])
        await eventually(functools.partial(leaderboard, connection, competition, 4))
    await tell(connection, *decisions[1:])  # while it is away
    async with ranking_only(nats_url), ranking_only(nats_url):
        found = await eventually(lambda: leaderboard(connection, competition, 7))
    assert found == await expected_changes(connection)
    assert [[row.submission_id for row in change.top] for change in found[2:]] == [
        ["s2", "s1", "s0"],
        ["s1", "s0"],
        ["s0"],
        ["s2", "s0"],
        ["s0"],
    ]
    # Who starts again, alone, finds all of it recorded.
    end = len(await whole_stream(connection))
    await tell(connection, paid("s9"), *finished("s9", (1.0,)))
    async with ranking_only(nats_url):
        await eventually(functools.partial(leaderboard, connection, competition, 8))
    assert len(await whole_stream(connection)) == end + 6
    assert await events_of(connection, subjects.leaderboard(competition), LeaderboardChanged) == (
        await expected_changes(connection)
    )


async def test_a_ranker_that_died_between_two_competitions_records_the_other(nats_url: str, connection: Bus) -> None:
    first, second = "c" * 64, "d" * 64
    await tell(
        connection,
        paid("s1"),
        *finished("s1", (10.0,)),
        *finished("s1", (20.0,), evaluation="again", competition=second),
    )
    async with ranking_only(nats_url):
        await eventually(functools.partial(leaderboard, connection, second, 1))
    await tell(connection, disqualified("s1"))
    *_, recorded, missing = await expected_changes(connection)
    assert (recorded.competition, missing.competition) == (first, second)
    await tell(connection, recorded)
    async with ranking_only(nats_url):
        found = await eventually(functools.partial(leaderboard, connection, second, 2))
    assert found[-1] == missing
    assert missing.removed_submission_id == "s1"
    assert (await events_of(connection, subjects.leaderboard(first), LeaderboardChanged))[1:] == [recorded]


def verifier_process(nats_url: str, artifacts: ArtifactStore) -> subprocess.Popen[bytes]:
    settings = {"TOURNAMENT_NATS_URL": nats_url, "TOURNAMENT_ARTIFACTS_DIR": str(artifacts.root)}
    return subprocess.Popen(
        [sys.executable, "-m", "services.verifier.main"],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], **settings},
        stderr=subprocess.DEVNULL,
    )


async def test_kill_9_at_any_point_loses_and_doubles_nothing(
    nats_url: str, connection: Bus, artifacts: ArtifactStore
) -> None:
    names = [f"s{number}" for number in range(6)]
    for name in names:
        await tell(connection, *begun(name), *(measured(artifacts, index, submission=name) for index in range(3)))
    for ranked in (1, 3):
        process = verifier_process(nats_url, artifacts)
        try:
            await eventually(functools.partial(leaderboard, connection, EXPECTED.sha256, ranked))
        finally:
            process.kill()
            process.wait()
    process = verifier_process(nats_url, artifacts)
    try:
        found = await eventually(lambda: leaderboard(connection, EXPECTED.sha256, len(names)))
    finally:
        process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    assert found == await expected_changes(connection)
    verdicts = [recorded.event for recorded in await whole_stream(connection) if isinstance(recorded.event, Verified)]
    assert len({(verdict.submission_id, verdict.run_index) for verdict in verdicts}) == len(verdicts) == 18


def test_a_missing_setting_ends_it_with_one_sentence() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "services.verifier.main"],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.decode() == "verifier: TOURNAMENT_NATS_URL is not set\n"
