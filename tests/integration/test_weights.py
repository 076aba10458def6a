"""The weights service on a real NATS server: one record per interval, whatever is killed, doubled or away."""

import asyncio
import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import structlog

from services.weights import decide, handlers
from shared import bus, hparams, subjects
from shared.bus import Bus
from shared.clock import utc_now
from shared.events import LeaderboardChanged, Recorded, Standing, WeightsSet
from shared.faults import Conflict
from shared.hparams import Hparams
from tests.support.servers import NatsServer, eventually
from tests.support.stories import ALICE

pytestmark = pytest.mark.servers

PROJECT = Path(__file__).parents[2]
BURN = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty"
DEMO = hparams.load(PROJECT / "hparams" / "demo.json")
SECOND = msgspec.structs.replace(DEMO, economy=msgspec.structs.replace(DEMO.economy, weights_interval_seconds=1))
AGGREGATE = subjects.weights(SECOND.economy.netuid)
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """The demo's hparams with an interval of one second."""
    path = tmp_path / "hparams.json"
    path.write_bytes(SECOND.encode())
    return path


@contextlib.asynccontextmanager
async def running(url: str, *, burn_hotkey: str | None = BURN, producer: str = "weights") -> AsyncIterator[None]:
    """One replica, as main composes it, in this process."""
    async with bus.connect(url, producer=producer) as connected, asyncio.TaskGroup() as tasks:
        work = tasks.create_task(handlers.every_interval(connected, SECOND, burn_hotkey, utc_now))
        yield
        work.cancel()


def service(url: str, path: Path) -> "subprocess.Popen[bytes]":
    settings = {"TOURNAMENT_NATS_URL": url, "TOURNAMENT_HPARAMS": str(path), "TOURNAMENT_BURN_HOTKEY": BURN}
    return subprocess.Popen(
        [sys.executable, "-m", "services.weights.main"],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], **settings},
        stderr=subprocess.DEVNULL,
    )


@contextlib.contextmanager
def killed_at_the_end(process: "subprocess.Popen[bytes]") -> Iterator["subprocess.Popen[bytes]"]:
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def lead(connection: Bus, competition: Hparams, hotkey: str, *, cause: int, uid: int | None = 4) -> Recorded:
    """Record that this hotkey leads now."""
    leader = Standing(
        rank=1, submission_id=f"of-{hotkey}", miner_hotkey=hotkey, miner_uid=uid, score=1.0, submitted_sequence=1
    )
    change = LeaderboardChanged(
        competition=competition.sha256, cause_sequence=cause, entry=leader, ranked=1, top=(leader,)
    )
    aggregate = subjects.leaderboard(competition.sha256)
    last = await connection.last(aggregate)
    return await connection.append(change, aggregate=aggregate, expected=0 if last is None else last.sequence)


async def weights(connection: Bus) -> list[WeightsSet]:
    events = [recorded.event for recorded in await connection.load(AGGREGATE)]
    assert all(isinstance(event, WeightsSet) for event in events)
    return [event for event in events if isinstance(event, WeightsSet)]


async def at_least(connection: Bus, count: int) -> list[WeightsSet] | None:
    found = await weights(connection)
    return found if len(found) >= count else None


async def beyond(connection: Bus, interval: int) -> bool:
    """Whether something is recorded that came after this interval."""
    last = await connection.last(AGGREGATE)
    return last is not None and isinstance(last.event, WeightsSet) and last.event.interval > interval


def once_each(recorded: list[WeightsSet]) -> bool:
    numbers = [event.interval for event in recorded]
    return numbers == sorted(set(numbers))


def the(moment: datetime) -> datetime:
    """A clock that stands still."""
    return moment


async def boundary(*, after_seconds: float = 0.0) -> None:
    """Wait until an interval has just begun."""
    await asyncio.sleep(decide.seconds_until_next(utc_now(), interval_seconds=1) + after_seconds)


async def test_the_burn_hotkey_until_there_is_a_leader_then_the_leader_of_this_competition(
    nats_url: str, connection: Bus
) -> None:
    async with running(nats_url):
        await eventually(lambda: at_least(connection, 1))
        await lead(connection, DEMO, "leader-under-other-hparams", cause=1)
        before = len(await weights(connection))
        await eventually(lambda: at_least(connection, before + 2))
        leading = await lead(connection, SECOND, ALICE, cause=2)

        async def led() -> Recorded | None:
            last = await connection.last(AGGREGATE)
            assert last is not None
            return last if isinstance(last.event, WeightsSet) and last.event.reason == "leader" else None

        told = await eventually(led)
        assert isinstance(told.event, WeightsSet)
        await lead(connection, SECOND, BURN, cause=3, uid=None)
        await eventually(lambda: at_least(connection, before + 5))
    recorded = await weights(connection)
    assert once_each(recorded)
    assert (told.event.hotkey, told.event.uid, told.event.weight) == (ALICE, 4, 1.0)
    assert told.event.leader_submission_id == f"of-{ALICE}"
    assert told.envelope.causation_id == leading.envelope.id
    assert {(event.reason, event.hotkey) for event in recorded[: before + 1]} == {("burn_no_leader", BURN)}
    assert (recorded[-1].reason, recorded[-1].hotkey, recorded[-1].uid) == ("leader", BURN, None)
    assert {(event.outcome, event.interval_seconds) for event in recorded} == {("no_chain", 1)}


