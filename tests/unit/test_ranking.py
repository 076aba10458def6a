"""Ranking: the highest mean leads, the earlier wins a tie, and the same stream always gives the same changes."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.verifier.ranking import Ranking, apply
from shared.events import TOP_ROWS, Event, LeaderboardChanged, Standing
from shared.submission import Submission, evolve
from tests.support import stories
from tests.support.stories import COMPETITION, completed, finished, paid, requested, started, story, verified


def changes(*events: Event) -> list[LeaderboardChanged]:
    ranking = Ranking()
    found = (apply(ranking, recorded) for recorded in story(*events))
    return [change for change in found if change is not None]


def rows(top: Sequence[Standing]) -> list[tuple[int, str, float]]:
    return [(row.rank, row.submission_id, row.score) for row in top]


def test_nothing_is_ranked_before_all_runs_passed() -> None:
    assert changes(paid(), *finished("s1", (1.0, 2.0, 3.0))[:-1]) == []


def test_the_verdict_that_finishes_a_submission_ranks_it_by_its_mean() -> None:
    (change,) = changes(paid("s1", uid=7), *finished("s1", (1.0, 2.0, 6.0)))
    expected = Standing(
        rank=1, submission_id="s1", miner_hotkey=stories.ALICE, miner_uid=7, score=3.0, submitted_sequence=1
    )
    assert change == LeaderboardChanged(
        competition=COMPETITION, cause_sequence=9, entry=expected, ranked=1, top=(expected,)
    )


def test_the_highest_score_leads() -> None:
    found = changes(paid("slow"), paid("fast"), *finished("slow", (10.0,)), *finished("fast", (20.0,)))
    assert [change.entry.rank for change in found] == [1, 1]
    assert rows(found[-1].top) == [(1, "fast", 20.0), (2, "slow", 10.0)]
    assert found[-1].ranked == 2


def test_the_earlier_submission_wins_a_tie_whoever_was_evaluated_first() -> None:
    found = changes(paid("early"), paid("late"), *finished("late", (10.0,)), *finished("early", (10.0,)))
    assert rows(found[-1].top) == [(1, "early", 10.0), (2, "late", 10.0)]
    assert found[-1].entry.rank == 1


@pytest.mark.parametrize("failure", ["crashed", "output_mismatch"])
def test_a_failed_submission_is_not_ranked(failure: str) -> None:
    events = (
        paid(),
        requested(runs=2),
        started(),
        completed(0),
        verified(0),
        completed(1),
        verified(1, failure=failure),
    )
    assert changes(*events) == []


def test_a_retest_replaces_the_entry_and_keeps_its_place_in_time() -> None:
    found = changes(
        paid("s1"),
        paid("s2"),
        *finished("s1", (30.0,)),
        *finished("s2", (20.0,)),
        *finished("s1", (20.0,), evaluation="again"),
    )
    assert rows(found[-1].top) == [(1, "s1", 20.0), (2, "s2", 20.0)]
    assert found[-1].ranked == 2
    found = changes(
        paid("s1"),
        paid("s2"),
        *finished("s1", (30.0,)),
        *finished("s2", (20.0,)),
        *finished("s1", (10.0,), evaluation="again"),
    )
    assert rows(found[-1].top) == [(1, "s2", 20.0), (2, "s1", 10.0)]


def test_competitions_are_never_mixed() -> None:
    found = changes(
        paid("s1"),
        paid("s2"),
        *finished("s1", (10.0,)),
        *finished("s2", (20.0,), competition="other"),
        *finished("s1", (30.0,), evaluation="again", competition="other"),
    )
    assert [(change.competition, rows(change.top)) for change in found] == [
        (COMPETITION, [(1, "s1", 10.0)]),
        ("other", [(1, "s2", 20.0)]),
        ("other", [(1, "s1", 30.0), (2, "s2", 20.0)]),
    ]


def test_only_the_head_is_carried_and_the_entry_always() -> None:
    names = [f"s{number:02}" for number in range(TOP_ROWS + 2)]
    events: list[Event] = [paid(name) for name in names]
    for number, name in enumerate(names):
        events += finished(name, (100.0 - number,))
    change = changes(*events)[-1]
    assert [row.submission_id for row in change.top] == names[:TOP_ROWS]
    assert (change.entry.rank, change.entry.submission_id, change.ranked) == (12, "s11", 12)


def test_a_doubled_verdict_ranks_once() -> None:
    events = (paid(), *finished("s1", (1.0,), evaluation="e1"))
    assert len(changes(*events, verified(0, submission="s1", evaluation="e1"))) == 1


EVALUATIONS = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.lists(st.integers(1, 4).map(float), min_size=1, max_size=3),
        st.sampled_from([COMPETITION, "other"]),
        st.booleans(),
    ),
    max_size=25,
)


def brute_force(events: Sequence[Event]) -> list[tuple[str, list[tuple[int, str, float]]]]:
    """Every leaderboard after every event that changed one, sorted from scratch."""
    states: dict[str, Submission | None] = {}
    latest: dict[tuple[str, str], tuple[float, int]] = {}
    boards = []
    for recorded in story(*events):
        name = recorded.subject.split(".")[2]
        before = states.get(name)
        state = states[name] = evolve(before, recorded)
        if state is None or state.final_score is None or (before is not None and before.final_score is not None):
            continue
        assert state.requested is not None
        competition = state.requested.hparams_sha256
        latest[competition, name] = (state.final_score, state.paid_sequence)
        entries = [(key[1], *value) for key, value in latest.items() if key[0] == competition]
        entries.sort(key=lambda entry: (-entry[1], entry[2]))
        boards.append((competition, [(rank, entry[0], entry[1]) for rank, entry in enumerate(entries, start=1)]))
    return boards


@given(evaluations=EVALUATIONS)
def test_it_ranks_as_sorting_from_scratch_does(
    evaluations: list[tuple[int, list[float], str, bool]],
) -> None:
    events: list[Event] = [paid(f"s{number}") for number in range(6)]
    for number, (miner, scores, competition, passes) in enumerate(evaluations):
        events += finished(f"s{miner}", tuple(scores), evaluation=f"e{number}", competition=competition)
        if not passes:
            events[-1] = verified(len(scores) - 1, submission=f"s{miner}", evaluation=f"e{number}", failure="crashed")
    found = changes(*events)
    assert [(change.competition, rows(change.top)) for change in found] == brute_force(events)
    assert len({change.id for change in found}) == len(found)


def test_logs_are_not_kept_in_memory() -> None:
    ranking = Ranking()
    for recorded in story(paid(), *finished("s1", (1.0,))):
        apply(ranking, recorded)
    assert [run.completed.log_tail for run in ranking.submissions["s1"].runs] == [""]
