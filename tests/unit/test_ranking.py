"""Ranking: the highest mean leads, the earlier wins a tie, and the same stream always gives the same changes."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.verifier.ranking import Ranking, apply
from shared.events import TOP_ROWS, Event, LeaderboardChanged, Standing
from shared.submission import Submission, evolve
from tests.support import stories
from tests.support.stories import (
    COMPETITION,
    completed,
    disqualified,
    finished,
    paid,
    reinstated,
    requested,
    started,
    story,
    verified,
)


def changes(*events: Event) -> list[LeaderboardChanged]:
    ranking = Ranking()
    return [change for recorded in story(*events) for change in apply(ranking, recorded)]


def ranks(found: Sequence[LeaderboardChanged]) -> list[int | None]:
    """What was entered at which rank; None: something left."""
    return [None if change.entry is None else change.entry.rank for change in found]


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
    assert ranks(found) == [1, 1]
    assert rows(found[-1].top) == [(1, "fast", 20.0), (2, "slow", 10.0)]
    assert found[-1].ranked == 2


def test_the_earlier_submission_wins_a_tie_whoever_was_evaluated_first() -> None:
    found = changes(paid("early"), paid("late"), *finished("late", (10.0,)), *finished("early", (10.0,)))
    assert rows(found[-1].top) == [(1, "early", 10.0), (2, "late", 10.0)]
    assert ranks(found)[-1] == 1


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
    assert change.entry is not None
    assert (change.entry.rank, change.entry.submission_id, change.ranked) == (12, "s11", 12)


def test_a_doubled_verdict_ranks_once() -> None:
    events = (paid(), *finished("s1", (1.0,), evaluation="e1"))
    assert len(changes(*events, verified(0, submission="s1", evaluation="e1"))) == 1


TWO: tuple[Event, ...] = (paid("s1"), paid("s2"), *finished("s1", (30.0,)), *finished("s2", (20.0,)))


def test_whoever_is_disqualified_leaves_and_the_next_leads() -> None:
    found = changes(*TWO, disqualified("s1"))
    assert found[-1] == LeaderboardChanged(
        competition=COMPETITION,
        cause_sequence=len(TWO) + 1,
        entry=None,
        ranked=1,
        top=found[-1].top,
        removed_submission_id="s1",
    )
    assert rows(found[-1].top) == [(1, "s2", 20.0)]
    (_, _, _, last) = changes(*TWO, disqualified("s1"), disqualified("s2"))
    assert (last.top, last.ranked) == ((), 0)


def test_whoever_is_reinstated_returns_to_its_place() -> None:
    found = changes(*TWO, disqualified("s1"), reinstated("s1"))
    assert ranks(found) == [1, 2, None, 1]
    assert found[-1].top == found[1].top
    assert (found[-1].cause_sequence, found[-1].ranked) == (len(TWO) + 2, 2)


def test_whoever_is_disqualified_before_it_finished_is_ranked_when_reinstated() -> None:
    first, *rest = (paid(), *finished("s1", (10.0,)))
    for at in range(len(rest) + 1):
        away = (first, *rest[:at], disqualified(), *rest[at:])
        assert ranks(changes(*away)) == ([1, None] if at == len(rest) else [])
        assert ranks(changes(*away, reinstated()))[-1] == 1
    assert changes(first, *rest[:-1], disqualified(), reinstated()) == []


def test_a_retest_while_disqualified_counts_when_reinstated() -> None:
    found = changes(*TWO, disqualified("s1"), *finished("s1", (10.0,), evaluation="again"), reinstated("s1"))
    assert ranks(found) == [1, 2, None, 2]
    assert rows(found[-1].top) == [(1, "s2", 20.0), (2, "s1", 10.0)]


def test_while_a_retest_runs_it_is_the_place_before_that_is_left() -> None:
    found = changes(*TWO, requested("s1", "again"), started("s1", "again"), disqualified("s1"), reinstated("s1"))
    assert ranks(found) == [1, 2, None, 1]


def test_it_leaves_every_competition() -> None:
    found = changes(*TWO, *finished("s1", (5.0,), evaluation="again", competition="other"), disqualified("s1"))
    assert [(change.competition, change.removed_submission_id, rows(change.top)) for change in found[3:]] == [
        (COMPETITION, "s1", [(1, "s2", 20.0)]),
        ("other", "s1", []),
    ]
    assert len({change.id for change in found}) == len(found)


def test_what_is_decided_twice_changes_the_ranking_once() -> None:
    twice = (disqualified("s1"), disqualified("s1"), reinstated("s1"), reinstated("s1"))
    assert ranks(changes(*TWO, *twice)) == [1, 2, None, 1]


TURNS = st.lists(
    st.one_of(
        st.tuples(
            st.integers(0, 5),
            st.lists(st.integers(1, 4).map(float), min_size=1, max_size=3),
            st.sampled_from([COMPETITION, "other"]),
            st.booleans(),
        ),
        st.tuples(st.integers(0, 5), st.sampled_from([disqualified, reinstated])),
    ),
    max_size=25,
)
"""Whole evaluations, and what operators decide between them."""


def brute_force(events: Sequence[Event]) -> list[tuple[str, list[tuple[int, str, float]]]]:
    """Every leaderboard whenever its rows may have changed, sorted from scratch out of all that ever passed."""
    states: dict[str, Submission | None] = {}
    latest: dict[tuple[str, str], tuple[float, int]] = {}
    boards = []
    for recorded in story(*events):
        name = recorded.subject.split(".")[2]
        before = states.get(name)
        state = states[name] = evolve(before, recorded)
        assert state is not None
        changed = []
        if before is not None and (before.disqualified is None) != (state.disqualified is None):
            changed = [competition for competition, submission in latest if submission == name]
        elif state.score is not None and (before is None or before.score is None):
            assert state.requested is not None
            latest[state.requested.hparams_sha256, name] = (state.score, state.paid_sequence)
            changed = [] if state.disqualified else [state.requested.hparams_sha256]
        out = {submission for submission, known in states.items() if known is not None and known.disqualified}
        for competition in changed:
            entries = [(key[1], *value) for key, value in latest.items() if key[0] == competition and key[1] not in out]
            entries.sort(key=lambda entry: (-entry[1], entry[2]))
            boards.append((competition, [(rank, entry[0], entry[1]) for rank, entry in enumerate(entries, start=1)]))
    return boards


@given(turns=TURNS)
def test_it_ranks_as_sorting_from_scratch_does(turns: list[tuple[Any, ...]]) -> None:
    events: list[Event] = [paid(f"s{number}") for number in range(6)]
    for number, (miner, *turn) in enumerate(turns):
        if len(turn) == 1:
            events.append(turn[0](f"s{miner}"))
            continue
        scores, competition, passes = turn
        events += finished(f"s{miner}", tuple(scores), evaluation=f"e{number}", competition=competition)
        if not passes:
            events[-1] = verified(len(scores) - 1, submission=f"s{miner}", evaluation=f"e{number}", failure="crashed")
    found = changes(*events)
    assert [(change.competition, rows(change.top)) for change in found] == brute_force(events)
    assert all(change.ranked == len(change.top) for change in found)
    assert len({change.id for change in found}) == len(found)


def test_logs_are_not_kept_in_memory() -> None:
    ranking = Ranking()
    for recorded in story(paid(), *finished("s1", (1.0,))):
        apply(ranking, recorded)
    assert [run.completed.log_tail for run in ranking.submissions["s1"].runs] == [""]
