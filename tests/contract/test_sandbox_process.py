"""What only the process sandbox has to prove: a child process must be taken care of to leave nothing behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.evaluator.providers import choose, process_provider

OPENER = """
import sys
from tests.support.probes import PRELUDE, make_spec
from services.evaluator.process_sandbox import open_process
probe = PRELUDE + '''
connect()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        say(os.getpid())
        time.sleep(600)
    os._exit(0)
time.sleep(600)
'''
with open_process(make_spec(), 60.0, command=(sys.executable, "-P", "-c", probe)) as sandbox:
    print(sandbox.channel.makefile().readline(), flush=True)
    sys.stdin.read()
"""


def test_everything_ends_when_the_evaluator_is_killed(short_tmp: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(short_tmp)}
    with subprocess.Popen(
        [sys.executable, "-c", OPENER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as opener:
        assert opener.stdout is not None
        daemon = int(opener.stdout.readline())
        assert Path(f"/proc/{daemon}").exists()
        opener.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20.0
    while Path(f"/proc/{daemon}").exists() or list(short_tmp.iterdir()):
        assert time.monotonic() < deadline, "the daemon lives on, or its files do"
        time.sleep(0.01)


def test_the_provider_names_the_versions() -> None:
    provider = process_provider()
    assert provider.kind == "process"
    assert provider.image.startswith(f"python {sys.version_info.major}.{sys.version_info.minor}.")
    assert ", torch 2." in provider.image


def test_without_an_engine_auto_takes_the_process_and_says_how_to_get_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    provider, sentence = choose("auto")
    assert provider.kind == "process"
    assert "no Docker engine answers" in sentence
    assert "just sandbox-image" in sentence
