"""The evaluator on a real NATS server with real sandboxes: whatever is killed, paused or missing, each run counts once,
and only a submission's own faults are ever held against it.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from services.evaluator import evaluation, handlers, providers
from services.evaluator.docker_sandbox import connect
from services.evaluator.sandbox import Provider, SandboxFault
from shared import hparams, streams, subjects
from shared.artifacts import ArtifactStore
from shared.events import (
    EvalRequested,
    EvaluationStarted,
    RunCompleted,
    Verified,
)
from tests.support.evaluations import (
    EVALUATION_SECONDS,
    Tournament,
    assert_given_up,
    assert_passed_once,
    consuming,
    count,
    events_of,
    judging,
    settled,
    submit,
    unanswered,
)
from tests.support.servers import ACK_WAIT_SECONDS, eventually
from tests.support.tiny import BASIC, PROJECT, SINGLE, TINY, WAITING, begun, runners

pytestmark = [pytest.mark.servers, pytest.mark.slow]

PATIENT = 1_000
AS_MAIN = f"""
import dataclasses, runpy
from shared import streams
streams.EVALUATE = dataclasses.replace(streams.EVALUATE, ack_wait_seconds={ACK_WAIT_SECONDS}, pauses_seconds=(0.05,))
runpy.run_module("services.evaluator.main", run_name="__main__")
"""
PROMPT_SECONDS = 20.0


@dataclass(kw_only=True)
class Process:
    """An evaluator as it is deployed, with a temporary directory of its own."""

    nats_url: str
    artifacts: ArtifactStore
    temporary: Path
    sandbox: str = "process"
    process: "subprocess.Popen[bytes] | None" = None
    lives: int = 0
    settings: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        settings = {
            "PATH": os.environ["PATH"],
            "TMPDIR": str(self.temporary),
            "TOURNAMENT_NATS_URL": self.nats_url,
            "TOURNAMENT_ARTIFACTS_DIR": str(self.artifacts.root),
            "TOURNAMENT_SANDBOX": self.sandbox,
        }
        self.lives += 1
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", AS_MAIN], cwd=PROJECT, env=settings | self.settings, stderr=log
            )

    def tell(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self, number: signal.Signals) -> int:
        self.tell(number)
        assert self.process is not None
        return self.process.wait(PROMPT_SECONDS)

    @property
    def log(self) -> Path:
        return self.temporary / "log"

    @property
    def hold(self) -> Path:
        """While this is there, timed runs of WAITING wait."""
        return self.temporary / "hold"

    async def has_begun(self, runs: int) -> bool:
        return len(begun(self.temporary)) >= runs

    async def is_up(self) -> bool:
        return self.log.read_text().count("process sandbox, as asked") == self.lives

    async def has_said(self, words: str) -> bool:
        return words in self.log.read_text()

    async def is_clean(self) -> bool:
        """Nothing runs and nothing lies about."""
        return runners(self.temporary) == [] and list(self.temporary.glob("tt-*")) == []


@pytest.fixture
def processes(nats_url: str, artifacts: ArtifactStore) -> Iterator[Callable[[], Process]]:
    """Makes evaluators; all are ended afterwards. Their directories have short names, as Unix sockets need."""
    with contextlib.ExitStack() as stack:

        def make(**changes: Any) -> Process:
            temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="e-")))
            made = Process(nats_url=nats_url, artifacts=artifacts, temporary=temporary, **changes)
            stack.callback(end, made)
            return made

        def end(made: Process) -> None:
            made.hold.unlink(missing_ok=True)
            if made.process is not None:
                made.process.kill()
                made.process.wait()

        yield make


# --- what an evaluation is ---


async def test_a_right_submission_is_measured_and_passes(tournament: Tournament) -> None:
    """It lasts longer than the lease, so it would be taken away if heartbeats stood still."""
    request = await submit(tournament)
    async with consuming(tournament), judging(tournament):
        await assert_passed_once(tournament, attempts=1)
    story = await tournament.bus.load(subjects.submission("s1"))
    cause = next(recorded for recorded in story if recorded.event == request)
    for recorded in story:
        if isinstance(recorded.event, EvaluationStarted | RunCompleted):
            assert recorded.envelope.causation_id == cause.envelope.id
            assert recorded.envelope.correlation_id == "s1"
    runs = await events_of(tournament, RunCompleted)
    for run in runs:
        assert run.tokens == TINY.evaluation.tokens
        assert run.elapsed_ns == run.phases.train_ns + run.phases.evidence_ns > 0
        assert run.tokens_per_second == pytest.approx(run.tokens / (run.elapsed_ns / 1e9))
        assert (run.machine.sandbox, run.evaluator) == ("process", "local")
    assert sum(sum(msgspec.structs.astuple(run.phases)) for run in runs) > ACK_WAIT_SECONDS * 1e9


async def test_a_retest_draws_fresh_data(tournament: Tournament) -> None:
    first = await submit(tournament, parameters=SINGLE)
    again = msgspec.structs.replace(first, evaluation_id="again", reason="retest")
    async with consuming(tournament), judging(tournament):
        await eventually(settled(tournament), seconds=EVALUATION_SECONDS)
        last = await tournament.bus.last(subjects.submission("s1"))
        assert last is not None
        await tournament.bus.append(again, aggregate=subjects.submission("s1"), expected=last.sequence)
        await eventually(count(tournament, Verified, 2), seconds=EVALUATION_SECONDS)
    before, after = await events_of(tournament, RunCompleted)
    assert (after.evaluation_id, after.attempt) == ("again", 1)
    assert before.seed != after.seed
    assert before.nonce != after.nonce
    assert before.reference_sha256 != after.reference_sha256


@pytest.mark.parametrize(
    ("code", "failure", "detail"),
    [
        pytest.param("def inner_steps(:", "invalid_submission", "cannot be compiled: SyntaxError", id="no python"),
        pytest.param(
            "raise RuntimeError('a\\x1b[31mb\\0c')\ninner_steps = 1", "crashed", "RuntimeError: abc", id="raises"
        ),
        pytest.param("import os; os._exit(3)\ninner_steps = 1", "crashed", "exit code 3", id="leaves"),
    ],
)
async def test_a_submissions_own_fault_is_recorded_once_and_never_retried(
    tournament: Tournament, code: str, failure: str, detail: str
) -> None:
    await submit(tournament, code)
    async with consuming(tournament), judging(tournament):
        state = await eventually(settled(tournament), seconds=EVALUATION_SECONDS)
        assert await unanswered(tournament) == 0
    assert state.status == "failed_validation"
    (run,) = await events_of(tournament, RunCompleted)
    assert (run.failure, run.evidence_sha256, run.reference_sha256) == (failure, None, None)
    assert detail in run.detail
    assert len(await events_of(tournament, EvaluationStarted)) == 1


# --- kill -9, and everything else that ends an evaluator ---


async def in_first_run(evaluator: Process, tournament: Tournament) -> None:
    evaluator.hold.touch()
    await eventually(lambda: evaluator.has_begun(1))


async def in_reference(evaluator: Process, tournament: Tournament) -> None:
    async def runs_another() -> bool:
        return bool(begun(evaluator.temporary) and set(runners(evaluator.temporary)) - set(begun(evaluator.temporary)))

    await eventually(runs_another)
    assert await events_of(tournament, RunCompleted) == []


async def between_runs(evaluator: Process, tournament: Tournament) -> None:
    await eventually(count(tournament, RunCompleted, 1), seconds=EVALUATION_SECONDS)


async def at_the_end(evaluator: Process, tournament: Tournament) -> None:
    await eventually(count(tournament, RunCompleted, 2), seconds=EVALUATION_SECONDS)


@pytest.mark.parametrize(
    ("moment", "kept"),
    [(in_first_run, 0), (in_reference, 0), (between_runs, 1), (at_the_end, 2)],
    ids=["in the first run", "in the reference", "between runs", "at the end"],
)
async def test_kill_9_at_any_point_costs_at_most_the_run_at_hand(
    tournament: Tournament,
    processes: Callable[[], Process],
    moment: Callable[[Process, Tournament], Awaitable[None]],
    kept: int,
) -> None:
    evaluator = processes()
    await submit(tournament, WAITING)
    evaluator.start()
    await moment(evaluator, tournament)
    assert evaluator.end(signal.SIGKILL) == -signal.SIGKILL
    finished = await events_of(tournament, RunCompleted)
    assert len(finished) == kept
    await eventually(evaluator.is_clean, seconds=PROMPT_SECONDS)
    runs_begun = len(begun(evaluator.temporary))
    evaluator.hold.unlink(missing_ok=True)
    evaluator.start()
    await eventually(evaluator.is_up)
    async with judging(tournament):
        await assert_passed_once(tournament, attempts=1 if kept == TINY.evaluation.runs else 2)
    assert (await events_of(tournament, RunCompleted))[:kept] == finished
    assert len(begun(evaluator.temporary)) - runs_begun == TINY.evaluation.runs - kept, "finished runs are kept"
    assert evaluator.end(signal.SIGTERM) == 0
    assert await evaluator.is_clean()


async def test_told_to_stop_in_a_run_it_leaves_at_once_and_another_goes_on(
    tournament: Tournament, processes: Callable[[], Process]
) -> None:
    first, second = processes(), processes()
    await submit(tournament, WAITING, parameters=SINGLE)
    first.start()
    await in_first_run(first, tournament)
    assert first.end(signal.SIGTERM) == 0
    assert await first.is_clean()
    assert "Traceback" not in first.log.read_text()
    assert await first.has_said("stopped")
    second.start()
    async with judging(tournament):
        await assert_passed_once(tournament, attempts=2, runs_wanted=1)


@pytest.mark.docker
async def test_the_container_of_a_killed_evaluator_is_removed(
    tournament: Tournament, processes: Callable[..., Process], sandbox_image: str
) -> None:
    evaluator = processes(sandbox="docker")
    slow = BASIC.replace(_ANY_RUN, f"{_ANY_RUN}    __import__('time').sleep(1)\n")
    request = await submit(tournament, slow, parameters=SINGLE)
    with connect() as engine:
        ours = {"name": f"templar-{request.evaluation_id[:12]}-"}

        async def runs() -> bool:
            return bool(engine.containers(filters=ours))

        evaluator.start()
        await eventually(runs)
        evaluator.end(signal.SIGKILL)
        assert engine.containers(filters=ours), "a container outlives its evaluator"
        evaluator.start()
        async with judging(tournament):
            await assert_passed_once(tournament, attempts=2, runs_wanted=1)
        assert engine.containers(all=True, filters=ours) == []
        assert await evaluator.has_said("orphaned sandbox removed")
        digest = engine.inspect_image(sandbox_image)["Id"]  # type: ignore[no-untyped-call]
        assert {run.machine.image for run in await events_of(tournament, RunCompleted)} == {digest}


_ANY_RUN = "    total_tokens = 0\n"


# --- fencing ---


async def test_an_evaluator_that_was_paused_too_long_is_fenced_off(
    tournament: Tournament, processes: Callable[[], Process]
) -> None:
    paused, other = processes(), processes()
    await submit(tournament, WAITING)
    paused.start()
    await in_first_run(paused, tournament)
    paused.tell(signal.SIGSTOP)
    other.start()
    await in_first_run(other, tournament)
    paused.tell(signal.SIGCONT)
    for evaluator in (paused, other):
        evaluator.hold.unlink()
    async with judging(tournament):
        await assert_passed_once(tournament, attempts=2)
        await eventually(lambda: paused.has_said("taken over by another"))
    assert {run.attempt for run in await events_of(tournament, RunCompleted)} == {2}
    assert len(begun(paused.temporary)) == 1, "it does nothing more"


async def test_an_evaluator_that_was_fenced_off_leaves_the_message_to_its_new_holder(
    tournament: Tournament, processes: Callable[[], Process]
) -> None:
    """The server takes a late ack for its new holder's: had it been sent, nobody would ever go on here."""
    paused, other = processes(), processes()
    await submit(tournament, WAITING, parameters=SINGLE)
    paused.start()
    await in_first_run(paused, tournament)
    paused.tell(signal.SIGSTOP)
    other.start()
    await in_first_run(other, tournament)
    paused.hold.unlink()
    paused.tell(signal.SIGCONT)
    await eventually(lambda: paused.has_said("taken over by another"))
    other.end(signal.SIGKILL)
    async with judging(tournament):
        await assert_passed_once(tournament, attempts=3, runs_wanted=1)
    assert {run.attempt for run in await events_of(tournament, RunCompleted)} == {3}


