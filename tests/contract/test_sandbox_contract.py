"""What both sandboxes promise to the controller, whatever runs inside."""

import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from sandbox import protocol
from services.evaluator import interior
from services.evaluator.sandbox import LOG_TAIL_BYTES, Ended, SandboxFault
from tests.support.probes import LIMITS, Opener, make_spec

PROMPT_SECONDS = 20.0
"""Far above what anything here takes, far below what it would take to run into a deadline."""


def heard(channel: socket.socket) -> Any:
    """The next line that the probe says, decoded."""
    channel.settimeout(PROMPT_SECONDS)
    with channel.makefile("rb") as lines:
        return json.loads(lines.readline())


def asked(opener: Opener, expression: str) -> Any:
    """What a probe says that an expression is, inside."""
    with opener.probe(f"import resource, subprocess, socket\nsay({expression})") as sandbox:
        return heard(sandbox.channel)


def test_the_channel_carries_both_directions(opener: Opener) -> None:
    with opener.probe("channel.sendall(channel.recv(5)[::-1])") as sandbox:
        sandbox.channel.settimeout(PROMPT_SECONDS)
        sandbox.channel.sendall(b"abcde")
        assert sandbox.channel.recv(5) == b"edcba"
        assert sandbox.channel.recv(1) == b"", "the end of the process is the end of the channel"


def test_the_real_runner_says_hello(opener: Opener) -> None:
    with opener.runner(make_spec(), PROMPT_SECONDS) as sandbox:
        sandbox.channel.settimeout(PROMPT_SECONDS)
        header = sandbox.channel.recv(protocol.HEADER.size, socket.MSG_WAITALL)
        assert protocol.HEADER.unpack(header)[:3] == (protocol.MAGIC, protocol.VERSION, protocol.Kind.HELLO)


def test_nobody_can_connect_after_the_runner(opener: Opener) -> None:
    body = """
try:
    socket.socket(socket.AF_UNIX).connect(sys.argv[1])
except OSError as error:
    say(type(error).__name__)
"""
    with opener.probe(f"channel.recv(1)\n{body}") as sandbox:
        sandbox.channel.sendall(b"!")
        assert heard(sandbox.channel) == "FileNotFoundError"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param("", 0, id="ends"),
        pytest.param("sys.exit(7)", 7, id="exits"),
        pytest.param("raise RuntimeError", 1, id="raises"),
        pytest.param("os.kill(os.getpid(), 9)", 128 + signal.SIGKILL, id="kills itself"),
        pytest.param("os.kill(os.getpid(), 11)", 128 + signal.SIGSEGV, id="crashes"),
    ],
)
def test_wait_tells_how_the_process_ended(opener: Opener, body: str, expected: int) -> None:
    with opener.probe(body) as sandbox:
        assert sandbox.wait(PROMPT_SECONDS) == Ended(exit_code=expected, out_of_memory=False)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("time.sleep(600)", id="sleeps"),
        pytest.param("import signal; signal.signal(15, signal.SIG_IGN)\nwhile True: pass", id="ignores SIGTERM"),
        pytest.param("os.kill(os.getpid(), 19)", id="stops itself"),
    ],
)
def test_wait_kills_what_does_not_end(opener: Opener, body: str) -> None:
    with opener.probe(body) as sandbox:
        began = time.monotonic()
        assert sandbox.wait(0.2) == Ended(exit_code=None, out_of_memory=False)
        assert time.monotonic() - began < PROMPT_SECONDS
        sandbox.channel.settimeout(PROMPT_SECONDS)
        assert sandbox.channel.recv(1) == b""
        assert sandbox.wait(0.0) == Ended(exit_code=None, out_of_memory=False), "asked again, the same answer"


def test_the_log_tail_is_clean_and_has_both_streams(opener: Opener) -> None:
    # A write is a line, because an engine may put the two streams' writes together in any order.
    body = r"os.write(1, b'\x1b[31mred\x07\n'); os.write(2, b'wrong\r\n'); os.write(1, b'a\tb\n')"
    with opener.probe(body) as sandbox:
        sandbox.wait(PROMPT_SECONDS)
        assert sorted(sandbox.log_tail().splitlines()) == ["a\tb", "red", "wrong"]


def test_the_log_tail_of_a_flood_is_its_end(opener: Opener) -> None:
    with opener.probe("for _ in range(20_000): os.write(1, b'x' * 999 + b'\\n')\nprint('the end')") as sandbox:
        sandbox.wait(PROMPT_SECONDS)
        tail = sandbox.log_tail()
        assert tail.endswith("x\nthe end\n")
        assert len(tail.encode()) <= LOG_TAIL_BYTES


