"""Every interval -> WeightsDecided -> the chain -> WeightsSet. It can be killed at any point and run in any number of
replicas: one of them wins an attempt, and whoever comes after it asks the chain before sending anything again.
"""

import asyncio
from typing import NamedTuple

from services.weights import decide
from services.weights.chain import Weigher
from shared import subjects
from shared.bus import Bus, retry_seconds
from shared.clock import Now
from shared.events import BurnSwitched, LeaderboardChanged, Recorded, WeightsDecided, WeightsSet
from shared.faults import Conflict, TransientFault
from shared.hparams import Hparams
from shared.logs import logger

CONFLICT_SECONDS = 1.0
"""Another replica won: what it sent is not on the chain earlier."""
GIVE_UP_SECONDS = 10.0
"""For recording that an interval ended with nothing sent."""


class _Known(NamedTuple):
    """What the stream says."""

    last: Recorded | None
    leaderboard: Recorded | None
    burn: Recorded | None

    @property
    def event(self) -> WeightsSet | WeightsDecided | None:
        event = None if self.last is None else self.last.event
        assert event is None or isinstance(event, WeightsSet | WeightsDecided)
        return event

    @property
    def standing(self) -> LeaderboardChanged | None:
        event = None if self.leaderboard is None else self.leaderboard.event
        assert event is None or isinstance(event, LeaderboardChanged)
        return event

    @property
    def switch(self) -> BurnSwitched | None:
        event = None if self.burn is None else self.burn.event
        assert event is None or isinstance(event, BurnSwitched)
        return event

    @property
    def expected(self) -> int:
        return 0 if self.last is None else self.last.sequence

    @property
    def cause(self) -> Recorded | None:
        return self.burn if self.switch is not None and self.switch.on else self.leaderboard


async def every_interval(bus: Bus, competition: Hparams, burn_hotkey: str | None, now: Now) -> None:
    """Without a chain: record each interval as it begins, for ever; the present one at once."""
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
    """Without a chain: decide and record the present interval, unless it is recorded.

    Raises:
        Conflict: another interval was recorded meanwhile. Ask again.
        TransientFault: NATS did not answer. Ask again.
    """
    known = await _load(bus, competition)
    moment = now()
    if known.event is not None and decide.is_ahead(known.event, now=moment):
        logger().error("weights are recorded for the future: check the clock", interval=known.event.interval)
    decided = decide.weights(
        known.event,
        known.standing,
        now=moment,
        economy=competition.economy,
        burn_hotkey=burn_hotkey,
        burn=known.switch,
    )
    for event in decided:
        await _append(bus, competition, event, expected=known.expected, cause=known.cause)


