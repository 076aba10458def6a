"""Who gets the emission in an interval, and what to do next about it. Pure: no clock, no randomness, no I/O."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

import msgspec

from shared.events import BurnSwitched, LeaderboardChanged, Recorded, WeightsDecided, WeightsReason, WeightsSet
from shared.hparams import Economy

NO_CHAIN = "no chain is configured, so nothing was sent"
FULL_WEIGHT = 65_535
"""All of it, as the chain stores it."""
ERA_BLOCKS = 8
"""For how many blocks a transaction of ours is valid: 96 seconds."""
FRESH_SECONDS = 30.0
"""How old an attempt may be when it is sent. Storing it can take minutes while NATS is away."""
GRACE_SECONDS = 300.0
"""How long an attempt is given to arrive, from its WeightsDecided: 30 to be stored, 30 to connect, 110 to be sent, 96
that it is valid. One that has not arrived by then never will, and may be repeated.
"""
MAX_ATTEMPTS = 5
"""In one interval."""
PAUSE_SECONDS = 10.0
"""After an attempt that failed, before the next."""
POLL_SECONDS = 3.0
"""Before asking the chain again, while waiting for it."""


class ChainView(msgspec.Struct, frozen=True, kw_only=True):
    """What the chain says, all at one final block."""

    block: int
    validator_hotkey: str
    validator_uid: int | None
    """None when it is not registered on the subnet."""
    permitted: bool
    """Whether it may give weight to others."""
    last_update: int
    """The block in which the validator's weights were set or committed last; 0: never."""
    row: tuple[tuple[int, int], ...]
    """The validator's weights that are in force: uid and weight."""
    rate_limit_blocks: int
    commit_reveal: bool
    """Whether weights are to be committed, for the chain to reveal."""
    can_commit: bool
    """Whether this release knows how this runtime wants them committed."""
    uids: Mapping[str, int]
    """Of those asked about that are registered, by hotkey."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one transaction."""

    success: bool
    message: str
    committed: bool = False
    block_number: int | None = None
    extrinsic: str | None = None
    row: tuple[tuple[int, int], ...] = ()
    """The validator's weights after it, read back at its block."""
    holder: str | None = None
    """Whose the uid was at that block."""


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing can be done yet."""

    seconds: float
    why: str


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Who is to get everything; nobody when there is no hotkey."""

    reason: WeightsReason
    hotkey: str | None
    leader_submission_id: str | None = None
    why_not: str = ""


def seconds_until_next(now: datetime, *, interval_seconds: int) -> float:
    """From `now` to the beginning of the next interval; never 0."""
    return interval_seconds - now.timestamp() % interval_seconds


def target(
    leaderboard: LeaderboardChanged | None,
    burn: BurnSwitched | None,
    burn_hotkey: str | None,
    registered: Mapping[str, int] | None,
) -> Target:
    """The leader, else the burn hotkey. Without `registered`, where no chain can be asked, everybody is."""

    def is_registered(hotkey: str) -> bool:
        return registered is None or hotkey in registered

    leader = leaderboard.top[0] if leaderboard is not None and leaderboard.top else None
    switched = burn is not None and burn.on
    reason: WeightsReason
    if switched:
        reason, cause = "burn_switched", "the burn switch is on"
    elif leader is None:
        reason, cause = "burn_no_leader", "there is no leader"
    elif is_registered(leader.miner_hotkey):
        return Target(reason="leader", hotkey=leader.miner_hotkey, leader_submission_id=leader.submission_id)
    else:
        reason, cause = "burn_leader_deregistered", f"the leader {leader.miner_hotkey} is not registered any more"
    submission = None if leader is None or switched else leader.submission_id
    if burn_hotkey is not None and is_registered(burn_hotkey):
        return Target(reason=reason, hotkey=burn_hotkey, leader_submission_id=submission)
    lacking = "no burn hotkey" if burn_hotkey is None else f"the burn hotkey {burn_hotkey} is not registered"
    return Target(
        reason="nothing_to_set", hotkey=None, leader_submission_id=submission, why_not=f"{cause} and {lacking}"
    )


