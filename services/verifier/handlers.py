"""RunCompleted -> Verified by a work queue; Verified, Disqualified, Reinstated -> LeaderboardChanged by following the
stream. Both can be killed at any point and run in any number of replicas: what is recorded already is recognised, never
repeated.
"""

import asyncio

from services.verifier import decide, ranking
from services.verifier.judge import Judgement, judge
from shared import evidence, hparams, subjects
from shared.artifacts import ArtifactStore
from shared.bus import Bus, retry_seconds
from shared.events import LeaderboardChanged, Recorded, RunCompleted
from shared.faults import Conflict, PoisonMessage, TransientFault
from shared.logs import logger


async def verify(bus: Bus, artifacts: ArtifactStore, recorded: Recorded, deliveries: int) -> None:
    """Handle one RunCompleted: judge its evidence and record the verdict."""
    completed = _completed(recorded)
    aggregate = subjects.submission(completed.submission_id)
    if not decide.awaits_verdict(await bus.load(aggregate), completed):
        return
    judgement = None if completed.failure else await asyncio.to_thread(_judge, artifacts, completed)
    verified = decide.verdict(completed, judgement)
    await bus.transact(aggregate, lambda story: decide.record(story, completed, verified), cause=recorded)
    logger().info("verified", run=completed.run_index, failure=verified.failure, detail=verified.detail)


async def give_up(bus: Bus, recorded: Recorded, deliveries: int, why: str) -> None:
    """Make it visible that a run could not be judged. The miner is not blamed."""
    completed = _completed(recorded)
    await bus.transact(
        subjects.submission(completed.submission_id),
        lambda story: decide.abandon(story, completed, detail=why, deliveries=deliveries),
        cause=recorded,
    )


async def rank(bus: Bus) -> None:
    """Follow the stream from its start, for ever, and record every change of a leaderboard that is not there yet."""
    standings = ranking.Ranking()
    recorded_up_to: dict[str, int] = {}
    async for batch in bus.follow(after=0):
        for recorded in batch:
            for change in ranking.apply(standings, recorded):
                if change.cause_sequence > recorded_up_to.get(change.competition, 0):
                    recorded_up_to[change.competition] = await _record(bus, change, cause=recorded)


async def _record(bus: Bus, change: LeaderboardChanged, *, cause: Recorded) -> int:
    """Record a change unless it is; returns the cause sequence up to which the leaderboard is recorded now.

    Every replica derives the same changes in the same order and appends each only after the one before. So the last
    one recorded tells which are: to load the whole leaderboard for each would make replay quadratic.
    """
    aggregate = subjects.leaderboard(change.competition)
    attempt = 0
    while True:
        try:
            last = await bus.last(aggregate)
            if last is not None:
                assert isinstance(last.event, LeaderboardChanged)
                if last.event.cause_sequence >= change.cause_sequence:
                    return last.event.cause_sequence
            await bus.append(change, aggregate=aggregate, expected=0 if last is None else last.sequence, cause=cause)
        except Conflict:
            logger().info("ranked by another first", competition=change.competition)
        except TransientFault as fault:
            attempt += 1
            logger().warning("leaderboard not recorded yet", error=str(fault), attempt=attempt)
            await asyncio.sleep(retry_seconds(attempt))
        else:
            if change.entry is None:
                logger().info("left the ranking", submission=change.removed_submission_id)
            else:
                logger().info("ranked", submission=change.entry.submission_id, rank=change.entry.rank)
            return change.cause_sequence


def _completed(recorded: Recorded) -> RunCompleted:
    if not isinstance(recorded.event, RunCompleted):
        raise PoisonMessage(f"expected RunCompleted, received {recorded.envelope.type}")
    return recorded.event


def _judge(artifacts: ArtifactStore, completed: RunCompleted) -> Judgement:
    if completed.evidence_sha256 is None or completed.reference_sha256 is None:
        raise PoisonMessage("the run has neither a failure nor both bundles of evidence")
    try:
        expected = hparams.parse(artifacts.get(completed.hparams_sha256))
    except hparams.HparamsError as error:
        raise PoisonMessage(f"the run's hparams cannot be used: {error}") from error
    return judge(
        evidence.decode(artifacts.get(completed.evidence_sha256)),
        evidence.decode(artifacts.get(completed.reference_sha256)),
        tokens=completed.tokens,
        expected=expected,
    )