async def every_interval_on_chain(
    bus: Bus, competition: Hparams, burn_hotkey: str | None, now: Now, *, weigher: Weigher, instance: str
) -> None:
    """With a chain: set the weights of each interval, for ever; the present one at once."""
    loop = asyncio.get_running_loop()
    length = competition.economy.weights_interval_seconds
    while True:
        moment = now()
        end = loop.time() + decide.seconds_until_next(moment, interval_seconds=length)
        why = await _until_settled(bus, competition, burn_hotkey, now, weigher=weigher, instance=instance, end=end)
        if why is not None:
            await _give_up(bus, competition, burn_hotkey, weigher, interval=int(moment.timestamp() // length), why=why)
        await asyncio.sleep(max(0.0, end - loop.time()))


async def _until_settled(
    bus: Bus,
    competition: Hparams,
    burn_hotkey: str | None,
    now: Now,
    *,
    weigher: Weigher,
    instance: str,
    end: float,
) -> str | None:
    """One step after another. An interval's end does not interrupt what is being sent.

    Returns:
        Why the interval ended unsettled; None when it is settled.
    """
    loop = asyncio.get_running_loop()
    faults = 0
    said = ""
    while True:
        try:
            waiting = await advance(bus, competition, burn_hotkey, now, weigher=weigher, instance=instance)
        except Conflict:
            logger().info("another replica was first")
            waiting = decide.Wait(seconds=CONFLICT_SECONDS, why="another replica was first")
        except TransientFault as fault:
            faults += 1
            logger().warning("weights not set yet", error=str(fault), attempt=faults)
            waiting = decide.Wait(seconds=retry_seconds(faults), why=str(fault))
        else:
            faults = 0
            if waiting is None:
                return None
            if waiting.why != said:
                logger().info("waiting to set weights", why=waiting.why)
        said = waiting.why
        if loop.time() + waiting.seconds >= end:
            await asyncio.sleep(max(0.0, end - loop.time()))
            return said
        await asyncio.sleep(waiting.seconds)


async def advance(
    bus: Bus, competition: Hparams, burn_hotkey: str | None, now: Now, *, weigher: Weigher, instance: str
) -> decide.Wait | None:
    """Do what is to be done next about the present interval. None: it is settled.

    Raises:
        Conflict: another replica recorded something meanwhile. Ask again.
        TransientFault: NATS or the chain did not answer. What was sent may have arrived; asking again finds out.
    """
    known = await _load(bus, competition)
    view = await weigher.view(_hotkeys(known, burn_hotkey))
    moment = now()
    if known.event is not None and decide.is_ahead(known.event, now=moment):
        logger().error("weights are recorded for the future: check the clock", interval=known.event.interval)
    chosen = decide.step(
        known.last,
        known.standing,
        known.switch,
        view,
        now=moment,
        economy=competition.economy,
        burn_hotkey=burn_hotkey,
        instance=instance,
    )
    if chosen is None or isinstance(chosen, decide.Wait):
        return chosen
    if isinstance(chosen, WeightsSet):
        await _append(bus, competition, chosen, expected=known.expected, cause=known.cause)
        return decide.Wait(seconds=0.0, why=chosen.detail)
    decided = await bus.append(
        chosen, aggregate=subjects.weights(chosen.netuid), expected=known.expected, cause=known.cause
    )
    if decided.event != chosen:
        # The same attempt of another process: it is the one that sends.
        raise Conflict(f"attempt {chosen.attempt} is another's")
    if (now() - moment).total_seconds() > decide.FRESH_SECONDS:
        raise TransientFault("the attempt took too long to be stored; it is not sent any more")
    logger().info("sending weights", interval=chosen.interval, hotkey=chosen.hotkey, uid=chosen.uid)
    answer = await weigher.send(chosen.uid)
    event = decide.outcome(chosen, answer, validator_hotkey=weigher.validator_hotkey)
    await _append(bus, competition, event, expected=decided.sequence, cause=decided)
    return decide.Wait(seconds=0.0, why=event.detail)


async def _give_up(
    bus: Bus, competition: Hparams, burn_hotkey: str | None, weigher: Weigher, *, interval: int, why: str
) -> None:
    """Record that an interval ended with nothing sent. When that cannot be recorded either, the log says so."""
    try:
        async with asyncio.timeout(GIVE_UP_SECONDS):
            known = await _load(bus, competition)
            event = decide.given_up(
                known.event,
                known.standing,
                known.switch,
                interval=interval,
                economy=competition.economy,
                burn_hotkey=burn_hotkey,
                validator_hotkey=weigher.validator_hotkey,
                why=why,
            )
            if event is not None:
                await _append(bus, competition, event, expected=known.expected, cause=known.cause)
    except Conflict:
        logger().info("another replica was first")
    except (TransientFault, TimeoutError) as fault:
        logger().error("an interval ended before its weights were known to be set", why=why, error=str(fault))


async def _load(bus: Bus, competition: Hparams) -> _Known:
    # The last ones only: to load every interval there ever was would make each slower than the one before.
    return _Known(
        last=await bus.last(subjects.weights(competition.economy.netuid)),
        leaderboard=await bus.last(subjects.leaderboard(competition.sha256)),
        burn=await bus.last(subjects.economy(competition.economy.netuid)),
    )


def _hotkeys(known: _Known, burn_hotkey: str | None) -> list[str]:
    """Whose uids matter."""
    wanted = [] if burn_hotkey is None else [burn_hotkey]
    if known.standing is not None and known.standing.top:
        wanted.append(known.standing.top[0].miner_hotkey)
    if isinstance(known.event, WeightsDecided):
        wanted.append(known.event.hotkey)
    return sorted(set(wanted))


async def _append(bus: Bus, competition: Hparams, event: WeightsSet, *, expected: int, cause: Recorded | None) -> None:
    aggregate = subjects.weights(competition.economy.netuid)
    stored = await bus.append(event, aggregate=aggregate, expected=expected, cause=cause)
    # When it is not this very object, a replica that decided the same was first.
    if stored.event is event:
        _tell(event)


def _tell(event: WeightsSet) -> None:
    if event.reason == "nothing_to_set" and event.outcome == "no_chain":
        logger().error(
            "no leader and no burn hotkey: nothing to set; set TOURNAMENT_BURN_HOTKEY", interval=event.interval
        )
    elif event.outcome in ("failed", "not_sent"):
        logger().error(
            "weights were not set",
            interval=event.interval,
            attempt=event.attempt,
            outcome=event.outcome,
            reason=event.reason,
            detail=event.detail,
        )
    else:
        logger().info(
            "weights",
            interval=event.interval,
            reason=event.reason,
            hotkey=event.hotkey,
            uid=event.uid,
            outcome=event.outcome,
        )
