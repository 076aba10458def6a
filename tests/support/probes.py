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

from services.evaluator.docker_sandbox import connect, open_docker, require_runtime
from services.evaluator.process_sandbox import open_process
from services.evaluator.sandbox import Open, Runtime, Sandbox, SandboxFault, Spec
from shared import hparams

PRELUDE = """
import json, os, socket, sys, time
channel = socket.socket(socket.AF_UNIX)
def connect():
    channel.connect(sys.argv[1])
def say(value):
    channel.sendall(json.dumps(value).encode() + b"\\n")
"""
LIMITS = hparams.Sandbox(memory_bytes=2**28, cpus=1, processes=64, tmp_bytes=20_000_000, shm_bytes=10_000_000)
CONNECT_SECONDS = 60.0


def make_spec(**limits: int) -> Spec:
    """A spec of its own name, on the first CPU; `limits` replace those of LIMITS."""
    chosen = msgspec.structs.replace(LIMITS, **limits)
    return Spec(name=f"test-{secrets.token_hex(8)}", limits=chosen, cpus=(0,), gpu_uuid=None)


@dataclass(frozen=True, kw_only=True)
class Opener:
    """One kind of sandbox, for probes."""

    kind: str
    runtime: Runtime | None
    """Of a docker sandbox."""
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
def short_tmp(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where sandboxes put their files during this test: short enough for a Unix socket, and looked at afterwards."""
    tmp_path_factory.getbasetemp()  # or pytest's own folder would be made in this one, and go with it
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.fixture
def engine(sandbox_image: str) -> Iterator[docker.APIClient]:
    """A client for the engine that has the image."""
    assert sandbox_image
    with connect() as client:
        yield client


def _runtimes() -> list[Runtime]:
    """Those that the engine of this machine knows. gVisor is tested where it is, and missed nowhere."""
    try:
        with connect() as client:
            require_runtime(client, "runsc")
    except SandboxFault:
        return ["runc"]
    return ["runc", "runsc"]


RUNTIMES = _runtimes()


@pytest.fixture(params=RUNTIMES)
def docker_opener(request: pytest.FixtureRequest, sandbox_image: str) -> Opener:
    """The docker sandbox, with each runtime in turn."""
    return _docker_opener(sandbox_image, request.param)


def _docker_opener(image: str, runtime: Runtime) -> Opener:
    open_image = functools.partial(open_docker, image=image, runtime=runtime)
    return Opener(
        kind="docker",
        runtime=runtime,
        bind=lambda code: functools.partial(open_image, command=("python", "-P", "-c", code)),
        runner=open_image,
    )


@pytest.fixture
def process_opener() -> Opener:
    return Opener(
        kind="process",
        runtime=None,
        bind=lambda code: functools.partial(open_process, command=(sys.executable, "-P", "-c", code)),
        runner=open_process,
    )


@pytest.fixture(params=["process", *(pytest.param(runtime, marks=pytest.mark.docker) for runtime in RUNTIMES)])
def opener(request: pytest.FixtureRequest) -> Opener:
    """Each of the two sandboxes in turn, docker with each runtime."""
    if request.param == "process":
        chosen: Opener = request.getfixturevalue("process_opener")
        return chosen
    return _docker_opener(request.getfixturevalue("sandbox_image"), request.param)