# --- the validator's own faults ---


def failing(why: str, *, times: int = 1_000) -> Callable[[], Provider]:
    """A sandbox that cannot be had so many times."""
    left = times

    def provide() -> Provider:
        nonlocal left
        left -= 1
        if left >= 0:
            raise SandboxFault(why)
        return providers.process_provider()

    return provide


async def test_an_engine_that_stays_away_is_given_up_without_a_verdict(tournament: Tournament) -> None:
    await submit(tournament)
    why = "no Docker engine answers"
    async with consuming(tournament, provide=failing(why)), judging(tournament):
        await assert_given_up(tournament, why=why)
    assert await events_of(tournament, EvaluationStarted) == [], "nothing was begun"


async def test_an_engine_that_comes_back_costs_nothing(tournament: Tournament) -> None:
    await submit(tournament, parameters=SINGLE)
    provide = failing("no Docker engine answers", times=3)
    async with consuming(tournament, provide=provide, max_deliveries=4), judging(tournament):
        await assert_passed_once(tournament, attempts=1, runs_wanted=1)


def test_an_engine_has_minutes_to_come_back() -> None:
    pauses = [streams.EVALUATE.pause_seconds(deliveries) for deliveries in range(1, streams.EVALUATE.max_deliveries)]
    assert 120 <= sum(pauses) <= 600


