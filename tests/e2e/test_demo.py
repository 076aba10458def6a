"""`just demo`, as its user runs it: real servers, real services, real sandboxes, and kill -9 in the middle."""

import collections
import time
from pathlib import Path

import httpx
import pytest

from deploy.local.program import LOOPBACK, free_port
from shared.events import Recorded, RunCompleted, Verified
from shared.submission import fold
from tests.support.local import kill_9, left_running, started, stream_of

pytestmark = [pytest.mark.servers, pytest.mark.slow]

DEMO_SECONDS = 280.0
POLL_SECONDS = 0.1
KILLED_AT = {"api": 2, "ingest": 5, "weights": 8, "evaluator": 10, "verifier": 13}
"""Each service with a length of the stream, of about 30 in the end, at which it has work before it."""


@pytest.mark.parametrize("sandbox", ["process", pytest.param("docker", marks=pytest.mark.docker)])
def test_two_are_ranked_and_the_cheat_is_rejected(tmp_path: Path, sandbox: str, request: pytest.FixtureRequest) -> None:
    if sandbox == "docker":
        request.getfixturevalue("sandbox_image")
    with started("deploy.local.demo", "--sandbox", sandbox, folder=tmp_path) as demo:
        out, err = demo.communicate(timeout=DEMO_SECONDS)
    assert demo.returncode == 0, err + out
    assert f"{sandbox} sandbox" in err
    assert_right_outcome(tmp_path, out)


def test_kill_9_of_each_service_changes_nothing_of_the_outcome(tmp_path: Path) -> None:
    port = free_port()
    with started("deploy.local.demo", "--sandbox", "process", folder=tmp_path, TOURNAMENT_API_PORT=str(port)) as demo:
        for name, length in KILLED_AT.items():
            while stream_length(port) < length:
                assert demo.poll() is None, demo.communicate()
                time.sleep(POLL_SECONDS)
            kill_9(tmp_path, name)
        out, err = demo.communicate(timeout=DEMO_SECONDS)
    assert demo.returncode == 0, err + out
    for name in KILLED_AT:
        assert f"{name} was ended by SIGKILL; starting it again" in err
    assert_right_outcome(tmp_path, out)


def stream_length(api_port: int) -> int:
    """As the API knows it; 0 while it is away."""
    try:
        return int(httpx.get(f"http://{LOOPBACK}:{api_port}/health").json()["position"] or 0)
    except httpx.HTTPError:
        return 0


def assert_right_outcome(folder: Path, out: str) -> None:
    """By what the user sees, and by what the stream holds."""
    lines = out.splitlines()
    assert lines[-1] == f"data directory: {folder}"
    rows = [line for line in lines if "basic.py" in line or "faster.py" in line]
    assert [row.split()[1] for row in rows] == ["1", "2"]
    (rejected,) = [line for line in lines if line.startswith("skips_work.py")]
    assert rejected.startswith("skips_work.py was rejected: output_mismatch: the output vectors differ by")
    assert "weights: 1 to" in out
    assert left_running(folder) == []
    assert_right_stream(stream_of(folder))


def assert_right_stream(stream: list[Recorded]) -> None:
    """Each fact once, whatever was killed: three paid, three asked for, seven runs that count, each judged once."""
    counts = collections.Counter(recorded.envelope.type for recorded in stream)
    assert (counts["SubmissionPaid"], counts["EvalRequested"], counts["LeaderboardChanged"]) == (3, 3, 2)
    assert counts["MessageDeadLettered"] == counts["EvaluationAbandoned"] == 0
    stories: dict[str, list[Recorded]] = collections.defaultdict(list)
    for recorded in stream:
        if recorded.subject.startswith("tournament.submission."):
            stories[recorded.subject.split(".")[2]].append(recorded)
    states = [fold(story) for story in stories.values()]
    runs = [run for state in states if state is not None for run in state.runs]
    assert sorted(state.status for state in states if state is not None) == [
        "failed_validation",
        "finished",
        "finished",
    ]
    assert len(runs) == 7
    verdicts = [recorded.event.run_id for recorded in stream if isinstance(recorded.event, Verified)]
    assert sorted(verdicts) == sorted(run.completed.run_id for run in runs)
    measured = [recorded.event for recorded in stream if isinstance(recorded.event, RunCompleted)]
    assert all(run.completed in measured for run in runs)
