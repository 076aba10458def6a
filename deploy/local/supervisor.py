"""Keeps programs running: waits until they answer, restarts what ends unasked, bounds their logs, stops them.

It knows nothing of what a program does.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path

from deploy.local.program import Program
from shared.bus import retry_seconds
from shared.process import USAGE_EXIT_CODE

Report = Callable[[str], None]
"""Told what a person should know, in one line."""

READY_SECONDS = 60.0
READY_POLL_SECONDS = 0.05
STOP_SECONDS = 20.0
"""How long a program may take to stop before it is killed."""
STARTS = 4
"""How often a program that was never ready is started before it counts as unable to."""
LIVED_SECONDS = 30.0
"""A program that ran so long before it ended begins its pauses afresh."""
LOG_BYTES = 20_000_000
READ_BYTES = 65_536


class ProgramFailed(Exception):
    """A program cannot run here. The message carries its own last words."""


@contextlib.asynccontextmanager
async def keep_running(programs: Sequence[Program], folder: Path, report: Report) -> AsyncIterator[None]:
    """Start programs together; the block runs once all are ready; they are stopped together when it is left.

    Each writes to `folder/logs/NAME.log` and has its process id in `folder/run/NAME.pid`.

    Raises:
        ProgramFailed: one refuses its settings, or never becomes ready. Also out of the block, if it happens there.
    """
    for name in ("logs", "run"):
        (folder / name).mkdir(exist_ok=True)
    failed: list[Exception] = []
    try:
        async with asyncio.TaskGroup() as group:
            kept = [_Kept(program, folder, report) for program in programs]
            tasks = [group.create_task(one.run()) for one in kept]
            try:
                for one in kept:
                    await one.become_ready()
                try:
                    yield
                except Exception as error:  # noqa: BLE001 - raised again below, bare: a TaskGroup would wrap it
                    failed.append(error)
            finally:
                for task in tasks:
                    task.cancel()
    except* ProgramFailed as failures:
        failed.extend(failures.exceptions)
    if failed:
        raise failed[0]


class _Kept:
    """One program and its current process."""

    def __init__(self, program: Program, folder: Path, report: Report) -> None:
        self._program = program
        self._report = report
        self._pid_file = folder / "run" / f"{program.name}.pid"
        self._log_file = folder / "logs" / f"{program.name}.log"
        self._log = RotatingFileHandler(self._log_file, maxBytes=LOG_BYTES, backupCount=1)
        self._log.terminator = ""
        self._last_words = ""
        self._was_ready = False

    async def become_ready(self) -> None:
        """Return once it answers.

        Raises:
            ProgramFailed: it does not in time.
        """
        deadline = time.monotonic() + READY_SECONDS
        while self._program.ready is not None and not await self._program.ready():
            if time.monotonic() > deadline:
                raise ProgramFailed(f"{self._program.name} does not answer; see {self._log_file}")
            await asyncio.sleep(READY_POLL_SECONDS)
        self._was_ready = True

    async def run(self) -> None:
        """Keep it running until cancelled, then stop it."""
        name, failures = self._program.name, 0
        try:
            while True:
                began = time.monotonic()
                code = await self._run_once()
                failures = 1 if time.monotonic() - began > LIVED_SECONDS else failures + 1
                if code == USAGE_EXIT_CODE or (not self._was_ready and failures == STARTS):
                    raise ProgramFailed(f"{name} does not run: {self._last_words or _ending(code)}")
                self._report(f"{name} {_ending(code)}; starting it again")
                await asyncio.sleep(retry_seconds(failures))
        finally:
            self._log.close()
            self._pid_file.unlink(missing_ok=True)

    async def _run_once(self) -> int:
        process = await asyncio.create_subprocess_exec(
            *self._program.command,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            **self._program.options(),
        )
        self._pid_file.write_text(f"{process.pid}\n")
        try:
            await self._copy_output(process)
            return await process.wait()
        finally:
            await self._stop(process)

    async def _copy_output(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while chunk := await process.stdout.read(READ_BYTES):
            text = chunk.decode(errors="replace")
            self._log.emit(logging.makeLogRecord({"msg": text}))
            if text.strip():
                self._last_words = text.strip().splitlines()[-1]

    async def _stop(self, process: asyncio.subprocess.Process) -> None:
        """Ask, wait, kill; what it left behind in its session goes too."""
        if process.returncode is None:
            process.send_signal(self._program.stop_signal)
            copying = asyncio.create_task(self._copy_output(process))  # so that a full pipe does not hold it up
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                self._report(f"{self._program.name} did not stop within {STOP_SECONDS:g} s; killed")
            copying.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _ending(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