@pytest.mark.docker
async def test_a_missing_image_is_said_and_given_up(
    tournament: Tournament,
    sandbox_image: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(providers, "image_tag", lambda: "templar-sandbox:none")
    await submit(tournament)
    async with consuming(tournament, provide=providers.docker_provider):
        await assert_given_up(tournament, why="run `just sandbox-image`")


async def test_a_sandbox_that_is_lost_in_a_run_is_not_the_submissions_fault(
    tournament: Tournament, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a container is when its engine goes away: the channel closes and nobody can be asked why."""

    def lost(*_: object, **__: object) -> None:
        raise SandboxFault("the container was lost")

    monkeypatch.setattr(handlers, "measure_candidate", lost)
    await submit(tournament)
    async with consuming(tournament), judging(tournament):
        await assert_given_up(tournament, why="the container was lost")


async def test_a_failing_reference_is_never_held_against_the_submission(
    tournament: Tournament, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "reference.py"
    broken.write_text("raise RuntimeError('out of luck')")
    monkeypatch.setattr(evaluation, "REFERENCE_SOURCE", broken)
    await submit(tournament)
    async with consuming(tournament), judging(tournament):
        await assert_given_up(tournament, why="the reference run failed: crashed")


async def test_code_that_comes_late_is_waited_for(tournament: Tournament) -> None:
    name = (await submit(tournament, parameters=SINGLE)).code_sha256
    path = tournament.artifacts.root / name[:2] / name
    content = path.read_bytes()
    path.unlink()
    with structlog.testing.capture_logs() as logs:
        async with consuming(tournament, max_deliveries=PATIENT), judging(tournament):

            async def missed() -> bool:
                return any("cannot read artifact" in str(entry.get("error")) for entry in logs)

            await eventually(missed)
            tournament.artifacts.put(content)
            await assert_passed_once(tournament, attempts=1, runs_wanted=1)


@pytest.mark.parametrize("missing", ["code", "hparams"])
async def test_an_artifact_that_stays_away_is_given_up(tournament: Tournament, missing: str) -> None:
    request = await submit(tournament)
    name = request.code_sha256 if missing == "code" else request.hparams_sha256
    (tournament.artifacts.root / name[:2] / name).unlink()
    async with consuming(tournament):
        await assert_given_up(tournament, why="cannot read artifact")
    assert await events_of(tournament, EvaluationStarted) == []


async def test_altered_code_is_poison(tournament: Tournament) -> None:
    request = await submit(tournament)
    name = request.code_sha256
    (tournament.artifacts.root / name[:2] / name).write_bytes(b"altered")
    async with consuming(tournament):
        await assert_given_up(tournament, why="was altered", deliveries=1)


async def test_unusable_hparams_are_poison(tournament: Tournament) -> None:
    await submit(tournament)
    last = await tournament.bus.last(subjects.submission("s1"))
    assert last is not None
    assert isinstance(last.event, EvalRequested)
    wrong = msgspec.structs.replace(last.event, evaluation_id="wrong", hparams_sha256=tournament.artifacts.put(b"{}"))
    await tournament.bus.append(wrong, aggregate=subjects.submission("s1"), expected=last.sequence)
    async with consuming(tournament):
        await assert_given_up(tournament, why="the evaluation's hparams cannot be used", deliveries=1)


SHARD = hparams.Shard(name="tokens-00000.bin", sha256="0" * 64)


@pytest.mark.parametrize(
    ("has_folder", "why"), [(False, "set TOURNAMENT_SHARDS_DIR"), (True, "put the competition's shards there")]
)
async def test_missing_shards_are_given_up_with_what_to_do(
    tournament: Tournament, tmp_path: Path, has_folder: bool, why: str
) -> None:
    parameters = msgspec.structs.replace(TINY, data=hparams.Shards(shards=(SHARD,)))
    await submit(tournament, parameters=parameters)
    async with consuming(tournament, shards=tmp_path if has_folder else None):
        await assert_given_up(tournament, why=why)


async def test_paid_code_is_not_run_in_a_child_process(tournament: Tournament) -> None:
    await submit(tournament, amount_rao=100_000_000)
    async with consuming(tournament):
        await assert_given_up(tournament, why="a paid submission is only ever run in the docker sandbox")


# --- settings ---


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "TOURNAMENT_NATS_URL is not set"),
        (
            {"TOURNAMENT_NATS_URL": "nats://a", "TOURNAMENT_ARTIFACTS_DIR": "/a", "TOURNAMENT_SANDBOX": "podman"},
            "TOURNAMENT_SANDBOX is 'podman'; it must be auto, docker or process",
        ),
    ],
)
def test_a_wrong_setting_ends_it_with_one_sentence(changes: dict[str, str], said: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "services.evaluator.main"],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], **changes},
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.decode() == f"evaluator: {said}\n"


async def test_an_engine_that_is_not_up_yet_is_waited_for_and_said(processes: Callable[..., Process]) -> None:
    evaluator = processes(sandbox="docker", settings={"DOCKER_HOST": "unix:///nowhere/docker.sock"})
    evaluator.start()
    await eventually(lambda: evaluator.has_said("no Docker engine answers"))
    assert await evaluator.has_said("no sandbox yet, trying again")
    assert evaluator.end(signal.SIGTERM) == 0
