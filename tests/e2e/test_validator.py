"""The validator's command, as `just up` runs it: state kept between starts, lost servers, taken ports, Ctrl-C."""

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from deploy.local.program import LOOPBACK, free_port
from tests.support.local import kill_9, left_running, started
from tests.support.tiny import BASIC, SINGLE

pytestmark = [pytest.mark.servers, pytest.mark.slow]

T = TypeVar("T")
DEADLINE_SECONDS = 120.0
POLL_SECONDS = 0.1
ALICE = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
CRASHES = (
    b"def inner_steps(model, data_iterator, optimizer, num_steps, device):\n    raise ValueError('\\x1b[31mred')\n"
)


@dataclass(frozen=True)
class Validator:
    """One with a data directory of its own, on ports of its own."""

    folder: Path
    api_port: int = field(default_factory=free_port)
    ingest_port: int = field(default_factory=free_port)

    def start(self) -> Any:
        hparams = self.folder.with_name("hparams.json")
        hparams.write_bytes(SINGLE.encode())
        return started(
            *("neurons.validator", "--sandbox", "process", "--hparams", str(hparams), "--burn-hotkey", ALICE),
            folder=self.folder,
            TOURNAMENT_API_PORT=str(self.api_port),
            TOURNAMENT_INGEST_PORT=str(self.ingest_port),
        )

    def get(self, path: str) -> Any:
        """The answer, or None while there is none to have."""
        try:
            answer = httpx.get(f"http://{LOOPBACK}:{self.api_port}{path}")
        except httpx.TransportError:
            return None
        return answer.json() if answer.is_success else None

    def submit(self, source: bytes) -> str:
        """Its id."""

        def post() -> Any:
            try:
                return httpx.post(
                    f"http://{LOOPBACK}:{self.ingest_port}/submissions",
                    files={"file": ("train.py", source)},
                    data={"miner_hotkey": ALICE},
                    timeout=30.0,
                )
            except httpx.TransportError:
                return None

        answer = until(post)
        assert answer.status_code in (200, 201), answer.text
        return str(answer.json()["submission_id"])

    def settled(self, submission_id: str) -> dict[str, Any]:
        """The submission, once nothing more will happen to it."""

        def look() -> dict[str, Any] | None:
            found = self.get(f"/submissions/{submission_id}")
            return found if found and found["status"] in ("finished", "failed_validation", "error") else None

        return until(look)


def until(condition: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (answer := condition()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(POLL_SECONDS)
    return answer


def interrupt(process: "subprocess.Popen[str]") -> str:
    """Ctrl-C; returns what it said."""
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0, err
    return err


def test_all_state_is_picked_up_at_the_next_start(tmp_path: Path) -> None:
    validator = Validator(tmp_path / "with space")
    with validator.start() as process:
        until(lambda: validator.get("/health"))
        right, wrong = validator.submit(BASIC.encode()), validator.submit(CRASHES)
        assert validator.settled(right)["status"] == "finished"
        crashed = validator.settled(wrong)
        board = until(lambda: validator.get("/leaderboard"))
        said = interrupt(process)
    assert f"stopped; everything is kept in {validator.folder}" in said
    assert left_running(validator.folder) == []
    assert [row["submission_id"] for row in board] == [right]
    assert crashed["reason"] == "crashed"
    assert crashed["error_message"].endswith("ValueError: red\n"), "cleaned of control codes"

    with validator.start() as process:
        until(lambda: validator.get("/health"))
        assert validator.get("/leaderboard") == board
        assert validator.get(f"/submissions/{wrong}") == crashed
        assert validator.submit(BASIC.encode()) == right
        interrupt(process)


def test_an_operator_decides_while_it_runs(tmp_path: Path) -> None:
    validator = Validator(tmp_path / "data")
    with validator.start() as process:
        until(lambda: validator.get("/weights"))
        submission = validator.submit(BASIC.encode())
        before = validator.settled(submission)
        until(lambda: validator.get("/leaderboard"))
        assert decide(validator, "disqualify", submission)["changed"]
        until(lambda: validator.get("/leaderboard") == [])
        found = validator.get(f"/submissions/{submission}")
        assert (found["status"], found["error_message"]) == ("failed_validation", "disqualified: a test")
        assert decide(validator, "reinstate", submission)["changed"]
        (row,) = until(lambda: validator.get("/leaderboard"))
        assert (row["submission_id"], row["final_score"]) == (submission, before["final_score"])
        assert row["num_evaluations"] == before["runs_required"]
        switched = decide(validator, "burn", "on")
        assert switched["detail"].startswith("the burn switch of subnet 3 is on: a test.")
        assert not decide(validator, "burn", "on")["changed"]
        interrupt(process)


def decide(validator: Validator, *decision: str) -> Any:
    """What the operator's command answers."""
    arguments = (*decision, "--reason", "a test", "--json")
    with started("neurons.operator", *arguments, folder=validator.folder) as process:
        out, err = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0, err
    return json.loads(out)


def test_lost_servers_come_back_and_nothing_is_lost(tmp_path: Path) -> None:
    validator = Validator(tmp_path / "data")
    with validator.start() as process:
        until(lambda: validator.get("/health"))
        submission = validator.submit(BASIC.encode())
        for name in ("nats", "postgres"):
            kill_9(validator.folder, name)
        assert validator.settled(submission)["status"] == "finished"
        weights = until(lambda: validator.get("/weights"))
        until(lambda: (validator.get("/health") or {}).get("status") == "ok")
        said = interrupt(process)
    assert weights[0]["hotkey"] == ALICE
    assert "nats was ended by SIGKILL; starting it again" in said
    assert "postgres was ended by SIGKILL; starting it again" in said


def test_kill_9_of_the_validator_leaves_nothing_running_and_nothing_in_the_way(tmp_path: Path) -> None:
    validator = Validator(tmp_path / "data")
    with validator.start() as process:
        until(lambda: validator.get("/health"))
        submission = validator.submit(BASIC.encode())
        process.kill()
        process.communicate()
    until(lambda: not left_running(validator.folder))
    with validator.start() as process:
        assert validator.settled(submission)["status"] == "finished"
        interrupt(process)


def test_a_second_one_in_the_same_directory_is_refused(tmp_path: Path) -> None:
    validator = Validator(tmp_path / "data")
    with validator.start() as process:
        until(lambda: validator.get("/health"))
        with Validator(validator.folder).start() as second:
            _, err = second.communicate(timeout=DEADLINE_SECONDS)
        interrupt(process)
    assert second.returncode == 2
    assert err.splitlines()[-1] == (
        f"validator: another tournament (process {process.pid}) runs in {validator.folder}; "
        "stop it, or set TOURNAMENT_DATA_DIR to another folder"
    )


@pytest.mark.parametrize("name", ["API", "INGEST"])
def test_a_taken_port_is_said_before_anything_starts(tmp_path: Path, name: str) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port: int = taken.getsockname()[1]
        ports = {"api_port": port} if name == "API" else {"ingest_port": port}
        with Validator(tmp_path / "data", **ports).start() as process:
            _, err = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 2
    assert err.splitlines()[-1] == (
        f"validator: cannot listen on 127.0.0.1 port {port}: Address already in use; "
        f"choose another TOURNAMENT_{name}_PORT"
    )
    assert left_running(tmp_path / "data") == []


def test_hparams_with_an_unknown_key_are_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "typo.json"
    path.write_bytes(SINGLE.encode().replace(b'"runs"', b'"rnus"'))
    with started("neurons.validator", "--hparams", str(path), folder=tmp_path / "data") as process:
        _, err = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 2
    assert "rnus" in err.splitlines()[-1]