def weights(
    last: WeightsSet | WeightsDecided | None,
    leaderboard: LeaderboardChanged | None,
    *,
    now: datetime,
    economy: Economy,
    burn_hotkey: str | None,
    burn: BurnSwitched | None = None,
) -> list[WeightsSet]:
    """Without a chain: what would be set now. All to the leader, else all to the burn hotkey, else nothing, which is
    recorded too.

    Intervals are counted from the Unix epoch, so that all replicas count alike. Nothing is decided when this interval,
    or a later one, is recorded. One that nobody was there for stays empty: the chain keeps what was set before, and
    cannot be told anything about the past.
    """
    length = economy.weights_interval_seconds
    interval = int(now.timestamp() // length)
    if last is not None and _begin_seconds(last) >= interval * length:
        return []
    wanted = target(leaderboard, burn, burn_hotkey, None)
    leader = leaderboard.top[0] if leaderboard is not None and leaderboard.top else None
    return [
        WeightsSet(
            netuid=economy.netuid,
            interval=interval,
            interval_seconds=length,
            reason=wanted.reason,
            hotkey=wanted.hotkey,
            uid=leader.miner_uid if leader is not None and wanted.reason == "leader" else None,
            weight=0.0 if wanted.hotkey is None else 1.0,
            leader_submission_id=wanted.leader_submission_id,
            outcome="no_chain",
            detail=NO_CHAIN if wanted.hotkey is not None else f"{wanted.why_not}; {NO_CHAIN}",
        )
    ]


def step(
    last: Recorded | None,
    leaderboard: LeaderboardChanged | None,
    burn: BurnSwitched | None,
    chain: ChainView,
    *,
    now: datetime,
    economy: Economy,
    burn_hotkey: str | None,
    instance: str,
) -> WeightsDecided | WeightsSet | Wait | None:
    """With a chain: record this attempt and send it, record this outcome, wait, or (None) this interval is settled.

    An attempt that nobody has reported comes first, of whatever interval it is: nothing is sent while it may still
    arrive. The uid is always the chain's own of now: a hotkey may have moved since it was ranked.
    """
    event = None if last is None else last.event
    if last is not None and isinstance(event, WeightsDecided):
        return _resumed(event, last.envelope.time, chain, now=now)
    assert event is None or isinstance(event, WeightsSet)
    length = economy.weights_interval_seconds
    interval = int(now.timestamp() // length)
    attempt = _next_attempt(event, begin_seconds=interval * length)
    if attempt is None:
        return None
    if last is not None and attempt > 1 and (left := PAUSE_SECONDS - _age_seconds(last.envelope.time, now)) > 0:
        return Wait(seconds=left, why="the attempt before failed")
    wanted = target(leaderboard, burn, burn_hotkey, chain.uids)
    uid = None if wanted.hotkey is None else chain.uids[wanted.hotkey]
    if wanted.hotkey is None or uid is None or (obstacle := _obstacle(chain, uid, economy.netuid)) is not None:
        why = wanted.why_not if wanted.hotkey is None else obstacle
        return _not_sent(
            wanted,
            uid=uid,
            interval=interval,
            attempt=attempt,
            economy=economy,
            validator_hotkey=chain.validator_hotkey,
            detail=f"{why}; nothing was sent",
        )
    since = chain.block - chain.last_update
    if chain.last_update > 0 and since < chain.rate_limit_blocks:
        return Wait(
            seconds=POLL_SECONDS,
            why=f"weights were set {since} blocks ago and the chain's limit is one in {chain.rate_limit_blocks} blocks",
        )
    return WeightsDecided(
        netuid=economy.netuid,
        interval=interval,
        interval_seconds=length,
        attempt=attempt,
        instance=instance,
        reason=wanted.reason,
        hotkey=wanted.hotkey,
        uid=uid,
        leader_submission_id=wanted.leader_submission_id,
        chain_block=chain.block,
    )


def outcome(decided: WeightsDecided, answer: Answer, *, validator_hotkey: str) -> WeightsSet:
    """What became of an attempt, by the chain's answer and by what was read back."""
    if not answer.success:
        return _reported(decided, "failed", answer.message, validator_hotkey=validator_hotkey, answer=answer)
    if answer.holder != decided.hotkey:
        why = f"{answer.message}, but uid {decided.uid} was no longer that of {decided.hotkey}"
        return _reported(decided, "failed", why, validator_hotkey=validator_hotkey, answer=answer)
    if answer.committed:
        return _reported(decided, "committed", answer.message, validator_hotkey=validator_hotkey, answer=answer)
    if answer.row != _all_to(decided.uid):
        why = f"{answer.message}, but what the chain holds is {answer.row}"
        return _reported(decided, "failed", why, validator_hotkey=validator_hotkey, answer=answer)
    return _reported(decided, "set", answer.message, validator_hotkey=validator_hotkey, answer=answer)


def given_up(
    last: WeightsSet | WeightsDecided | None,
    leaderboard: LeaderboardChanged | None,
    burn: BurnSwitched | None,
    *,
    interval: int,
    economy: Economy,
    burn_hotkey: str | None,
    validator_hotkey: str,
    why: str,
) -> WeightsSet | None:
    """The interval ended before anything could be sent. None when it is settled, or an attempt is still out."""
    if isinstance(last, WeightsDecided):
        return None
    attempt = _next_attempt(last, begin_seconds=interval * economy.weights_interval_seconds)
    if attempt is None:
        return None
    return _not_sent(
        target(leaderboard, burn, burn_hotkey, None),
        uid=None,
        interval=interval,
        attempt=attempt,
        economy=economy,
        validator_hotkey=validator_hotkey,
        detail=f"the interval ended: {why}",
    )


def is_ahead(last: WeightsSet | WeightsDecided, *, now: datetime) -> bool:
    """Whether an interval is recorded that has not begun by this clock: it, or the writer's, is wrong."""
    return _begin_seconds(last) > now.timestamp()


def _resumed(decided: WeightsDecided, decided_at: datetime, chain: ChainView, *, now: datetime) -> WeightsSet | Wait:
    """An attempt of which nobody has said what became: another replica is at it, or it died. Only the chain knows."""
    arrived = chain.validator_uid is not None and chain.last_update > decided.chain_block
    answer = Answer(success=arrived, message="found on the chain", block_number=chain.last_update if arrived else None)
    hotkey = chain.validator_hotkey
    if arrived and (chain.commit_reveal or chain.row == _all_to(decided.uid)):
        if chain.uids.get(decided.hotkey) != decided.uid:
            why = f"found on the chain, but uid {decided.uid} is no longer that of {decided.hotkey}"
            return _reported(decided, "failed", why, validator_hotkey=hotkey, answer=answer)
        return _reported(
            decided,
            "committed" if chain.commit_reveal else "set",
            answer.message,
            validator_hotkey=hotkey,
            answer=answer,
        )
    if (left := GRACE_SECONDS - _age_seconds(decided_at, now)) > 0:
        return Wait(seconds=min(left, POLL_SECONDS), why="it is not known yet what became of an attempt")
    why = f"nothing of it was on the chain {GRACE_SECONDS:.0f} seconds later"
    return _reported(decided, "failed", why, validator_hotkey=hotkey, answer=Answer(success=False, message=""))


def _reported(
    decided: WeightsDecided,
    result: Literal["set", "committed", "failed"],
    detail: str,
    *,
    validator_hotkey: str,
    answer: Answer,
) -> WeightsSet:
    return WeightsSet(
        netuid=decided.netuid,
        interval=decided.interval,
        interval_seconds=decided.interval_seconds,
        reason=decided.reason,
        hotkey=decided.hotkey,
        uid=decided.uid,
        weight=1.0,
        leader_submission_id=decided.leader_submission_id,
        outcome=result,
        detail=detail,
        attempt=decided.attempt,
        validator_hotkey=validator_hotkey,
        block_number=answer.block_number,
        extrinsic=answer.extrinsic,
    )


def _not_sent(
    wanted: Target,
    *,
    uid: int | None,
    interval: int,
    attempt: int,
    economy: Economy,
    validator_hotkey: str,
    detail: str,
) -> WeightsSet:
    return WeightsSet(
        netuid=economy.netuid,
        interval=interval,
        interval_seconds=economy.weights_interval_seconds,
        reason=wanted.reason,
        hotkey=wanted.hotkey,
        uid=uid,
        weight=0.0,
        leader_submission_id=wanted.leader_submission_id,
        outcome="not_sent",
        detail=detail,
        attempt=attempt,
        validator_hotkey=validator_hotkey,
    )


def _obstacle(chain: ChainView, uid: int, netuid: int) -> str | None:
    """Why this validator cannot set these weights at all, and what to do about it."""
    if chain.validator_uid is None:
        return f"the validator's hotkey {chain.validator_hotkey} is not registered on subnet {netuid}: register it"
    if not chain.permitted and uid != chain.validator_uid:
        return f"the validator's hotkey {chain.validator_hotkey} has no validator permit on subnet {netuid}: stake more"
    if chain.commit_reveal and not chain.can_commit:
        return f"subnet {netuid} wants weights committed in a way of its runtime that this release does not know"
    return None


def _next_attempt(last: WeightsSet | None, *, begin_seconds: int) -> int | None:
    """Number of the next attempt in the interval that began then; None when there is to be none."""
    if last is None or _begin_seconds(last) < begin_seconds:
        return 1
    if _begin_seconds(last) > begin_seconds or last.outcome != "failed" or last.attempt >= MAX_ATTEMPTS:
        return None
    return last.attempt + 1


def _all_to(uid: int) -> tuple[tuple[int, int], ...]:
    return ((uid, FULL_WEIGHT),)


def _age_seconds(since: datetime, now: datetime) -> float:
    return (now - since).total_seconds()


def _begin_seconds(weights: WeightsSet | WeightsDecided) -> int:
    """Unix time at which the interval began. Numbers are not compared: the length may have been another then."""
    return weights.interval * weights.interval_seconds
