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
    loop = asyncio.get_running_loop()
    while True:
        left = decide.seconds_until_next(now(), interval_seconds=competition.economy.weights_interval_seconds)
        end = loop.time() + left
        try:
            async with asyncio.timeout_at(end):
                await _until_recorded(bus, competition, burn_hotkey, now)
        except TimeoutError:
            logger().error("an interval ended before its weights were known to be recorded")
        await asyncio.sleep(end - loop.time())


async def _until_recorded(bus: Bus, competition: Hparams, burn_hotkey: str | None, now: Now) -> None:
    """Record the present interval, again and again while NATS does not answer. The caller bounds it."""
    attempt = 0
    while True:
        try:
            return await record(bus, competition, burn_hotkey, now)
        except Conflict:
            # By a replica; or by this process, whose publish of an earlier interval was given up and arrived late.
            logger().info("another was recorded first")
        except TransientFault as fault:
            attempt += 1
            logger().warning("weights not recorded yet", error=str(fault), attempt=attempt)
            await asyncio.sleep(retry_seconds(attempt))


async def record(bus: Bus, competition: Hparams, burn_hotkey: str | None, now: Now) -> None:
    """Decide and record the present interval, unless it is recorded.

    Raises:
        Conflict: another interval was recorded meanwhile. Ask again.
        TransientFault: NATS did not answer. Ask again.
    """
    aggregate = subjects.weights(competition.economy.netuid)
    # The last ones only: to load every interval there ever was would make each slower than the one before.
    last = await bus.last(aggregate)
    leaderboard = await bus.last(subjects.leaderboard(competition.sha256))
    known = None if last is None else last.event
    standing = None if leaderboard is None else leaderboard.event
    assert known is None or isinstance(known, WeightsSet)
    assert standing is None or isinstance(standing, LeaderboardChanged)
    moment = now()
    if known is not None and decide.is_ahead(known, now=moment):
        logger().error("weights are recorded for the future: check the clock", interval=known.interval)
    decided = decide.weights(known, standing, now=moment, economy=competition.economy, burn_hotkey=burn_hotkey)
    for event in decided:
        expected = 0 if last is None else last.sequence
        stored = await bus.append(event, aggregate=aggregate, expected=expected, cause=leaderboard)
        # When it is not this very object, a replica that decided the same was first.
        if stored.event is event:
            _tell(event)


def _tell(event: WeightsSet) -> None:
    if event.reason == "nothing_to_set":
        logger().error(
            "no leader and no burn hotkey: nothing to set; set TOURNAMENT_BURN_HOTKEY", interval=event.interval
        )
    else:
        logger().info("weights", interval=event.interval, reason=event.reason, hotkey=event.hotkey)
