"""Both sandboxes behind one fixture, with a probe program of the test's own in place of the runner."""

import functools
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import docker
import msgspec
import pytest

from services.evaluator.docker_sandbox import connect, open_docker
from services.evaluator.process_sandbox import open_process
from services.evaluator.sandbox import Open, Sandbox, Spec
from shared import hparams

PRELUDE = """
import json, os, socket, sys, time
channel = socket.socket(socket.AF_UNIX)
def connect():
    channel.connect(sys.argv[1])
def say(value):
    channel.sendall(json.dumps(value).encode() + b"\\n")
"""
LIMITS = hparams.Sandbox(memory_bytes=2**28, cpus=1, processes=32, tmp_bytes=20_000_000, shm_bytes=10_000_000)
CONNECT_SECONDS = 60.0


def make_spec(**limits: int) -> Spec:
    """A spec of its own name, on the first CPU; `limits` replace those of LIMITS."""
    chosen = msgspec.structs.replace(LIMITS, **limits)
    return Spec(name=f"test-{secrets.token_hex(8)}", limits=chosen, cpus=(0,), gpu_uuid=None)


@dataclass(frozen=True, kw_only=True)
class Opener:
    """One kind of sandbox, for probes."""

    kind: str
    bind: Callable[[str], Open]
    """Of the Python program that takes the runner's place."""
    runner: Open

    def probe(self, body: str, *, timeout_seconds: float = CONNECT_SECONDS) -> AbstractContextManager[Sandbox]:
        """Open a sandbox whose program connects and then runs `body`."""
        return self.program(f"connect()\n{body}", timeout_seconds=timeout_seconds)

    def program(self, body: str, *, timeout_seconds: float = CONNECT_SECONDS) -> AbstractContextManager[Sandbox]:
        """Open a sandbox whose program runs `body`, which has to connect by itself."""
        return self.bind(PRELUDE + body)(make_spec(), timeout_seconds)


@pytest.fixture
def short_tmp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where sandboxes put their files during this test: short enough for a Unix socket, and looked at afterwards."""
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.fixture
def engine(sandbox_image: str) -> Iterator[docker.APIClient]:
    """A client for the engine that has the image."""
    assert sandbox_image
    with connect() as client:
        yield client


@pytest.fixture
def docker_opener(sandbox_image: str) -> Opener:
    open_image = functools.partial(open_docker, image=sandbox_image)
    return Opener(
        kind="docker",
        bind=lambda code: functools.partial(open_image, command=("python", "-P", "-c", code)),
        runner=open_image,
    )


@pytest.fixture
def process_opener() -> Opener:
    return Opener(
        kind="process",
        bind=lambda code: functools.partial(open_process, command=(sys.executable, "-P", "-c", code)),
        runner=open_process,
    )


@pytest.fixture(params=["process", pytest.param("docker", marks=pytest.mark.docker)])
def opener(request: pytest.FixtureRequest) -> Opener:
    """Each of the two sandboxes in turn."""
    chosen: Opener = request.getfixturevalue(f"{request.param}_opener")
    return chosen
