"""What is left when an evaluator is killed, at each stage of a run: the next one finds and removes all of it.

A child process measures a submission as an evaluator does, stops where it is told to and says so; then kill -9.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import docker
import docker.errors
import pytest

from services.evaluator import channel, owner
from services.evaluator.docker_sandbox import remove_orphans
from services.evaluator.providers import docker_provider, process_provider
from tests.support.probes import CONNECT_SECONDS, Opener, make_spec
from tests.support.tiny import PROJECT

SECONDS = 60.0
"""Far above what anything here takes, on a machine that does ten other things."""

CHILD = """
import functools, signal, sys, threading
from sandbox.protocol import Kind
from services.evaluator import channel, controller, docker_sandbox, process_sandbox
from services.evaluator.evaluation import draw, measure_candidate, open_bench
from services.evaluator.machine import place
from services.evaluator.providers import docker_provider, process_provider
from tests.support.tiny import BASIC, SINGLE

stage, kind, name = sys.argv[1:]

def reached(*_, **__):
    print("reached", flush=True)
    signal.pause()

def reached_while(work):
    # The work goes on while its owner is killed.
    def started(*arguments, **keywords):
        threading.Thread(target=work, args=arguments, kwargs=keywords).start()
        reached()
    return started

def before(frame):
    receive = controller._Peer.receive
    def stopping(peer, wanted, **keywords):
        return reached() if wanted is frame else receive(peer, wanted, **keywords)
    controller._Peer.receive = stopping

match stage:
    case "folder":
        docker_sandbox._create = process_sandbox._environment = reached
    case "created":
        docker_sandbox._attach = reached
    case "started":
        channel.Listener.accept = reached
    case "connected":
        before(Kind.HELLO)
    case "prepare":
        before(Kind.READY)
    case "timed":
        before(Kind.RETURNED)
    case "evidence":
        before(Kind.EVIDENCE)
    case "ended":
        docker_sandbox._remove = process_sandbox._end = reached
    case "removal":
        docker_sandbox._remove = reached_while(docker_sandbox._remove)
        process_sandbox._end = reached_while(process_sandbox._end)

provider = docker_provider() if kind == "docker" else process_provider()
bench = open_bench(provider, SINGLE, place(1), None)
# In the timed region it runs on, whoever is killed.
endless = "    if num_steps > 2: __import__('time').sleep(600)\\n    total_tokens = 0\\n"
source = BASIC.replace("    total_tokens = 0\\n", endless) if stage == "timed" else BASIC
measure_candidate(bench, source.encode(), draw(), name=name)
"""
STAGES = ("folder", "started", "connected", "prepare", "timed", "evidence", "ended", "removal")
OF_DOCKER = ("folder", "created", *STAGES[1:])


def kill_at(stage: str, kind: str, name: str, temporary: Path) -> None:
    """Start an evaluator and kill it when it has reached that stage."""
    command = [sys.executable, "-c", CHILD, stage, kind, name]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "reached\n"
        finally:
            child.send_signal(signal.SIGKILL)


def inside(temporary: Path) -> list[int]:
    """Processes that know of a sandbox in that temporary directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            known = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(temporary) + b"/" in known and int(process.name) != os.getpid():
            found.append(int(process.name))
    return found


def until(condition: Callable[[], bool], told: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, told()
        time.sleep(0.02)


def containers(engine: docker.APIClient, name: str) -> list[str]:
    """Names of containers, running or not."""
    return [c["Names"][0] for c in engine.containers(all=True, filters={"name": name})]


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.parametrize("stage", OF_DOCKER)
def test_docker_leaves_nothing(stage: str, engine: docker.APIClient, short_tmp: Path) -> None:
    name = make_spec().name
    kill_at(stage, "docker", name, short_tmp)
    assert containers(engine, name) or stage in ("folder", "removal"), "a container outlives its owner"
    assert list(short_tmp.iterdir()), "and so does its folder"

    def is_clean() -> bool:
        docker_provider()  # as at the next start, and for the next evaluation
        return not containers(engine, name) and not list(short_tmp.iterdir())

    until(is_clean, lambda: [containers(engine, name), list(short_tmp.rglob("*"))])
    assert inside(short_tmp) == []


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_child_process_leaves_nothing(stage: str, short_tmp: Path) -> None:
    kill_at(stage, "process", make_spec().name, short_tmp)

    def is_clean() -> bool:
        process_provider()
        return not inside(short_tmp) and not list(short_tmp.iterdir())

    until(is_clean, lambda: [inside(short_tmp), list(short_tmp.rglob("*"))])


# --- folders ---


def test_a_folder_of_the_living_stays(short_tmp: Path) -> None:
    with channel.listening() as listener:
        assert channel.remove_abandoned() == []
        assert listener.path.exists()
    assert list(short_tmp.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "is_abandoned"),
    [
        pytest.param("tt-{namespace}-{pid}-1-abcdefgh", True, id="of a pid that another has now"),
        pytest.param("tt-{namespace}-4194305-1-abcdefgh", True, id="of a pid that cannot be"),
        pytest.param("tt-1-{pid}-1-abcdefgh", False, id="in a pid namespace that cannot be looked into"),
        pytest.param("tt-abcdefgh", False, id="of somebody else's program"),
        pytest.param("tmp-{namespace}-{pid}-1-abcdefgh", False, id="of another name"),
    ],
)
def test_whose_folder_is_abandoned(short_tmp: Path, name: str, is_abandoned: bool) -> None:
    namespace = owner.pid_namespace().removeprefix("pid:[").removesuffix("]")
    folder = short_tmp / name.format(namespace=namespace, pid=os.getpid())
    (folder / "c").mkdir(parents=True)
    (folder / "c" / "file").touch()
    removed = channel.remove_abandoned()
    assert removed == ([folder.name] if is_abandoned else [])
    assert folder.exists() is not is_abandoned


def test_a_link_is_no_folder_to_remove(short_tmp: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    namespace = owner.pid_namespace().removeprefix("pid:[").removesuffix("]")
    (short_tmp / f"tt-{namespace}-4194305-1-abcdefgh").symlink_to(tmp_path)
    channel.remove_abandoned()
    assert (tmp_path / "file").exists()


# --- an owner that lives on ---


@pytest.mark.docker
def test_what_runs_on_because_the_engine_was_away_is_removed_later(
    docker_opener: Opener, engine: docker.APIClient, monkeypatch: pytest.MonkeyPatch, short_tmp: Path
) -> None:
    """The engine goes away in a run, and what is inside goes on for ever."""
    open_sandbox = docker_opener.bind(
        "import socket, sys, time\nsocket.socket(1).connect(sys.argv[1])\nwhile True: time.sleep(600)"
    )
    spec = make_spec()
    with monkeypatch.context() as away, open_sandbox(spec, CONNECT_SECONDS):
        away.setattr(docker.APIClient, "remove_container", _gone)
    assert containers(engine, spec.name)
    assert remove_orphans(engine) == [f"templar-{spec.name}"]
    assert containers(engine, spec.name) == []
    assert list(short_tmp.iterdir()) == []


def _gone(*_: object, **__: object) -> None:
    raise docker.errors.DockerException("gone")
