"""Weights on a chain: given what is recorded and what the chain says, then this is the next step."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bittensor
import msgspec
import pytest
from bittensor.sp_core import Keypair
from hypothesis import given
from hypothesis import strategies as st

from services.weights import decide
from services.weights.decide import Answer, ChainView, Wait
from services.weights.settings import ChainSettings, from_environment, open_wallet
from shared.environment import SettingsError
from shared.events import (
    BurnSwitched,
    Envelope,
    Event,
    LeaderboardChanged,
    Recorded,
    Standing,
    WeightsDecided,
    WeightsSet,
)
from shared.hparams import Economy
from tests.support.stories import ALICE, COMPETITION

BURN = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty"
VALIDATOR = "validator"
ECONOMY = Economy(netuid=3, submission_cost_rao=1, weights_interval_seconds=600)
INTERVAL = 2_900_000
BEGIN = datetime.fromtimestamp(INTERVAL * 600, UTC)
NOW = BEGIN + timedelta(seconds=60)
LEADER = Standing(rank=1, submission_id="s1", miner_hotkey=ALICE, miner_uid=77, score=9.0, submitted_sequence=1)
LEADING = LeaderboardChanged(competition=COMPETITION, cause_sequence=6, entry=LEADER, ranked=1, top=(LEADER,))
SWITCHED = BurnSwitched(netuid=3, after_sequence=0, on=True, reason="a hole", operator="me")
CHAIN = ChainView(
    block=1000,
    validator_hotkey=VALIDATOR,
    validator_uid=1,
    permitted=True,
    last_update=900,
    row=((5, 65_535),),
    rate_limit_blocks=100,
    commit_reveal=False,
    can_commit=False,
    uids={ALICE: 4, BURN: 9},
)
DECIDED = WeightsDecided(
    netuid=3,
    interval=INTERVAL,
    interval_seconds=600,
    attempt=1,
    instance="me",
    reason="leader",
    hotkey=ALICE,
    uid=4,
    leader_submission_id="s1",
    chain_block=1000,
)
ANSWER = Answer(
    success=True, message="Success", block_number=1001, extrinsic="0xab-1", row=((4, 65_535),), holder=ALICE
)
SET = decide.outcome(DECIDED, ANSWER, validator_hotkey=VALIDATOR)


def recorded(event: Event, *, at: datetime = NOW) -> Recorded:
    envelope = Envelope(
        id="i", type="t", version=1, time=at, producer="p", causation_id=None, correlation_id="c", data=event
    )
    return Recorded(sequence=7, subject="s", envelope=envelope)


def step(
    last: Recorded | None = None,
    standing: LeaderboardChanged | None = LEADING,
    burn: BurnSwitched | None = None,
    chain: ChainView = CHAIN,
    *,
    now: datetime = NOW,
    burn_hotkey: str | None = BURN,
) -> WeightsDecided | WeightsSet | Wait | None:
    return decide.step(last, standing, burn, chain, now=now, economy=ECONOMY, burn_hotkey=burn_hotkey, instance="me")


def view(**changes: object) -> ChainView:
    return msgspec.structs.replace(CHAIN, **changes)


def test_the_leader_is_paid_at_the_chains_uid_and_not_at_the_one_it_was_ranked_with() -> None:
    assert step() == DECIDED


@pytest.mark.parametrize(
    ("standing", "burn", "uids", "reason", "hotkey"),
    [
        (LEADING, None, {ALICE: 4}, "leader", ALICE),
        (None, None, {BURN: 9}, "burn_no_leader", BURN),
        (LEADING, None, {BURN: 9}, "burn_leader_deregistered", BURN),
        (LEADING, SWITCHED, {ALICE: 4, BURN: 9}, "burn_switched", BURN),
        (LEADING, msgspec.structs.replace(SWITCHED, on=False), {ALICE: 4, BURN: 9}, "leader", ALICE),
        (None, SWITCHED, {BURN: 9}, "burn_switched", BURN),
    ],
)
def test_who_gets_it(
    standing: LeaderboardChanged | None, burn: BurnSwitched | None, uids: Mapping[str, int], reason: str, hotkey: str
) -> None:
    decided = step(None, standing, burn, view(uids=uids))
    assert isinstance(decided, WeightsDecided)
    assert (decided.reason, decided.hotkey, decided.uid) == (reason, hotkey, uids[hotkey])


@pytest.mark.parametrize(
    ("standing", "burn", "uids", "burn_hotkey", "why"),
    [
        (None, None, {}, None, "there is no leader and no burn hotkey"),
        (None, None, {}, BURN, f"there is no leader and the burn hotkey {BURN} is not registered"),
        (LEADING, None, {}, None, f"the leader {ALICE} is not registered any more and no burn hotkey"),
        (LEADING, SWITCHED, {ALICE: 4}, None, "the burn switch is on and no burn hotkey"),
    ],
)
def test_with_nobody_to_pay_nothing_is_sent_and_it_is_said_why(
    standing: LeaderboardChanged | None,
    burn: BurnSwitched | None,
    uids: Mapping[str, int],
    burn_hotkey: str | None,
    why: str,
) -> None:
    event = step(None, standing, burn, view(uids=uids), burn_hotkey=burn_hotkey)
    assert isinstance(event, WeightsSet)
    assert (event.outcome, event.reason, event.hotkey, event.weight) == ("not_sent", "nothing_to_set", None, 0.0)
    assert event.detail == f"{why}; nothing was sent"
    assert step(recorded(event)) is None, "the interval is settled"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"validator_uid": None, "permitted": False}, "is not registered on subnet 3: register it"),
        ({"permitted": False}, "has no validator permit on subnet 3"),
        ({"commit_reveal": True}, "wants weights committed in a way of its runtime that this release does not know"),
    ],
)
def test_a_validator_that_cannot_says_so(changes: dict[str, object], why: str) -> None:
    event = step(chain=view(**changes))
    assert isinstance(event, WeightsSet)
    assert (event.outcome, event.reason, event.uid, event.weight) == ("not_sent", "leader", 4, 0.0)
    assert why in event.detail


def test_it_may_give_everything_to_itself_without_a_permit_and_commit_where_it_can() -> None:
    assert isinstance(step(chain=view(permitted=False, validator_uid=4)), WeightsDecided)
    assert isinstance(step(chain=view(commit_reveal=True, can_commit=True)), WeightsDecided)


@pytest.mark.parametrize(("last_update", "waits"), [(0, False), (899, False), (900, False), (901, True), (1000, True)])
def test_the_rate_limit_is_waited_for(last_update: int, waits: bool) -> None:
    assert isinstance(step(chain=view(last_update=last_update)), Wait if waits else WeightsDecided)


def test_an_interval_that_is_set_is_settled_and_the_next_one_is_not() -> None:
    assert step(recorded(SET)) is None
    later = step(recorded(SET), now=NOW + timedelta(seconds=600))
    assert isinstance(later, WeightsDecided)
    assert (later.interval, later.attempt) == (INTERVAL + 1, 1)


@pytest.mark.parametrize(
    ("answer", "expected", "detail"),
    [
        ({}, "set", "Success"),
        ({"success": False, "message": "too fast", "row": ()}, "failed", "too fast"),
        ({"holder": "newcomer"}, "failed", f"Success, but uid 4 was no longer that of {ALICE}"),
        ({"holder": None}, "failed", f"Success, but uid 4 was no longer that of {ALICE}"),
        ({"row": ((5, 65_535),)}, "failed", "Success, but what the chain holds is ((5, 65535),)"),
        ({"row": ((4, 65_535), (5, 1))}, "failed", "Success, but what the chain holds is ((4, 65535), (5, 1))"),
        ({"committed": True, "row": ()}, "committed", "Success"),
    ],
)
def test_what_became_of_an_attempt(answer: dict[str, object], expected: str, detail: str) -> None:
    event = decide.outcome(DECIDED, msgspec.structs.replace(ANSWER, **answer), validator_hotkey=VALIDATOR)
    assert (event.outcome, event.detail) == (expected, detail)
    assert (event.block_number, event.extrinsic, event.validator_hotkey) == (1001, "0xab-1", VALIDATOR)


def test_a_failure_is_followed_by_another_attempt_after_a_pause_up_to_a_bound() -> None:
    failed = msgspec.structs.replace(SET, outcome="failed")
    assert isinstance(step(recorded(failed)), Wait)
    after = NOW + timedelta(seconds=decide.PAUSE_SECONDS)
    again = step(recorded(failed), now=after)
    assert isinstance(again, WeightsDecided)
    assert again.attempt == 2
    assert step(recorded(msgspec.structs.replace(failed, attempt=decide.MAX_ATTEMPTS)), now=after) is None


ARRIVED = view(block=1003, last_update=1001, row=((4, 65_535),))
UNREPORTED: list[tuple[str, ChainView, str | None, str]] = [
    ("it arrived", ARRIVED, "set", "found on the chain"),
    ("somebody set something else", view(block=1003, last_update=1001), None, ""),
    ("the row is as wanted, but of before", view(row=((4, 65_535),)), None, ""),
    ("nothing came", CHAIN, None, ""),
    ("committed", msgspec.structs.replace(ARRIVED, row=(), commit_reveal=True), "committed", "found on the chain"),
    ("moved", msgspec.structs.replace(ARRIVED, uids={ALICE: 8}), "failed", "no longer that of"),
    ("left", msgspec.structs.replace(ARRIVED, uids={}), "failed", "no longer that of"),
    ("the validator left", msgspec.structs.replace(ARRIVED, validator_uid=None), None, ""),
]


@pytest.mark.parametrize(("why", "chain", "expected", "detail"), UNREPORTED, ids=[row[0] for row in UNREPORTED])
@pytest.mark.parametrize("interval_later", [False, True])
def test_an_unreported_attempt_is_looked_for_on_the_chain_first(
    why: str, chain: ChainView, expected: str | None, detail: str, interval_later: bool
) -> None:
    last = recorded(DECIDED, at=NOW if not interval_later else BEGIN + timedelta(seconds=599))
    soon = last.envelope.time + timedelta(seconds=decide.GRACE_SECONDS - 1)
    event = step(last, chain=chain, now=soon)
    if expected is None:
        assert isinstance(event, Wait), why
        event = step(last, chain=chain, now=soon + timedelta(seconds=1))
        expected, detail = "failed", "nothing of it was on the chain 300 seconds later"
    assert isinstance(event, WeightsSet)
    assert (event.outcome, event.interval, event.attempt) == (expected, INTERVAL, 1)
    assert detail in event.detail


def test_an_interval_that_ended_is_recorded_with_what_it_waited_for_unless_it_is_settled() -> None:
    def ended(last: WeightsSet | WeightsDecided | None) -> WeightsSet | None:
        return decide.given_up(
            last,
            LEADING,
            None,
            interval=INTERVAL,
            economy=ECONOMY,
            burn_hotkey=BURN,
            validator_hotkey=VALIDATOR,
            why="the node is away",
        )

    event = ended(None)
    assert event is not None
    assert (event.outcome, event.hotkey, event.uid, event.detail) == (
        "not_sent",
        ALICE,
        None,
        "the interval ended: the node is away",
    )
    assert ended(SET) is None
    assert ended(event) is None
    assert ended(DECIDED) is None, "it may have arrived"
    assert ended(msgspec.structs.replace(SET, interval=INTERVAL + 1)) is None
    after_failure = ended(msgspec.structs.replace(SET, outcome="failed", attempt=2))
    assert after_failure is not None
    assert after_failure.attempt == 3


LIVES = st.lists(
    st.tuples(
        st.integers(0, 400),
        st.sampled_from(["reports", "dies before sending", "dies after sending", "is refused"]),
        st.integers(1, 20),
    ),
    max_size=30,
)


@given(LIVES)
def test_whenever_its_lives_end_no_attempt_is_sent_twice_and_no_interval_is_set_twice(
    lives: list[tuple[int, str, int]],
) -> None:
    """Each life takes one step at its time, and knows only the stream and the chain; a block passes each time."""
    story: list[Recorded] = []
    chain, now = view(rate_limit_blocks=0), NOW
    sent: list[int] = []
    for seconds, fate, blocks in lives:
        now += timedelta(seconds=seconds)
        chain = msgspec.structs.replace(chain, block=chain.block + blocks)
        event = step(story[-1] if story else None, chain=chain, now=now)
        if isinstance(event, WeightsSet):
            story.append(recorded(event, at=now))
        if not isinstance(event, WeightsDecided):
            continue
        story.append(recorded(event, at=now))
        answer = Answer(success=False, message="refused")
        if fate in ("reports", "dies after sending"):
            sent.append(event.interval)
            chain = msgspec.structs.replace(
                chain, block=chain.block + 1, last_update=chain.block + 1, row=((event.uid, 65_535),)
            )
            answer = msgspec.structs.replace(ANSWER, block_number=chain.block)
        if not fate.startswith("dies"):
            story.append(recorded(decide.outcome(event, answer, validator_hotkey=VALIDATOR), at=now))
    assert sent == sorted(set(sent))
    keys = [(type(item.event), item.event.id) for item in story]
    assert len(keys) == len(set(keys))
    numbers = [item.event.interval for item in story if isinstance(item.event, WeightsSet)]
    assert numbers == sorted(numbers)


ENVIRON = {
    "TOURNAMENT_NATS_URL": "nats://a",
    "TOURNAMENT_HPARAMS": "/etc/hparams.json",
    "TOURNAMENT_CHAIN_ENDPOINT": "ws://node",
    "TOURNAMENT_WALLET_NAME": "cold",
    "TOURNAMENT_WALLET_HOTKEY": "hot",
}


def test_settings_of_a_chain() -> None:
    assert from_environment(ENVIRON).chain == ChainSettings(
        endpoint="ws://node",
        wallet_name="cold",
        wallet_hotkey="hot",
        wallet_path=Path("~/.bittensor/wallets").expanduser().resolve(),
    )
    for missing in ("TOURNAMENT_WALLET_NAME", "TOURNAMENT_WALLET_HOTKEY"):
        with pytest.raises(SettingsError, match=f"{missing} is not set"):
            from_environment(ENVIRON | {missing: ""})


def test_a_hotkey_that_cannot_be_used_is_refused_without_its_words(tmp_path: Path) -> None:
    settings = ChainSettings(endpoint="ws://node", wallet_name="w", wallet_hotkey="h", wallet_path=tmp_path)
    with pytest.raises(SettingsError, match=r"there is no hotkey at .*/w/hotkeys/h: check TOURNAMENT_WALLET_NAME"):
        open_wallet(settings)
    keypair = Keypair.create_from_uri("//Alice//hot")
    file = bittensor.Wallet("w", "h", str(tmp_path)).hotkey_file
    file.set_keypair(keypair, encrypt=False)
    assert open_wallet(settings).hotkey.ss58_address == keypair.ss58_address
    file.set_keypair(keypair, encrypt=True, overwrite=True, password="secret")
    with pytest.raises(SettingsError, match="needs a password"):
        open_wallet(settings)
    Path(file.path).write_text('{"privateKey": "0xhidden"}')
    with pytest.raises(SettingsError, match="is no key") as refused:
        open_wallet(settings)
    assert "hidden" not in str(refused.value)
