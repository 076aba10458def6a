"""What the evaluator does next: given this story, then this attempt, this run, these events."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.evaluator import decide
from services.evaluator.settings import Settings, from_environment
from shared.environment import SettingsError
from shared.events import Event, Payment, Recorded
from shared.submission import fold
from tests.support.stories import TRANSFER, abandoned, completed, finished, paid, requested, started, story, verified

REQUEST = requested()
ASKED: tuple[Event, ...] = (paid(), REQUEST)
BEGUN: tuple[Event, ...] = (*ASKED, started())

NEXT_RUNS: list[tuple[str, tuple[Event, ...], int | None]] = [
    ("nothing measured yet", BEGUN, 0),
    ("one run measured", (*BEGUN, completed(0)), 1),
    ("one run passed", (*BEGUN, completed(0), verified(0)), 1),
    ("two runs measured", (*BEGUN, completed(0), completed(1)), 2),
    ("all runs measured", (*BEGUN, completed(0), completed(1), completed(2)), None),
    ("a run failed", (*BEGUN, completed(0, failure="crashed")), None),
    ("a run was judged wrong", (*BEGUN, completed(0), verified(0, failure="output_mismatch")), None),
    ("given up", (*BEGUN, abandoned()), None),
    ("finished", (paid(), *finished("s1", (1.0,), evaluation="e1")), None),
    ("another evaluation has replaced it", (*BEGUN, requested(evaluation="e2")), None),
    ("never asked for", (paid(),), None),
    ("unknown", (), None),
]
IDS = [row[0] for row in NEXT_RUNS]


@pytest.mark.parametrize(("why", "given", "expected"), NEXT_RUNS, ids=IDS)
def test_the_next_run_is_the_first_that_is_missing(why: str, given: tuple[Event, ...], expected: int | None) -> None:
    known = story(*given)
    assert decide.next_run(known, REQUEST, attempt=1) == expected, why
    assert decide.is_wanted(known, REQUEST) is (expected is not None)
    assert decide.next_run(known, REQUEST, attempt=2) is None, "another's attempt has nothing to do"


@pytest.mark.parametrize(("why", "given", "expected"), NEXT_RUNS, ids=IDS)
def test_an_attempt_is_claimed_and_given_up_only_while_a_run_is_left(
    why: str, given: tuple[Event, ...], expected: int | None
) -> None:
    known = story(*given)
    begun = decide.start(known, REQUEST, evaluator="5abc", instance="host-9", sandbox="docker")
    given_up = decide.abandon(known, REQUEST, detail="the engine is away", deliveries=6)
    assert (len(begun), len(given_up)) == ((0, 0) if expected is None else (1, 1)), why
    if expected is not None:
        assert (begun[0].attempt, begun[0].instance, begun[0].sandbox) == (2, "host-9", "docker")
        assert (given_up[0].evaluation_id, given_up[0].detail, given_up[0].deliveries) == (
            "e1",
            "the engine is away",
            6,
        )


def test_whose_the_latest_attempt_is() -> None:
    known = story(*BEGUN, completed(0), started(attempt=2))
    assert decide.claimed(known, REQUEST, instance="host-2") == 2
    assert decide.claimed(known, REQUEST, instance="host-1") is None, "fenced off"
    assert decide.claimed(story(*ASKED), REQUEST, instance="host-1") is None
    assert decide.claimed(story(*BEGUN), requested(evaluation="e2"), instance="host-1") is None


SUPERSEDED: list[tuple[str, tuple[Event, ...], bool]] = [
    ("it is the latest", BEGUN, False),
    ("another goes on", (*BEGUN, started(attempt=2)), True),
    ("another has measured all", (*BEGUN, started(attempt=2), *(completed(i, attempt=2) for i in range(3))), False),
    ("another has given up", (*BEGUN, started(attempt=2), abandoned()), False),
    ("another evaluation has replaced it", (*BEGUN, requested(evaluation="e2")), False),
]


@pytest.mark.parametrize(("why", "given", "expected"), SUPERSEDED, ids=[row[0] for row in SUPERSEDED])
def test_a_message_is_left_to_another_only_while_that_one_needs_it(
    why: str, given: tuple[Event, ...], expected: bool
) -> None:
    assert decide.is_superseded(story(*given), REQUEST, attempt=1) is expected, why


def test_a_run_is_recorded_once_and_only_by_the_latest_attempt() -> None:
    run = completed(0)
    assert decide.report(story(*BEGUN), REQUEST, run) == [run]
    assert decide.report(story(*BEGUN, run), REQUEST, run) == []
    assert decide.report(story(*BEGUN, started(attempt=2)), REQUEST, run) == []
    assert decide.report(story(*BEGUN, abandoned()), REQUEST, run) == []
    assert decide.report(story(*BEGUN), REQUEST, completed(1)) == []


@pytest.mark.parametrize(
    "payment",
    [Payment(reference=TRANSFER, amount_rao=100_000_000), Payment(reference=f"credit:{'c' * 32}", amount_rao=0)],
    ids=["transfer", "credit"],
)
def test_paid_code_runs_in_docker_only(payment: Payment) -> None:
    unpaid = paid()
    bought = msgspec.structs.replace(unpaid, payment=payment)
    assert decide.refuses_sandbox(story(bought), sandbox="docker") is None
    assert decide.refuses_sandbox(story(unpaid), sandbox="process") is None
    refusal = decide.refuses_sandbox(story(bought), sandbox="process")
    assert refusal is not None
    assert "start an engine, run `just sandbox-image` and restart the evaluator" in refusal


class _Model:
    """A stream of one evaluation, and evaluators that may be fenced off at any moment."""

    def __init__(self, runs: int) -> None:
        self.request = requested(runs=runs)
        self.story: list[Recorded] = story(paid(), self.request)

    def append(self, *events: Event) -> None:
        self.story = story(*(recorded.event for recorded in self.story), *events)

    def deliver(self, instance: str) -> int | None:
        self.append(
            *decide.start(self.story, self.request, evaluator="local", instance=instance, sandbox="process"),
        )
        return decide.claimed(self.story, self.request, instance=instance)


@settings(max_examples=200)
@given(st.integers(1, 4), st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=40), st.data())
def test_however_evaluators_overtake_one_another_each_run_counts_once(
    runs: int, moves: list[tuple[int, bool]], data: st.DataObject
) -> None:
    """Each move: an evaluator is delivered the message anew, or ends the run that it began when it was."""
    model = _Model(runs)
    working: dict[int, tuple[int, int]] = {}
    for who, delivered in [*moves, (0, True), *[(0, False)] * runs]:
        if delivered:
            attempt = model.deliver(f"host-{who}")
        else:
            attempt, index = working.pop(who, (None, 0))
            if attempt is not None:
                failure = data.draw(st.sampled_from([None, None, None, "crashed"]))
                run = completed(index, attempt=attempt, failure=failure, tps=float(who + 1))
                model.append(*decide.report(model.story, model.request, run))
        if attempt is not None:
            following = decide.next_run(model.story, model.request, attempt=attempt)
            if following is not None:
                working[who] = (attempt, following)
    state = fold(model.story)
    assert state is not None
    written = [recorded.event for recorded in model.story if type(recorded.event) is type(completed())]
    assert [run.completed for run in state.runs] == written, "no run is written that does not count"
    assert [run.completed.run_index for run in state.runs] == list(range(len(state.runs)))
    assert not decide.is_wanted(model.story, model.request), "the last evaluator did what was left"
    assert len(state.runs) == runs or state.runs[-1].completed.failure


def test_settings() -> None:
    environ = {"TOURNAMENT_NATS_URL": "nats://a", "TOURNAMENT_ARTIFACTS_DIR": "/data/artifacts"}
    assert from_environment(environ) == Settings(
        nats_url="nats://a",
        artifacts=Path("/data/artifacts"),
        sandbox="auto",
        runtime="runc",
        hotkey="local",
        shards=None,
    )
    more = {
        "TOURNAMENT_SANDBOX": "docker",
        "TOURNAMENT_SANDBOX_RUNTIME": "runsc",
        "TOURNAMENT_EVALUATOR_HOTKEY": "5abc",
        "TOURNAMENT_SHARDS_DIR": "/data/shards",
    }
    assert from_environment(environ | more) == Settings(
        nats_url="nats://a",
        artifacts=Path("/data/artifacts"),
        sandbox="docker",
        runtime="runsc",
        hotkey="5abc",
        shards=Path("/data/shards"),
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"TOURNAMENT_NATS_URL": ""}, "TOURNAMENT_NATS_URL is not set"),
        ({"TOURNAMENT_ARTIFACTS_DIR": ""}, "TOURNAMENT_ARTIFACTS_DIR is not set"),
        ({"TOURNAMENT_SANDBOX": "podman"}, "TOURNAMENT_SANDBOX is 'podman'; it must be auto, docker or process"),
        ({"TOURNAMENT_SANDBOX_RUNTIME": "kata"}, "TOURNAMENT_SANDBOX_RUNTIME is 'kata'; it must be runc or runsc"),
    ],
)
def test_an_unusable_setting_is_named(change: dict[str, str], said: str) -> None:
    environ = {"TOURNAMENT_NATS_URL": "nats://a", "TOURNAMENT_ARTIFACTS_DIR": "/data/artifacts"}
    with pytest.raises(SettingsError, match=said):
        from_environment(environ | change)
