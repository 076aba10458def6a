"""The miner's command as it is typed, with real sandboxes: real training passes, cheats and crashes are told apart."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared.hparams import load

PROJECT = Path(__file__).parents[2]
BASIC = PROJECT / "examples" / "basic.py"
DEMO = load(PROJECT / "hparams" / "demo.json")
SHORT = msgspec.structs.replace(
    DEMO,
    name="short",
    evaluation=msgspec.structs.replace(
        DEMO.evaluation, runs=2, num_steps=4, prepare_timeout_seconds=60.0, timeout_seconds=5.0
    ),
)
TOKENS = 4 * 2 * 256
DEADLINE_SECONDS = 120.0

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Ended:
    code: int
    answer: dict[str, Any]
    said: str


@pytest.fixture
def competition(tmp_path: Path) -> Path:
    path = tmp_path / "short.json"
    path.write_bytes(SHORT.encode())
    return path


def command(file: Path, competition: Path, *, sandbox: str) -> list[str]:
    arguments = [str(file), "--skip-payment", "--json", "--sandbox", sandbox, "--hparams", str(competition)]
    return [sys.executable, "-m", "neurons.miner", *arguments]


def run(file: Path, competition: Path, *, sandbox: str = "process") -> Ended:
    ended = subprocess.run(
        command(file, competition, sandbox=sandbox),
        cwd=PROJECT,
        capture_output=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    said = ended.stderr.decode()
    assert ended.stdout.count(b"\n") == 1, said
    return Ended(ended.returncode, json.loads(ended.stdout), said)


def changed(tmp_path: Path, old: str, new: str) -> Path:
    """The basic loop with one place changed."""
    source = BASIC.read_text()
    assert source.count(old) == 1
    path = tmp_path / "train.py"
    path.write_text(source.replace(old, new))
    return path


def assert_passed(ended: Ended, *, sandbox: str) -> None:
    assert ended.code == 0, ended
    assert ended.answer["verdict"] == "passed"
    assert ended.answer["machine"]["sandbox"] == sandbox
    assert len(ended.answer["runs"]) == 2
    for measured in ended.answer["runs"]:
        assert measured["tokens"] == TOKENS
        assert measured["tps"] == pytest.approx(TOKENS / measured["elapsed_seconds"])
        assert all(check["passed"] and check["margin"] >= 0 for check in measured["checks"])
    assert ended.answer["tps"] == pytest.approx(sum(measured["tps"] for measured in ended.answer["runs"]) / 2)


def test_the_plain_loop_passes(competition: Path) -> None:
    assert_passed(run(BASIC, competition), sandbox="process")


def test_a_faster_loop_passes(competition: Path) -> None:
    assert_passed(run(PROJECT / "examples" / "faster.py", competition), sandbox="process")


@pytest.mark.docker
@pytest.mark.usefixtures("sandbox_image")
def test_the_plain_loop_passes_in_docker(competition: Path) -> None:
    assert_passed(run(BASIC, competition, sandbox="docker"), sandbox="docker")


@pytest.mark.docker
@pytest.mark.usefixtures("sandbox_image")
def test_skipped_work_is_told_in_docker(competition: Path) -> None:
    ended = run(PROJECT / "examples" / "skips_work.py", competition, sandbox="docker")
    assert (ended.code, ended.answer["reason"]) == (1, "output_mismatch")


WRONG: dict[str, tuple[str, str, str, str]] = {
    "counts wrongly": (
        "total_tokens=total_tokens",
        "total_tokens=total_tokens - 1",
        "token_count_mismatch",
        "total_tokens is 2,047; 2,048 were handed out",
    ),
    "returns NaN": (
        "final_loss = loss.item()",
        "final_loss = float('nan')",
        "non_finite_output",
        "the final loss: NaN or infinity",
    ),
    "never updates": (
        "        optimizer.step()\n",
        "        optimizer.param_groups[0]['lr'] = 0.0\n        optimizer.step()\n",
        "output_mismatch",
        "the output vectors differ by",
    ),
    "never steps the optimizer": (
        "        optimizer.step()\n",
        "",
        "malformed_output",
        "the optimizer has no first moment of embedding.weight: step the optimizer that is given",
    ),
    "skips the last update": (
        "        optimizer.step()\n",
        "        if _ < num_steps - 1:\n            optimizer.step()\n",
        "training_mismatch",
        "the trained model's logits on the secret probe differ by",
    ),
    "returns half of the logits": (
        "final_logits = logits.detach().float()",
        "final_logits = logits.detach().float()[:1]",
        "malformed_output",
        "final_logits is (1, 255, 1024)",
    ),
    "returns half precision": (
        "final_logits = logits.detach().float()",
        "final_logits = logits.detach().half()",
        "malformed_output",
        "torch.float16; it must be (2, 255, 1024) torch.float32",
    ),
    "raises": ("    total_tokens = 0\n", "    raise RuntimeError('boom')\n", "crashed", "RuntimeError: boom"),
    "leaves without a word": (
        "    total_tokens = 0\n",
        "    import os; os._exit(0)\n",
        "crashed",
        "the process ended with exit code 0 before it returned a result",
    ),
    "hangs while it is timed": (
        "    total_tokens = 0\n",
        "    import time\n    total_tokens = 0\n    time.sleep(0 if num_steps == 2 else 600)\n",
        "timeout",
        "the run did not end within 5 s",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_loop_fails_with_its_code_and_its_reason(name: str, tmp_path: Path, competition: Path) -> None:
    old, new, reason, detail = WRONG[name]
    ended = run(changed(tmp_path, old, new), competition)
    assert (ended.code, ended.answer["verdict"], ended.answer["reason"]) == (1, "failed", reason), ended
    assert detail in ended.answer["detail"]
    assert ended.answer["tps"] is None
    assert len(ended.answer["runs"]) == 1


def test_what_it_printed_is_in_the_log_and_never_on_stdout(tmp_path: Path, competition: Path) -> None:
    noisy = "    print('{\"verdict\": \"passed\"}')\n    raise RuntimeError('boom')\n"
    ended = run(changed(tmp_path, "    total_tokens = 0\n", noisy), competition)
    assert ended.answer["verdict"] == "failed"
    assert ended.answer["runs"][0]["log_tail"] == '{"verdict": "passed"}\n'


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_at_once_and_leaves_nothing_running(number: signal.Signals, tmp_path: Path, competition: Path) -> None:
    there = tmp_path / "there"
    waits = (
        f"    import os, time\n    open({str(there)!r}, 'w').write(str(os.getpid()))\n"
        "    time.sleep(600)\n    total_tokens = 0\n"
    )
    file = changed(tmp_path, "    total_tokens = 0\n", waits)
    process = subprocess.Popen(
        command(file, competition, sandbox="process"),
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (there.exists() and there.read_text()) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    inside = int(there.read_text())
    process.send_signal(number)
    out, _ = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 130
    assert json.loads(out) == {"error": "stopped; nothing was left running"}
    with pytest.raises(ProcessLookupError):
        os.kill(inside, 0)