def test_an_endless_flood_can_be_killed(opener: Opener) -> None:
    with opener.probe("while True: os.write(2, b'x' * 65536)") as sandbox:
        assert sandbox.wait(0.5).exit_code is None
        assert 0 < len(sandbox.log_tail()) <= LOG_TAIL_BYTES


def test_the_environment_holds_nothing_of_ours(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOURNAMENT_POSTGRES_URL", "AWS_SECRET_ACCESS_KEY", "SECRET"):
        monkeypatch.setenv(name, "secret")
    environment = asked(opener, "dict(os.environ)")
    expected = {*interior.environment(Path("/"), 1), "PATH", "PYTHONPATH"}
    own = {"HOSTNAME"} if opener.kind == "docker" else {"CUDA_VISIBLE_DEVICES"}
    # The interpreter may add its own idea of the locale.
    assert set(environment) - {"LC_CTYPE"} == expected | own
    assert "secret" not in environment.values()
    assert environment["OMP_NUM_THREADS"] == "1"


def test_there_is_no_input(opener: Opener) -> None:
    assert asked(opener, "sys.stdin.read()") == ""


def test_the_process_is_pinned_and_limited(opener: Opener) -> None:
    assert asked(opener, "sorted(os.sched_getaffinity(0))") == [0]
    limits = asked(opener, "[resource.getrlimit(k)[1] for k in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE)]")
    assert limits == [0, LIMITS.tmp_bytes]
    assert 0 < asked(opener, "resource.getrlimit(resource.RLIMIT_NOFILE)[1]") <= interior.OPEN_FILES


def test_the_temporary_directory_is_empty_writable_and_executable(opener: Opener) -> None:
    body = """
import subprocess, tempfile
before = os.listdir(tempfile.gettempdir())
script = os.path.join(os.environ["HOME"], "script")
with open(script, "w") as file:
    file.write("#!/bin/sh\\necho done")
os.chmod(script, 0o700)
say([before, os.path.samefile(os.environ["HOME"], tempfile.gettempdir()), subprocess.check_output([script], text=True)])
"""
    with opener.probe(body) as sandbox:
        assert heard(sandbox.channel) == [[], True, "done\n"]


def test_a_larger_file_than_allowed_cannot_be_written(opener: Opener) -> None:
    body = f"""
try:
    with open(os.path.join(os.environ["HOME"], "large"), "wb", buffering=0) as file:
        for _ in range({LIMITS.tmp_bytes // 1_000_000 + 1}):
            file.write(bytes(1_000_000))
        say("written")
except OSError as error:
    say(error.strerror)
"""
    with opener.probe(body) as sandbox:
        assert heard(sandbox.channel) in ("File too large", "No space left on device")


def test_a_runner_that_ends_at_once_is_our_fault_and_says_why(opener: Opener) -> None:
    began = time.monotonic()
    said = pytest.raises(SandboxFault, match=r"ended with exit code 1 before it connected: broken")
    with said, opener.program("sys.exit('broken')"):
        pytest.fail("opened")
    assert time.monotonic() - began < PROMPT_SECONDS


def test_a_runner_that_never_connects_is_our_fault(opener: Opener, short_tmp: Path) -> None:
    said = pytest.raises(SandboxFault, match=r"did not connect within 1 s")
    with said, opener.program("time.sleep(600)", timeout_seconds=1.0):
        pytest.fail("opened")
    assert list(short_tmp.iterdir()) == []


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_on_the_disk(opener: Opener, short_tmp: Path, fails: bool) -> None:
    began = time.monotonic()
    try:
        with opener.probe(
            "open(os.path.join(os.environ['HOME'], 'file'), 'w').close(); say(1); time.sleep(600)"
        ) as sandbox:
            heard(sandbox.channel)
            if opener.kind == "process":
                assert list(short_tmp.rglob("file"))
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert list(short_tmp.iterdir()) == []
    assert time.monotonic() - began < PROMPT_SECONDS, "a sandbox still running is killed, not waited for"


def test_a_daemon_does_not_outlive_the_process(opener: Opener) -> None:
    body = """
is_there, says_so = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        os.dup2(1, 2)
        say("here")
        os.write(says_so, b"!")
        while True:
            time.sleep(600)
    os._exit(0)
os.wait()
os.read(is_there, 1)
"""
    with opener.probe(body) as sandbox:
        assert heard(sandbox.channel) == "here"
        assert sandbox.wait(PROMPT_SECONDS) == Ended(exit_code=0, out_of_memory=False)
        # The daemon holds a copy of the channel: it ends when the daemon has.
        sandbox.channel.settimeout(PROMPT_SECONDS)
        assert sandbox.channel.recv(1) == b""


def test_a_path_too_long_for_a_socket_is_said(opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with pytest.raises(SandboxFault, match="set TMPDIR to a shorter one"), opener.probe(""):
        pytest.fail("opened")
    assert os.listdir(deep) == []
