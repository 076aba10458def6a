"""The standings of every competition as a fold over the stream. Pure: the same events always give the same changes.

A submission holds at most one place in a competition, by its latest finished evaluation there. The highest mean of
tokens per second leads; on a tie, whoever was submitted first.
"""

import bisect
from dataclasses import dataclass, field

import msgspec

from shared.events import TOP_ROWS, LeaderboardChanged, Recorded, RunCompleted, Standing, Verified
from shared.submission import Submission, evolve


@dataclass(frozen=True, kw_only=True, order=True)
class Place:
    """Sorts by its first two fields: the best place is the least."""

    negated_score: float
    submitted_sequence: int
    submission_id: str = field(compare=False)
    miner_hotkey: str = field(compare=False)
    miner_uid: int | None = field(compare=False)


@dataclass(frozen=True)
class Ranking:
    """The fold's accumulator: folded into in place, because a copy for each event would make replay quadratic."""

    submissions: dict[str, Submission] = field(default_factory=dict)
    places: dict[str, list[Place]] = field(default_factory=dict)
    """By competition (hparams sha256), best first."""
    held: dict[tuple[str, str], Place] = field(default_factory=dict)
    """The same by competition and submission."""


def apply(ranking: Ranking, recorded: Recorded) -> LeaderboardChanged | None:
    """Fold one event, in stream order. Returns the change that it causes, if it is the verdict that finishes one."""
    category, submission_id = recorded.subject.split(".")[1:3]
    if category != "submission":
        return None
    before = ranking.submissions.get(submission_id)
    after = evolve(before, _without_log(recorded))
    if after is None:
        return None
    ranking.submissions[submission_id] = after
    already = before is not None and before.status == "finished"
    if not isinstance(recorded.event, Verified) or already or after.status != "finished":
        return None
    return _enter(ranking, after, cause_sequence=recorded.sequence)


def _without_log(recorded: Recorded) -> Recorded:
    """Logs are most of a run's size and no part of its rank: whoever keeps every submission leaves them out."""
    if not isinstance(recorded.event, RunCompleted):
        return recorded
    completed = msgspec.structs.replace(recorded.event, log_tail="")
    return msgspec.structs.replace(recorded, envelope=msgspec.structs.replace(recorded.envelope, data=completed))


def _enter(ranking: Ranking, finished: Submission, *, cause_sequence: int) -> LeaderboardChanged:
    assert finished.requested is not None
    assert finished.final_score is not None
    competition = finished.requested.hparams_sha256
    places = ranking.places.setdefault(competition, [])
    earlier = ranking.held.get((competition, finished.submission_id))
    if earlier is not None:
        del places[bisect.bisect_left(places, earlier)]
    entry = Place(
        negated_score=-finished.final_score,
        submitted_sequence=finished.paid_sequence,
        submission_id=finished.submission_id,
        miner_hotkey=finished.paid.miner_hotkey,
        miner_uid=finished.paid.miner_uid,
    )
    index = bisect.bisect(places, entry)
    places.insert(index, entry)
    ranking.held[competition, finished.submission_id] = entry
    return LeaderboardChanged(
        competition=competition,
        cause_sequence=cause_sequence,
        entry=_standing(entry, rank=index + 1),
        ranked=len(places),
        top=tuple(_standing(place, rank=rank) for rank, place in enumerate(places[:TOP_ROWS], start=1)),
    )


def _standing(place: Place, *, rank: int) -> Standing:
    return Standing(
        rank=rank,
        submission_id=place.submission_id,
        miner_hotkey=place.miner_hotkey,
        miner_uid=place.miner_uid,
        score=-place.negated_score,
        submitted_sequence=place.submitted_sequence,
    )
