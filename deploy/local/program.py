"""A child process as a value: what to start, with what around it, how to stop it. Starting it is somebody else's."""

import ctypes
import os
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "DOCKER_HOST", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY", "VIRTUAL_ENV")
"""Nothing of ours is inherited, so that a setting reaches a service in one way only."""
LOOPBACK = "127.0.0.1"

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, kw_only=True)
class Program:
    """One program of the local tournament."""

    name: str
    command: tuple[str, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    """Its environment, beside what is INHERITED."""
    folder: Path | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    ready: Callable[[], Awaitable[bool]] | None = None
    """Whether it does its work by now; None where running is enough."""

    def options(self) -> dict[str, Any]:
        """Keyword arguments for `subprocess.Popen` and asyncio's counterpart.

        The program is in a session of its own, so that a terminal's Ctrl-C reaches only its parent, and is told to
        stop when its parent dies, however that happens.
        """
        environment = {name: os.environ[name] for name in INHERITED if name in os.environ}

        def die_with_parent() -> None:
            _libc.prctl(PR_SET_PDEATHSIG, self.stop_signal)

        return {
            "env": environment | dict(self.settings),
            "cwd": self.folder,
            "stdin": subprocess.DEVNULL,
            "start_new_session": True,
            "preexec_fn": die_with_parent,
        }


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    return port
