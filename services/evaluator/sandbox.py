"""What a sandbox is to the controller: a connected channel, a log tail, and a way to end it for certain.

Two modules provide one: `docker_sandbox` (the real one) and `process_sandbox` (a miner's own code on the miner's own
machine). tests/contract runs the same cases against both.
"""

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from shared import hparams
from shared.faults import TransientFault

Kind = Literal["docker", "process"]
Runtime = Literal["runc", "runsc"]
"""What starts a container: runc, or gVisor, which keeps the host's kernel away from it."""

LOG_TAIL_BYTES = 16_384
SIGNAL_EXIT_CODES = 128
"""A process that signal n ended has the exit code 128 + n."""


class SandboxFault(TransientFault):
    """The sandbox could not be started or was lost, by no doing of the submission: the validator's own fault."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One sandbox to open."""

    name: str
    """Unique; part of the container's name and labels."""
    limits: hparams.Sandbox
    cpus: tuple[int, ...]
    """Host CPU numbers to pin it to. Fewer than limits.cpus only where the machine has fewer."""
    gpu_uuid: str | None
    """The one whole GPU it gets, or None."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How the process inside ended. Facts from the kernel or the engine, not from the process."""

    exit_code: int | None
    """None when it had to be killed by us; 128 + n when signal n ended it."""
    out_of_memory: bool


class Sandbox(Protocol):
    """An open sandbox: the runner inside has connected, nothing of a submission has been loaded."""

    @property
    def channel(self) -> socket.socket:
        """Connected stream socket to the runner; deadlines by settimeout. Whatever arrives is hostile input."""

    def wait(self, timeout_seconds: float) -> Ended:
        """Wait for the process inside to end by itself; kill the whole sandbox when it has not by then."""

    def log_tail(self) -> str:
        """The last LOG_TAIL_BYTES of stdout and stderr together, cleaned of control codes. Call after `wait`."""


Open = Callable[[Spec, float], AbstractContextManager[Sandbox]]
"""Open a sandbox, waiting at most so many seconds for its runner to connect; leaving the block removes every trace.

Raises SandboxFault when it cannot be opened. The runner is started as `python -m sandbox.runner SOCKET_PATH` and
connects to that Unix socket before it imports anything else.
"""


@dataclass(frozen=True, kw_only=True)
class Provider:
    """One way to open sandboxes on this machine."""

    kind: Kind
    image: str
    """Image digest, or the Python and torch versions of a `process` sandbox."""
    runtime: str
    """What starts a container; empty without one."""
    open: Open
