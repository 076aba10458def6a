"""The supervisor with real child processes: readiness, restarts, bounded logs, an end that leaves nothing."""

import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from deploy.local import supervisor
from deploy.local.program import Program
from deploy.local.supervisor import ProgramFailed, keep_running
from tests.support.servers import eventually

PROJECT = Path(__file__).parents[2]


def program(name: str, code: str, *, ready: Callable[[], Awaitable[bool]] | None = None) -> Program:
    return Program(name=name, command=(sys.executable, "-u", "-c", code), ready=ready)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def pid_of(folder: Path, name: str) -> int:
    return int((folder / "run" / f"{name}.pid").read_text())


async def test_a_program_that_was_killed_is_started_again_and_said(tmp_path: Path) -> None:
    said: list[str] = []
    async with keep_running([program("sleeper", "import time; time.sleep(600)")], tmp_path, said.append):
        first = await eventually(lambda: _pid(tmp_path, "sleeper"))
        os.kill(first, signal.SIGKILL)

        async def another() -> int | None:
            pid = await _pid(tmp_path, "sleeper")
            return pid if pid != first else None

        second = await eventually(another)
    assert said == ["sleeper was ended by SIGKILL; starting it again"]
    assert not is_running(second)
    assert not (tmp_path / "run" / "sleeper.pid").exists()


async def _pid(folder: Path, name: str) -> int | None:
    try:
        return pid_of(folder, name)
    except (FileNotFoundError, ValueError):
        return None


async def test_the_block_runs_once_all_are_ready(tmp_path: Path) -> None:
    flag = tmp_path / "flag"

    async def ready() -> bool:
        return flag.exists()

    code = f"import time, pathlib; pathlib.Path({str(flag)!r}).touch(); time.sleep(600)"
    async with keep_running([program("slow", code, ready=ready)], tmp_path, print):
        assert flag.exists()


async def test_a_refused_setting_is_told_in_the_programs_own_words(tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    code = "import sys; sys.exit(print('api: port 1 is taken', file=sys.stderr) or 2)"
    with pytest.raises(ProgramFailed, match="api does not run: api: port 1 is taken"):
        async with keep_running([program("api", code, ready=never)], tmp_path, print):
            raise AssertionError("it never became ready")


async def test_a_program_that_never_comes_up_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never() -> bool:
        return False

    monkeypatch.setattr(supervisor, "retry_seconds", lambda attempt: 0.0)
    said: list[str] = []
    with pytest.raises(ProgramFailed, match="nats does not run: no space"):
        async with keep_running([program("nats", "print('no space'); exit(1)", ready=never)], tmp_path, said.append):
            raise AssertionError("it never became ready")
    assert said == ["nats ended with exit code 1; starting it again"] * (supervisor.STARTS - 1)


async def test_one_that_does_not_answer_in_time_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never() -> bool:
        return False

    monkeypatch.setattr(supervisor, "READY_SECONDS", 0.1)
    with pytest.raises(ProgramFailed, match=r"hangs does not answer; see .*hangs\.log"):
        async with keep_running([program("hangs", "import time; time.sleep(600)", ready=never)], tmp_path, print):
            raise AssertionError("it never became ready")


async def test_a_failure_inside_the_block_stops_the_programs_and_passes_through(tmp_path: Path) -> None:
    pids: list[int] = []

    async def fail() -> None:
        async with keep_running([program("sleeper", "import time; time.sleep(600)")], tmp_path, print):
            pids.append(await eventually(lambda: _pid(tmp_path, "sleeper")))
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await fail()
    assert not is_running(pids[0])


async def test_one_that_ignores_the_signal_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STOP_SECONDS", 0.2)
    code = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).write_text(str(os.fork() or os.getpid()))
time.sleep(600)
"""
    child = tmp_path / "child"
    stubborn = Program(name="stubborn", command=(sys.executable, "-c", code, str(child)))
    said: list[str] = []

    async def started() -> bool:
        return child.exists() and bool(child.read_text())

    async with keep_running([stubborn], tmp_path, said.append):
        await eventually(started)
    assert said == ["stubborn did not stop within 0.2 s; killed"]

    async def gone() -> bool:
        return not is_running(int(child.read_text()))

    await eventually(gone)


async def test_logs_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LOG_BYTES", 200_000)
    flag = tmp_path / "done"
    code = f"""
import pathlib, time
for number in range(20_000): print(f"line {{number:010}} of a flood", flush=False)
print("the end", flush=True)
pathlib.Path({str(flag)!r}).touch()
time.sleep(600)
"""

    async def flooded() -> bool:
        return flag.exists() and "the end" in (tmp_path / "logs" / "loud.log").read_text()

    async with keep_running([program("loud", code)], tmp_path, print):
        await eventually(flooded)
    sizes = [file.stat().st_size for file in (tmp_path / "logs").iterdir()]
    assert len(sizes) == 2
    assert sum(sizes) <= 2 * (200_000 + supervisor.READ_BYTES)


async def test_kill_9_of_the_supervisor_takes_its_programs_along(tmp_path: Path) -> None:
    code = f"""
import asyncio, sys
from pathlib import Path
from deploy.local.program import Program
from deploy.local.supervisor import keep_running
async def main():
    sleeper = Program(name="sleeper", command=(sys.executable, "-c", "import time; time.sleep(600)"))
    async with keep_running([sleeper], Path({str(tmp_path)!r}), print):
        await asyncio.sleep(600)
asyncio.run(main())
"""
    keeper = subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT)
    try:
        pid = await eventually(lambda: _pid(tmp_path, "sleeper"))
    finally:
        keeper.kill()
        keeper.wait()

    async def gone() -> bool:
        return not is_running(pid)

    await eventually(gone)


async def test_settings_of_this_process_are_not_inherited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOURNAMENT_SANDBOX", "process")
    code = "import os, time; print(sorted(os.environ)); time.sleep(600)"
    one = Program(name="env", command=(sys.executable, "-u", "-c", code), settings={"TOURNAMENT_GIVEN": "1"})

    async def said() -> str | None:
        log = tmp_path / "logs" / "env.log"
        return log.read_text() if log.exists() and log.read_text().endswith("\n") else None

    async with keep_running([one], tmp_path, print):
        names = await eventually(said)
    assert "TOURNAMENT_GIVEN" in names
    assert "TOURNAMENT_SANDBOX" not in names
    assert "PATH" in names
