"""What the verifier records: given this story, when this run was measured, then these events."""

import pytest

from services.verifier import decide
from services.verifier.judge import Judgement
from services.verifier.settings import Settings, from_environment
from shared.environment import SettingsError
from shared.events import Check, Event
from shared.faults import Failure
from tests.support.stories import abandoned, completed, finished, paid, requested, started, story, verified

CHECK = Check(name="loss", value=0.5, threshold=0.01, margin=-0.49, passed=False)
BEGUN: tuple[Event, ...] = (paid(), requested(), started(), completed(0))

STORIES: list[tuple[str, tuple[Event, ...], bool]] = [
    ("a run that was measured", BEGUN, True),
    ("a run that failed", (*BEGUN[:-1], completed(0, failure="crashed")), True),
    ("judged already", (*BEGUN, verified(0)), False),
    ("an earlier run", (*BEGUN, verified(0), completed(1)), False),
    ("followed by another attempt", (*BEGUN, started(attempt=2)), True),
    ("of a fenced-off attempt", (*BEGUN[:-1], started(attempt=2), completed(0)), False),
    ("of an older evaluation", (*BEGUN, requested(evaluation="e2")), False),
    ("given up meanwhile", (*BEGUN, abandoned()), True),
    ("unknown", (), False),
]


@pytest.mark.parametrize(("why", "given", "expected"), STORIES, ids=[row[0] for row in STORIES])
def test_a_verdict_is_recorded_once_and_only_where_it_counts(
    why: str, given: tuple[Event, ...], expected: bool
) -> None:
    run = next((event for event in given if getattr(event, "run_index", None) == 0), completed(0))
    assert type(run) is type(completed())
    verdict = verified(0)
    assert decide.awaits_verdict(story(*given), run) is expected, why
    assert decide.record(story(*given), run, verdict) == ([verdict] if expected else [])


def test_the_verdict_carries_the_judgement() -> None:
    judgement = Judgement(failure=Failure.OUTPUT_MISMATCH, detail="the final loss differs", checks=(CHECK,))
    verdict = decide.verdict(completed(1, tps=123.0), judgement)
    assert (verdict.failure, verdict.detail, verdict.checks) == (
        "output_mismatch",
        "the final loss differs",
        (CHECK,),
    )
    assert (verdict.run_id, verdict.run_index, verdict.tokens_per_second) == ("e1-1", 1, 123.0)


def test_a_passed_run_has_no_failure() -> None:
    assert decide.verdict(completed(), Judgement(failure=None, detail="fine", checks=())).failure is None


def test_a_run_that_failed_keeps_its_own_failure_and_has_no_checks() -> None:
    verdict = decide.verdict(completed(failure="timeout"), None)
    assert (verdict.failure, verdict.detail, verdict.checks) == ("timeout", "it broke", ())


GIVE_UPS: list[tuple[str, tuple[Event, ...], bool]] = [
    ("a run waits for its verdict", BEGUN, True),
    ("judged after all", (*BEGUN, verified(0)), False),
    ("another run failed", (*BEGUN, completed(1), verified(1, failure="crashed")), False),
    ("given up already", (*BEGUN, abandoned()), False),
    ("finished", (paid(), *finished("s1", (1.0,), evaluation="e1")), False),
    ("another evaluation has begun", (*BEGUN, requested(evaluation="e2")), False),
    ("unknown", (), False),
]


@pytest.mark.parametrize(("why", "given", "expected"), GIVE_UPS, ids=[row[0] for row in GIVE_UPS])
def test_giving_up_is_recorded_only_while_the_verdict_is_missing(
    why: str, given: tuple[Event, ...], expected: bool
) -> None:
    run = next((event for event in given if getattr(event, "run_index", None) == 0), completed(0))
    assert type(run) is type(completed())
    events = decide.abandon(story(*given), run, detail="altered", deliveries=1)
    assert [(event.evaluation_id, event.detail, event.deliveries) for event in events] == (
        [("e1", "altered", 1)] if expected else []
    ), why


def test_settings() -> None:
    environ = {"TOURNAMENT_NATS_URL": "nats://a", "TOURNAMENT_ARTIFACTS_DIR": "/data/artifacts"}
    settings = from_environment(environ)
    assert (settings.nats_url, str(settings.artifacts), settings.slots) == ("nats://a", "/data/artifacts", 2)
    assert from_environment(environ | {"TOURNAMENT_SLOTS": "8"}) == Settings(
        nats_url="nats://a", artifacts=settings.artifacts, slots=8
    )


@pytest.mark.parametrize("missing", ["TOURNAMENT_NATS_URL", "TOURNAMENT_ARTIFACTS_DIR"])
def test_a_missing_setting_is_named(missing: str) -> None:
    environ = {"TOURNAMENT_NATS_URL": "nats://a", "TOURNAMENT_ARTIFACTS_DIR": "/data/artifacts"}
    with pytest.raises(SettingsError, match=f"{missing} is not set"):
        from_environment({name: value for name, value in environ.items() if name != missing})
