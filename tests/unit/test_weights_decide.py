"""Who gets the emission: given what is recorded, the leaderboard and the clock, then this and nothing twice."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.weights import decide
from services.weights.settings import Settings, from_environment
from shared.environment import SettingsError
from shared.events import LeaderboardChanged, Standing, WeightsSet
from shared.hparams import Economy
from tests.support.stories import ALICE, BEGIN, COMPETITION

BURN = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty"
ECONOMY = Economy(netuid=3, submission_cost_rao=1, weights_interval_seconds=600)
NOW = BEGIN
INTERVAL = int(NOW.timestamp()) // 600


def leaderboard(hotkey: str = ALICE, *, uid: int | None = 4, submission: str = "s1") -> LeaderboardChanged:
    leader = Standing(
        rank=1, submission_id=submission, miner_hotkey=hotkey, miner_uid=uid, score=9.0, submitted_sequence=1
    )
    second = msgspec.structs.replace(leader, rank=2, submission_id="second", miner_hotkey="other")
    return LeaderboardChanged(competition=COMPETITION, cause_sequence=6, entry=second, ranked=2, top=(leader, second))


def decided(
    last: WeightsSet | None = None,
    standing: LeaderboardChanged | None = None,
    *,
    now: datetime = NOW,
    economy: Economy = ECONOMY,
    burn_hotkey: str | None = BURN,
) -> list[WeightsSet]:
    return decide.weights(last, standing, now=now, economy=economy, burn_hotkey=burn_hotkey)


def recorded(*, at: datetime = NOW, economy: Economy = ECONOMY) -> WeightsSet:
    (event,) = decided(now=at, economy=economy)
    return event


def test_the_leader_gets_everything() -> None:
    assert decided(None, leaderboard()) == [
        WeightsSet(
            netuid=3,
            interval=INTERVAL,
            interval_seconds=600,
            reason="leader",
            hotkey=ALICE,
            uid=4,
            weight=1.0,
            leader_submission_id="s1",
            outcome="no_chain",
            detail="no chain is configured, so nothing was sent",
        )
    ]


def test_a_leader_of_unknown_uid_is_named_by_its_hotkey() -> None:
    (event,) = decided(None, leaderboard(uid=None))
    assert (event.reason, event.hotkey, event.uid) == ("leader", ALICE, None)


@pytest.mark.parametrize("standing", [None, msgspec.structs.replace(leaderboard(), ranked=0, top=())])
def test_without_a_leader_the_burn_hotkey_gets_everything(standing: LeaderboardChanged | None) -> None:
    (event,) = decided(None, standing)
    assert (event.reason, event.hotkey, event.uid, event.weight) == ("burn_no_leader", BURN, None, 1.0)
    assert event.leader_submission_id is None


def test_with_neither_it_is_recorded_that_there_is_nothing_to_set() -> None:
    (event,) = decided(burn_hotkey=None)
    assert (event.reason, event.hotkey, event.uid, event.weight) == ("nothing_to_set", None, None, 0.0)
    assert event.detail == "there is no leader and no burn hotkey; no chain is configured, so nothing was sent"


HOUR = timedelta(hours=1)
BEGINNING = datetime.fromtimestamp(INTERVAL * 600, UTC)
EPSILON = timedelta(microseconds=1)

RECORDED: list[tuple[str, WeightsSet, datetime, list[int]]] = [
    ("this interval", recorded(), NOW, []),
    ("this interval, at its beginning", recorded(at=BEGINNING), BEGINNING, []),
    ("this interval, at its end", recorded(at=BEGINNING), BEGINNING + timedelta(seconds=600) - EPSILON, []),
    ("the one before, at its beginning", recorded(at=BEGINNING - EPSILON), BEGINNING, [INTERVAL]),
    ("a later one", recorded(at=NOW + HOUR), NOW, []),
    ("one of long ago: none of those between is filled in", recorded(at=NOW - HOUR), NOW, [INTERVAL]),
]


@pytest.mark.parametrize(("why", "last", "now", "expected"), RECORDED, ids=[row[0] for row in RECORDED])
def test_an_interval_is_decided_once(why: str, last: WeightsSet, now: datetime, expected: list[int]) -> None:
    assert [event.interval for event in decided(last, leaderboard(), now=now)] == expected, why


@pytest.mark.parametrize(("before", "after"), [(20, 600), (600, 20)])
def test_another_interval_length_neither_repeats_nor_stops_it(before: int, after: int) -> None:
    """Numbers of unequal intervals say nothing about one another: 20-second ones are thirty times as high."""
    old, new = (msgspec.structs.replace(ECONOMY, weights_interval_seconds=length) for length in (before, after))
    last = recorded(at=NOW, economy=old)
    assert len(decided(last, now=NOW + timedelta(seconds=after), economy=new)) == 1
    begin = last.interval * before
    assert all(event.interval * after > begin for event in decided(last, now=NOW, economy=new))


def test_a_record_of_the_future_is_noticed() -> None:
    assert not decide.is_ahead(recorded(), now=NOW)
    assert not decide.is_ahead(recorded(at=NOW - HOUR), now=NOW)
    assert decide.is_ahead(recorded(at=NOW + HOUR), now=NOW)


MOMENTS = st.datetimes(datetime(2024, 1, 1), datetime(2024, 1, 2), timezones=st.just(UTC))  # noqa: DTZ001


@given(MOMENTS, st.integers(1, 86_400))
def test_the_next_interval_begins_after_what_is_left_of_this_one(now: datetime, length: int) -> None:
    left = decide.seconds_until_next(now, interval_seconds=length)
    assert 0 < left <= length
    assert (now.timestamp() + left) % length == pytest.approx(0, abs=1e-3) or (
        (now.timestamp() + left) % length == pytest.approx(length, abs=1e-3)
    )


STEPS = st.lists(
    st.tuples(
        MOMENTS,
        st.none() | st.sampled_from(["a", "b"]),
        st.none() | st.just(BURN),
        st.sampled_from([1, 20, 600, 601]),
        st.sampled_from(["stored", "lost", "stored twice"]),
    ),
    max_size=40,
)


@given(STEPS)
def test_whatever_the_clock_the_leader_and_restarts_do_each_interval_is_recorded_at_most_once(
    steps: list[tuple[datetime, str | None, str | None, int, str]],
) -> None:
    """Each step is a process that has just started and knows only the stream; its publish may be lost or repeated."""
    stream: list[WeightsSet] = []
    for now, leader, burn_hotkey, length, fate in steps:
        standing = None if leader is None else leaderboard(leader)
        economy = msgspec.structs.replace(ECONOMY, weights_interval_seconds=length)
        for _ in range(2 if fate == "stored twice" else 1):
            events = decide.weights(
                stream[-1] if stream else None, standing, now=now, economy=economy, burn_hotkey=burn_hotkey
            )
            assert len(events) <= 1
            assert all(event.interval == int(now.timestamp() // length) for event in events)
            if fate != "lost":
                stream += events
    begins = [event.interval * event.interval_seconds for event in stream]
    assert begins == sorted(set(begins))


@given(st.lists(MOMENTS, min_size=1, max_size=40))
def test_under_one_length_the_intervals_increase_and_the_newest_reading_is_never_left_out(
    moments: list[datetime],
) -> None:
    stream: list[WeightsSet] = []
    for now in moments:
        stream += decided(stream[-1] if stream else None, now=now)
    numbers = [event.interval for event in stream]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == max(int(now.timestamp() // 600) for now in moments)


ENVIRON = {"TOURNAMENT_NATS_URL": "nats://a", "TOURNAMENT_HPARAMS": "/etc/hparams.json"}


def test_settings() -> None:
    expected = Settings(nats_url="nats://a", hparams=Path("/etc/hparams.json"), burn_hotkey=None)
    assert from_environment(ENVIRON) == expected
    assert from_environment(ENVIRON | {"TOURNAMENT_BURN_HOTKEY": ""}) == expected
    assert from_environment(ENVIRON | {"TOURNAMENT_BURN_HOTKEY": BURN}).burn_hotkey == BURN


@pytest.mark.parametrize("missing", list(ENVIRON))
def test_a_missing_setting_is_named(missing: str) -> None:
    with pytest.raises(SettingsError, match=f"{missing} is not set"):
        from_environment({name: value for name, value in ENVIRON.items() if name != missing})


@pytest.mark.parametrize(
    ("address", "why"),
    [
        (BURN[:-1] + "z", "TOURNAMENT_BURN_HOTKEY cannot be used: its checksum is wrong"),
        ("burn", "TOURNAMENT_BURN_HOTKEY cannot be used: it is too long or too short"),
        (
            "14E5nqKAp3oAJcmzgZhUD2RcptBeUBScxKHgJKU4HPNcKVf3",
            "TOURNAMENT_BURN_HOTKEY cannot be used: it is an address of another network",
        ),
    ],
)
def test_an_address_that_nobody_could_be_paid_at_is_refused(address: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        from_environment(ENVIRON | {"TOURNAMENT_BURN_HOTKEY": address})
