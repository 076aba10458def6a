"""The weights service on a real NATS server and a chain in memory: every interval, whatever dies or is away. The same
on a real chain is in tests/chain/test_chain_weights.py.
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from services.weights import decide, handlers
from shared import bus, hparams, subjects
from shared.bus import Bus
from shared.clock import utc_now
from shared.events import BurnSwitched, LeaderboardChanged, Recorded, Standing, WeightsDecided, WeightsSet
from shared.faults import Conflict, TransientFault
from tests.support.servers import eventually
from tests.support.stories import ALICE
from tests.support.weigher import VALIDATOR, FakeWeigher

pytestmark = pytest.mark.servers

BURN = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty"
DEMO = hparams.load(Path(__file__).parents[2] / "hparams" / "demo.json")
SECOND, DAY = (
    msgspec.structs.replace(DEMO, economy=msgspec.structs.replace(DEMO.economy, weights_interval_seconds=length))
    for length in (1, 86_400)
)
WEIGHTS = subjects.weights(DEMO.economy.netuid)
NOON = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch) -> FakeWeigher:
    monkeypatch.setattr(decide, "PAUSE_SECONDS", 0.0)
    return FakeWeigher(uids={ALICE: 4, BURN: 9})


@contextlib.asynccontextmanager
async def running(url: str, chain: FakeWeigher, *, instance: str = "a") -> AsyncIterator[None]:
    """One replica with intervals of a second, as main composes it."""
    async with bus.connect(url, producer=f"weights-{instance}") as connected, asyncio.TaskGroup() as tasks:
        work = tasks.create_task(
            handlers.every_interval_on_chain(connected, SECOND, BURN, utc_now, weigher=chain, instance=instance)
        )
        yield
        work.cancel()


async def lead(connection: Bus, hotkey: str, competition: hparams.Hparams = DAY, *, cause: int = 1) -> None:
    leader = Standing(rank=1, submission_id="s1", miner_hotkey=hotkey, miner_uid=77, score=1.0, submitted_sequence=1)
    change = LeaderboardChanged(
        competition=competition.sha256, cause_sequence=cause, entry=leader, ranked=1, top=(leader,)
    )
    aggregate = subjects.leaderboard(competition.sha256)
    last = await connection.last(aggregate)
    await connection.append(change, aggregate=aggregate, expected=0 if last is None else last.sequence)


async def advance(connection: Bus, chain: FakeWeigher, *, instance: str = "a", days: int = 0) -> decide.Wait | None:
    moment = utc_now() + timedelta(days=days)
    return await handlers.advance(connection, DAY, BURN, lambda: moment, weigher=chain, instance=instance)


async def weights(connection: Bus) -> list[WeightsSet]:
    return [recorded.event for recorded in await connection.load(WEIGHTS) if isinstance(recorded.event, WeightsSet)]


async def with_outcome(connection: Bus, outcome: str, *, at_least: int = 1) -> list[WeightsSet] | None:
    found = [event for event in await weights(connection) if event.outcome == outcome]
    return found if len(found) >= at_least else None


async def test_decided_then_set_and_the_leaderboard_is_their_cause(connection: Bus, chain: FakeWeigher) -> None:
    await lead(connection, ALICE)
    await advance(connection, chain)
    decided, told = await connection.load(WEIGHTS)
    assert isinstance(decided.event, WeightsDecided)
    assert isinstance(told.event, WeightsSet)
    leading = await connection.last(subjects.leaderboard(DAY.sha256))
    assert leading is not None
    assert (decided.envelope.causation_id, told.envelope.causation_id) == (leading.envelope.id, decided.envelope.id)
    assert (told.event.outcome, told.event.uid, told.event.validator_hotkey) == ("set", 4, VALIDATOR)
    assert (told.event.block_number, chain.sent) == (101, [4])
    assert await advance(connection, chain) is None


async def test_the_burn_switch_counts_from_the_next_interval_until_it_is_turned_back(
    connection: Bus, chain: FakeWeigher
) -> None:
    economy = subjects.economy(DAY.economy.netuid)
    await lead(connection, ALICE)
    await advance(connection, chain)
    on = await connection.append(
        BurnSwitched(netuid=3, after_sequence=0, on=True, reason="a hole", operator="me"),
        aggregate=economy,
        expected=0,
    )
    assert await advance(connection, chain) is None
    await advance(connection, chain, days=1)
    off = BurnSwitched(netuid=3, after_sequence=on.sequence, on=False, reason="mended", operator="me")
    await connection.append(off, aggregate=economy, expected=on.sequence)
    await advance(connection, chain, days=2)
    assert [(event.reason, event.uid) for event in await weights(connection)] == [
        ("leader", 4),
        ("burn_switched", 9),
        ("leader", 4),
    ]


async def test_without_a_chain_the_burn_switch_counts_too(connection: Bus) -> None:
    await lead(connection, ALICE)
    on = BurnSwitched(netuid=3, after_sequence=0, on=True, reason="a hole", operator="me")
    await connection.append(on, aggregate=subjects.economy(3), expected=0)
    await handlers.record(connection, DAY, BURN, lambda: NOON)
    (event,) = await weights(connection)
    assert (event.outcome, event.reason, event.hotkey, event.uid) == ("no_chain", "burn_switched", BURN, None)


async def test_a_leader_that_leaves_between_reading_and_setting(connection: Bus, chain: FakeWeigher) -> None:
    await lead(connection, ALICE)

    def leaves() -> None:
        if chain.uids.pop(ALICE, None) is not None:
            chain.uids["newcomer"] = 4

    chain.before_send = leaves
    await advance(connection, chain)
    await advance(connection, chain)
    assert await advance(connection, chain) is None
    assert [(event.attempt, event.outcome, event.reason, event.uid) for event in await weights(connection)] == [
        (1, "failed", "leader", 4),
        (2, "set", "burn_leader_deregistered", 9),
    ]


async def test_a_chain_that_goes_away_before_or_after_it_took_the_weights(connection: Bus, chain: FakeWeigher) -> None:
    await lead(connection, ALICE)

    def goes() -> None:
        chain.away = True

    def goes_with_the_answer() -> None:
        chain.away = True
        raise TransientFault("connection lost")

    chain.after_send = goes_with_the_answer
    with pytest.raises(TransientFault):
        await advance(connection, chain)
    with pytest.raises(TransientFault):
        await advance(connection, chain, instance="b")
    chain.away = False
    await advance(connection, chain, instance="b")
    (event,) = await weights(connection)
    assert (event.outcome, event.detail, event.block_number, chain.sent) == ("set", "found on the chain", 101, [4])

    chain.before_send, chain.after_send = goes, lambda: None
    with pytest.raises(TransientFault):
        await advance(connection, chain, days=1)
    chain.away, chain.before_send = False, lambda: None
    waiting = await advance(connection, chain, instance="b")
    assert waiting is not None
    assert waiting.seconds > 0
    await advance(connection, chain, instance="b", days=1)
    await advance(connection, chain, instance="b", days=1)
    assert [(told.attempt, told.outcome) for told in await weights(connection)] == [
        (1, "set"),
        (1, "failed"),
        (2, "set"),
    ]
    assert chain.sent == [4, 4]


async def test_eight_replicas_at_the_same_moment_send_one(nats_url: str, connection: Bus, chain: FakeWeigher) -> None:
    async with contextlib.AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(bus.connect(nats_url, producer=f"r{n}")) for n in range(8)]
        for day in range(10):
            told = await asyncio.gather(
                *(advance(replica, chain, instance=f"{number}", days=day) for number, replica in enumerate(replicas)),
                return_exceptions=True,
            )
            assert all(answer is None or isinstance(answer, Conflict | decide.Wait) for answer in told), told
    assert len(chain.sent) == 10
    assert [event.outcome for event in await weights(connection)] == ["set"] * 10


async def test_two_services_for_some_intervals_set_each_once(
    nats_url: str, connection: Bus, chain: FakeWeigher
) -> None:
    async with running(nats_url, chain, instance="a"), running(nats_url, chain, instance="b"):
        await eventually(functools.partial(with_outcome, connection, "set", at_least=5))
    told = await weights(connection)
    numbers = [event.interval for event in told]
    assert numbers == sorted(set(numbers))
    assert len(chain.sent) - sum(event.outcome == "set" for event in told) in (0, 1)


async def test_a_chain_that_is_away_for_whole_intervals_is_recorded_and_then_used(
    nats_url: str, connection: Bus, chain: FakeWeigher
) -> None:
    chain.away = True
    async with running(nats_url, chain):
        away = await eventually(functools.partial(with_outcome, connection, "not_sent"))
        chain.away = False
        await eventually(functools.partial(with_outcome, connection, "set"))
    assert (away[0].reason, away[0].hotkey, away[0].uid) == ("burn_no_leader", BURN, None)
    assert away[0].detail == "the interval ended: cannot reach the chain"


async def test_a_rate_limit_longer_than_the_interval_is_recorded(
    nats_url: str, connection: Bus, chain: FakeWeigher
) -> None:
    chain.rate_limit_blocks, chain.last_update = 100, 50
    async with running(nats_url, chain):
        (event, *_) = await eventually(functools.partial(with_outcome, connection, "not_sent"))
        chain.block = 150
        await eventually(functools.partial(with_outcome, connection, "set"))
    assert event.detail == (
        "the interval ended: weights were set 50 blocks ago and the chain's limit is one in 100 blocks"
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"uids": {}}, f"there is no leader and the burn hotkey {BURN} is not registered; nothing was sent"),
        ({"permitted": False}, "has no validator permit"),
        ({"validator_uid": None}, "is not registered on subnet 3: register it"),
        ({"commit_reveal": True}, "this release does not know"),
    ],
)
async def test_what_an_operator_must_do_is_said_loudly_in_every_interval(
    nats_url: str, connection: Bus, chain: FakeWeigher, changes: dict[str, Any], why: str
) -> None:
    with structlog.testing.capture_logs() as logs:
        async with running(nats_url, replace(chain, **changes)):
            told = await eventually(functools.partial(with_outcome, connection, "not_sent", at_least=2))
    assert all(why in event.detail for event in told)
    assert told[0].interval != told[1].interval
    loud = [entry["detail"] for entry in logs if entry["log_level"] == "error" and "detail" in entry]
    assert len(loud) >= 2
    assert why in loud[0]


async def test_weights_are_committed_where_the_chain_asks_for_it(connection: Bus, chain: FakeWeigher) -> None:
    chain.commit_reveal = chain.can_commit = True
    await lead(connection, ALICE)
    await advance(connection, chain)
    (event,) = await weights(connection)
    assert (event.outcome, event.uid, chain.row) == ("committed", 4, ())
    assert await advance(connection, chain) is None


async def test_an_attempt_that_was_stored_too_late_is_not_sent(connection: Bus, chain: FakeWeigher) -> None:
    await lead(connection, ALICE)
    moments = iter([utc_now(), utc_now() + timedelta(seconds=31)])
    with pytest.raises(TransientFault, match="took too long to be stored"):
        await handlers.advance(connection, DAY, BURN, lambda: next(moments), weigher=chain, instance="a")
    assert chain.sent == []


async def test_attempts_that_fail_end(connection: Bus, chain: FakeWeigher) -> None:
    """The chain takes them and holds something else each time."""
    await lead(connection, ALICE)

    def undo() -> None:
        chain.row = ()

    chain.after_send = undo
    last: Recorded | None = None
    for _ in range(decide.MAX_ATTEMPTS):
        await advance(connection, chain)
        last = await connection.last(WEIGHTS)
    assert last is not None
    assert isinstance(last.event, WeightsSet)
    assert (last.event.attempt, last.event.outcome) == (decide.MAX_ATTEMPTS, "failed")
    assert await advance(connection, chain) is None
    assert len(chain.sent) == decide.MAX_ATTEMPTS