async def test_nothing_to_set_is_recorded_and_said_loudly(nats_url: str, connection: Bus) -> None:
    with structlog.testing.capture_logs() as logs:
        async with running(nats_url, burn_hotkey=None):
            (event, *_) = await eventually(lambda: at_least(connection, 1))
    assert (event.reason, event.hotkey, event.weight) == ("nothing_to_set", None, 0.0)
    loud = [entry["event"] for entry in logs if entry["log_level"] == "error"]
    assert "no leader and no burn hotkey: nothing to set; set TOURNAMENT_BURN_HOTKEY" in loud


async def test_two_replicas_record_each_interval_once(nats_url: str, connection: Bus) -> None:
    async with running(nats_url, producer="one"), running(nats_url, producer="two"):
        await eventually(lambda: at_least(connection, 5))
    assert once_each(await weights(connection))


async def test_eight_at_the_same_moment_record_one(nats_url: str, connection: Bus) -> None:
    async with contextlib.AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(bus.connect(nats_url, producer=f"r{n}")) for n in range(8)]
        for number in range(20):
            moment = NOW + timedelta(seconds=number)
            told = await asyncio.gather(
                *(handlers.record(replica, SECOND, BURN, functools.partial(the, moment)) for replica in replicas),
                return_exceptions=True,
            )
            assert all(answer is None or isinstance(answer, Conflict) for answer in told), told
            assert None in told
    numbers = [event.interval for event in await weights(connection)]
    assert numbers == list(range(int(NOW.timestamp()), int(NOW.timestamp()) + 20))


async def test_an_interval_that_is_recorded_stays_as_it_is_after_a_restart(nats_url: str, connection: Bus) -> None:
    await handlers.record(connection, SECOND, None, lambda: NOW)
    before = await connection.load(AGGREGATE)
    await lead(connection, SECOND, ALICE, cause=1)
    for moment in (NOW, NOW + timedelta(milliseconds=900), NOW - timedelta(hours=1)):
        await handlers.record(connection, SECOND, BURN, functools.partial(the, moment))
    assert await connection.load(AGGREGATE) == before


async def test_a_record_of_the_future_is_complained_about(connection: Bus) -> None:
    await handlers.record(connection, SECOND, BURN, lambda: NOW + timedelta(days=365))
    with structlog.testing.capture_logs() as logs:
        await handlers.record(connection, SECOND, BURN, lambda: NOW)
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("weights are recorded for the future: check the clock", "error")
    ]


async def test_kill_9_around_an_interval_doubles_nothing(nats_url: str, connection: Bus, second: Path) -> None:
    for after_seconds in (0.0, 0.002, 0.004, 0.008):
        begun = int(time.time())
        with killed_at_the_end(service(nats_url, second)):
            await eventually(functools.partial(beyond, connection, begun))
            await boundary(after_seconds=after_seconds)
    begun = int(time.time())
    with killed_at_the_end(service(nats_url, second)) as process:
        await eventually(lambda: beyond(connection, begun))
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    recorded = await weights(connection)
    assert once_each(recorded)
    assert len(recorded) >= 5


async def test_two_processes_one_of_which_is_killed_again_and_again(
    nats_url: str, connection: Bus, second: Path
) -> None:
    with killed_at_the_end(service(nats_url, second)):
        await eventually(lambda: at_least(connection, 1))
        for _ in range(3):
            with killed_at_the_end(service(nats_url, second)):
                await asyncio.sleep(0.6)
                await boundary()
        killed = int(time.time())
        await eventually(lambda: beyond(connection, killed))
    assert once_each(await weights(connection))


async def test_it_outlives_the_server_and_does_not_fill_in_what_passed(
    nats_server: NatsServer, nats_url: str, connection: Bus, second: Path
) -> None:
    with killed_at_the_end(service(nats_url, second)) as process:
        for _ in range(2):
            begun = int(time.time())
            await eventually(functools.partial(beyond, connection, begun))
            nats_server.kill()
            left = int(time.time())
            await asyncio.sleep(3.2)
            back = int(time.time())
            await asyncio.to_thread(nats_server.start)
            await eventually(functools.partial(beyond, connection, back))
            recorded = await weights(connection)
            assert once_each(recorded)
            # What was on its way as the server went, or waits in a buffer, may still arrive; the rest stays empty.
            assert sum(left < event.interval < back for event in recorded) <= 1
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


async def test_it_starts_before_its_server(nats_server: NatsServer, connection: Bus, second: Path) -> None:
    nats_server.kill()
    with killed_at_the_end(service(nats_server.url, second)) as process:
        await asyncio.sleep(1.5)
        assert process.poll() is None
        await asyncio.to_thread(nats_server.start)
        await eventually(lambda: at_least(connection, 1))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"TOURNAMENT_NATS_URL": ""}, "weights: TOURNAMENT_NATS_URL is not set\n"),
        ({"TOURNAMENT_HPARAMS": ""}, "weights: TOURNAMENT_HPARAMS is not set\n"),
        ({"TOURNAMENT_HPARAMS": "/nowhere/h.json"}, "weights: /nowhere/h.json: No such file or directory\n"),
        (
            {"TOURNAMENT_BURN_HOTKEY": f"{BURN[:-1]}z"},
            "weights: TOURNAMENT_BURN_HOTKEY cannot be used: "
            "its checksum is wrong: a character is mistyped or missing\n",
        ),
    ],
)
def test_a_wrong_setting_ends_it_with_one_sentence(second: Path, changes: dict[str, str], sentence: str) -> None:
    settings = {"TOURNAMENT_NATS_URL": "nats://127.0.0.1:1", "TOURNAMENT_HPARAMS": str(second)} | changes
    ended = subprocess.run(
        [sys.executable, "-m", "services.weights.main"],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], **settings},
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert (ended.returncode, ended.stderr.decode()) == (2, sentence)
