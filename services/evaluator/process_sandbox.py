"""A plain child process, for a miner's own code on the miner's own machine. It contains nothing hostile.

Same channel, environment, pinning and cleaning up as the container; no limit on memory, network or what can be read.
"""

import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from services.evaluator import interior
from services.evaluator.channel import listening
from services.evaluator.log_tail import LogTail
from services.evaluator.sandbox import LOG_TAIL_BYTES, SIGNAL_EXIT_CODES, Ended, Sandbox, SandboxFault, Spec

PROJECT = Path(__file__).parents[2]
GUARD = Path(__file__).with_name("process_guard.py")
RUNNER = (sys.executable, *interior.COMMAND)
READ_BYTES = 65_536
END_SECONDS = 5.0
"""How long the guard may take to kill everything and to remove the folder."""


@contextlib.contextmanager
def open_process(spec: Spec, timeout_seconds: float, *, command: Sequence[str] = RUNNER) -> Iterator[Sandbox]:
    """Start a child process and wait for its runner to connect; see `sandbox.Open`."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listening())
        temporary = listener.folder.with_name("tmp")
        plan = {
            "command": [*command, str(listener.path)],
            "cpus": spec.cpus,
            "open_files": interior.OPEN_FILES,
            "largest_file_bytes": interior.largest_file_bytes(spec.limits),
            "remove": str(temporary.parent),
        }
        try:
            temporary.mkdir()
            guard = subprocess.Popen(
                [sys.executable, "-I", "-S", GUARD, json.dumps(plan)],
                cwd=temporary,
                env=_environment(spec, temporary),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise SandboxFault(f"the sandbox process did not start: {error}") from error
        assert guard.stdin is not None
        assert guard.stdout is not None
        stack.enter_context(guard.stdout)
        log = LogTail(_chunks(guard.stdout), limit_bytes=LOG_TAIL_BYTES)
        stack.callback(_end, guard, guard.stdin, log)

        def died() -> str | None:
            if guard.poll() is None:
                return None
            log.finish()
            return f"ended with exit code {guard.returncode} before it connected: {log.text()}"

        channel = stack.enter_context(listener.accept(timeout_seconds, died))
        yield _ProcessSandbox(guard, guard.stdin, channel, log)


class _ProcessSandbox:
    def __init__(self, guard: subprocess.Popen[bytes], stdin: IO[bytes], channel: socket.socket, log: LogTail) -> None:
        self.channel = channel
        self._guard = guard
        self._stdin = stdin
        self._log = log
        self._ended: Ended | None = None

    def wait(self, timeout_seconds: float) -> Ended:
        if self._ended is None:
            try:
                code: int | None = self._guard.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                code = None
            _end(self._guard, self._stdin, self._log)
            # The kernel tells a process nothing about why its child was killed, so memory is never blamed here.
            self._ended = Ended(
                exit_code=code if code is None or code >= 0 else SIGNAL_EXIT_CODES - code, out_of_memory=False
            )
        return self._ended

    def log_tail(self) -> str:
        return self._log.text()


def _end(guard: subprocess.Popen[bytes], stdin: IO[bytes], log: LogTail) -> None:
    """Tell the guard to kill everything, by closing its stdin, and wait until it has.

    The submission runs as the same user and may have stopped the guard, or stop it again and again. A killed guard
    takes its child along.
    """
    stdin.close()
    guard.send_signal(signal.SIGCONT)
    try:
        guard.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        guard.kill()
        guard.wait()
    log.finish()


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    return iter(functools.partial(os.read, stream.fileno(), READ_BYTES), b"")


def _environment(spec: Spec, temporary: Path) -> dict[str, str]:
    """Nothing of ours but PATH: no settings, no secrets."""
    return {
        **interior.environment(temporary, len(spec.cpus)),
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": str(PROJECT),
        "CUDA_VISIBLE_DEVICES": spec.gpu_uuid or "",
    }
