"""Every interval -> WeightsSet. It can be killed at any point and run in any number of replicas: one of them records
an interval, once.
"""

import asyncio

from services.weights import decide
from shared import subjects
from shared.bus import Bus, retry_seconds
from shared.clock import Now
from shared.events import LeaderboardChanged, WeightsSet
from shared.faults import Conflict, TransientFault
from shared.hparams import Hparams
from shared.logs import logger


async def every_interval(bus: Bus, competition: Hparams, burn_hotkey: str | None, now: Now) -> None:
    """Record each interval as it begins, for ever; the present one at once."""
    length, faults = competition.economy.weights_interval_seconds, 0
    while True:
        try:
            await record(bus, competition, burn_hotkey, now)
        except TransientFault as fault:
            faults += 1
            logger().warning("weights not recorded yet", error=str(fault), attempt=faults)
            await asyncio.sleep(min(retry_seconds(faults), length))
        else:
            faults = 0
            await asyncio.sleep(decide.seconds_until_next(now(), interval_seconds=length))


async def record(bus: Bus, competition: Hparams, burn_hotkey: str | None, now: Now) -> None:
    """Decide and record the present interval, unless it is recorded.

    Raises:
        TransientFault: NATS did not answer. Ask again.
    """
    aggregate = subjects.weights(competition.economy.netuid)
    last = await bus.last(aggregate)
    leaderboard = await bus.last(subjects.leaderboard(competition.sha256))
    before = None if last is None else last.event
    standing = None if leaderboard is None else leaderboard.event
    assert before is None or isinstance(before, WeightsSet)
    assert standing is None or isinstance(standing, LeaderboardChanged)
    decided = decide.weights(
        before,
        standing,
        now=now(),
        economy=competition.economy,
        burn_hotkey=burn_hotkey,
    )
    for event in decided:
        try:
            await bus.append(
                event, aggregate=aggregate, expected=0 if last is None else last.sequence, cause=leaderboard
            )
        except Conflict:
            logger().info("recorded by another first", interval=event.interval)
        else:
            log = logger().error if event.reason == "nothing_to_set" else logger().info
            log("weights", interval=event.interval, reason=event.reason, hotkey=event.hotkey, outcome=event.outcome)
