"""The life of a submission: given these events, this status. Late, doubled and fenced-off events change nothing."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.events import Event
from shared.submission import Submission, evolve, fold
from tests.support.stories import (
    abandoned,
    completed,
    disqualified,
    finished,
    paid,
    record,
    reinstated,
    requested,
    started,
    story,
    verified,
)


def after(*events: Event) -> Submission:
    state = fold(story(*events))
    assert state is not None
    return state


PASSED = (paid(), *finished("s1", (100.0, 200.0, 300.0), evaluation="e1"))
FAILED = (paid(), requested(), started(), completed(), verified(failure="output_mismatch"))

STATUSES: list[tuple[str, str, tuple[Event, ...]]] = [
    ("pending", "only paid", (paid(),)),
    ("pending", "waits for an evaluator", (paid(), requested())),
    ("evaluating", "an evaluator has it", (paid(), requested(), started())),
    ("evaluating", "one run measured", (paid(), requested(), started(), completed(0))),
    ("evaluating", "one run judged", (paid(), requested(), started(), completed(0), verified(0))),
    ("validating", "all runs measured", PASSED[:-1]),
    ("validating", "a run crashed", (paid(), requested(), started(), completed(0, failure="crashed"))),
    ("finished", "all runs passed", PASSED),
    ("failed_validation", "a verdict failed", FAILED),
    (
        "failed_validation",
        "a crash was confirmed",
        (paid(), requested(), started(), completed(0, failure="crashed"), verified(0, failure="crashed")),
    ),
    ("error", "given up before it began", (paid(), requested(), abandoned())),
    ("error", "given up halfway", (paid(), requested(), started(), completed(0), abandoned())),
    ("pending", "asked for again", (*FAILED, requested(evaluation="e2"))),
    ("evaluating", "again under way", (*FAILED, requested(evaluation="e2"), started(evaluation="e2"))),
    ("finished", "passed at the second time", (*FAILED, *finished("s1", (1.0,), evaluation="e2"))),
]


@pytest.mark.parametrize(("status", "why", "given"), STATUSES, ids=[f"{row[0]}: {row[1]}" for row in STATUSES])
def test_status(status: str, why: str, given: tuple[Event, ...]) -> None:
    state = after(*given)
    assert state.status == status, why
    assert state.settled == (status in ("finished", "failed_validation", "error"))
    assert state.last_sequence == len(given)
    assert state.paid_sequence == 1


def test_the_score_is_the_mean_of_all_runs_and_only_of_a_finished_evaluation() -> None:
    assert after(*PASSED).final_score == 200.0
    assert after(*PASSED[:-1]).final_score is None
    assert after(*FAILED).final_score is None


def test_verdicts_may_arrive_in_any_order() -> None:
    state = after(
        paid(), requested(runs=2), started(), completed(0), completed(1, tps=300.0), verified(1, tps=300.0), verified(0)
    )
    assert state.final_score == 200.0


def test_what_the_miner_is_told() -> None:
    assert after(*PASSED).error_message is None
    assert after(*FAILED).error_message == "output_mismatch: it broke"
    message = after(paid(), requested(), abandoned()).error_message
    assert message == "given up for the validator's own fault: the engine is away"


def test_nothing_is_known_of_a_submission_that_was_never_paid() -> None:
    assert fold([]) is None
    assert fold(story(requested(), started())) is None


def test_a_run_of_a_fenced_off_attempt_is_ignored() -> None:
    state = after(paid(), requested(), started(), completed(0), started(attempt=2), completed(1, attempt=1))
    assert [run.completed.attempt for run in state.runs] == [1]
    assert evolve(state, record(7, completed(1, attempt=2))).runs[-1].completed.run_index == 1  # type: ignore[union-attr]


def test_a_run_out_of_turn_is_ignored() -> None:
    assert after(paid(), requested(), started(), completed(1)).runs == ()


def test_an_older_evaluation_changes_nothing_after_a_retest_was_asked_for() -> None:
    retested = (*FAILED, requested(evaluation="e2"), started(evaluation="e2"))
    late = (started(attempt=2), completed(0), verified(0), abandoned())
    before, state = after(*retested), after(*retested, *late)
    assert (state.status, state.attempt, state.runs, state.abandoned) == (before.status, 1, (), None)
    assert state.last_sequence > before.last_sequence


def test_the_first_verdict_on_a_run_stands() -> None:
    assert after(*FAILED, verified(0)).status == "failed_validation"


@given(data=st.data(), whole=st.sampled_from([row[2] for row in STATUSES if row[1] != "asked for again"][:12]))
def test_an_event_that_comes_twice_changes_nothing(data: st.DataObject, whole: tuple[Event, ...]) -> None:
    doubled: list[Event] = []
    for event in whole:
        doubled.append(event)
        doubled += data.draw(st.lists(st.sampled_from(doubled), max_size=2))
    once, twice = after(*whole), after(*doubled)
    assert (once.status, once.runs, once.attempt, once.final_score) == (
        twice.status,
        twice.runs,
        twice.attempt,
        twice.final_score,
    )


WHOLE = st.sampled_from([row[2] for row in STATUSES])


@given(data=st.data(), whole=WHOLE)
def test_disqualified_it_has_failed_whatever_its_evaluation_does(data: st.DataObject, whole: tuple[Event, ...]) -> None:
    at = data.draw(st.integers(1, len(whole)))
    state, untouched = after(*whole[:at], disqualified(), *whole[at:]), after(*whole)
    assert (state.status, state.finished, state.final_score) == ("failed_validation", False, None)
    assert state.error_message == "disqualified: it reads the clock"
    # The evaluation goes on, so that nothing is missing when it is taken back.
    assert (state.settled, state.outcome, state.score) == (untouched.settled, untouched.status, untouched.final_score)


@given(data=st.data(), whole=WHOLE)
def test_reinstated_everything_is_as_if_it_had_never_been(data: st.DataObject, whole: tuple[Event, ...]) -> None:
    out = data.draw(st.integers(1, len(whole)))
    back = data.draw(st.integers(out, len(whole)))
    state = after(*whole[:out], disqualified(), *whole[out:back], reinstated(), *whole[back:])
    untouched = after(*whole)
    same = {"updated_at": untouched.updated_at, "last_sequence": untouched.last_sequence}
    assert msgspec.structs.replace(state, **same) == untouched
    assert (state.status, state.final_score, state.error_message) == (
        untouched.status,
        untouched.final_score,
        untouched.error_message,
    )


def test_the_latest_disqualification_is_in_force_once() -> None:
    again = msgspec.structs.replace(disqualified(), reason="another")
    assert after(*PASSED, disqualified(), again).error_message == "disqualified: another"
    assert after(*PASSED, disqualified(), again, reinstated()).status == "finished"
    assert after(*PASSED, reinstated()).status == "finished"
    assert after(*PASSED, disqualified(), reinstated(), disqualified()).status == "failed_validation"


def test_nothing_but_a_payment_begins_a_story() -> None:
    assert fold(story(disqualified(), reinstated())) is None
