"""Who gets the emission in an interval, and when the next one begins. Pure: no clock, no randomness, no I/O."""

from datetime import datetime

from shared.events import LeaderboardChanged, WeightsSet
from shared.hparams import Economy

NO_CHAIN = "no chain is configured, so nothing was sent"


def seconds_until_next(now: datetime, *, interval_seconds: int) -> float:
    """From `now` to the beginning of the next interval; never 0."""
    return interval_seconds - now.timestamp() % interval_seconds


def weights(
    last: WeightsSet | None,
    leaderboard: LeaderboardChanged | None,
    *,
    now: datetime,
    economy: Economy,
    burn_hotkey: str | None,
) -> list[WeightsSet]:
    """What to set now: all to the leader, else all to the burn hotkey, else nothing, which is recorded too.

    Intervals are counted from the Unix epoch, so that all replicas count alike. Nothing is decided when this interval,
    or a later one, is recorded. One that nobody was there for stays empty: the chain keeps what was set before, and
    cannot be told anything about the past.
    """
    length = economy.weights_interval_seconds
    interval = int(now.timestamp() // length)
    if last is not None and _begin_seconds(last) >= interval * length:
        return []
    leader = leaderboard.top[0] if leaderboard is not None and leaderboard.top else None
    hotkey = burn_hotkey if leader is None else leader.miner_hotkey
    return [
        WeightsSet(
            netuid=economy.netuid,
            interval=interval,
            interval_seconds=length,
            reason="leader" if leader is not None else "burn_no_leader" if hotkey is not None else "nothing_to_set",
            hotkey=hotkey,
            uid=None if leader is None else leader.miner_uid,
            weight=0.0 if hotkey is None else 1.0,
            leader_submission_id=None if leader is None else leader.submission_id,
            outcome="no_chain",
            detail=NO_CHAIN if hotkey is not None else f"there is no leader and no burn hotkey; {NO_CHAIN}",
        )
    ]


def is_ahead(last: WeightsSet, *, now: datetime) -> bool:
    """Whether an interval is recorded that has not begun by this clock: it, or the writer's, is wrong."""
    return _begin_seconds(last) > now.timestamp()


def _begin_seconds(weights: WeightsSet) -> int:
    """Unix time at which the interval began. Numbers are not compared: the length may have been another then."""
    return weights.interval * weights.interval_seconds
