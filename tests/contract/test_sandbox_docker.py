"""What the container keeps from a submission, seen from inside it, and that nothing of it is left on the host."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import docker.errors
import pytest

from services.evaluator import image
from services.evaluator.docker_sandbox import HOST_TASKS, OWNER_LABEL, open_docker, remove_orphans
from services.evaluator.providers import choose, docker_provider
from services.evaluator.sandbox import Ended, SandboxFault
from tests.support.probes import CONNECT_SECONDS, LIMITS, Opener, make_spec

pytestmark = pytest.mark.docker

SECONDS = 60.0


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def reported(opener: Opener, body: str) -> Any:
    """What a probe says."""
    with opener.probe(body) as sandbox:
        sandbox.channel.settimeout(SECONDS)
        with sandbox.channel.makefile("rb") as lines:
            return json.loads(lines.readline())


def test_there_is_no_network(docker_opener: Opener) -> None:
    body = """
def error_of(attempt):
    try:
        attempt()
    except OSError as error:
        return type(error).__name__
    return "reached"
say([
    [line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]],
    error_of(lambda: socket.create_connection(("1.1.1.1", 53), timeout=5)),
    error_of(lambda: socket.getaddrinfo("example.org", 80)),
])
"""
    interfaces, connecting, resolving = reported(docker_opener, body)
    assert set(interfaces) <= {"lo", "tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0"}
    assert connecting == "OSError"
    assert resolving == "gaierror"


def test_only_the_temporary_folders_can_be_written(docker_opener: Opener) -> None:
    body = """
def is_writable(folder):
    try:
        with open(os.path.join(folder, "probe"), "w"):
            return True
    except OSError:
        return False
say([root for root, _, _ in os.walk("/") if not root.startswith(("/proc/", "/sys/")) and is_writable(root)])
"""
    queues = [] if docker_opener.runtime == "runsc" else ["/dev/mqueue"]  # gVisor has none
    assert sorted(reported(docker_opener, body)) == [*queues, "/dev/shm", "/tmp"]


def test_the_user_is_nobody_special_and_cannot_become_so(docker_opener: Opener) -> None:
    body = """
import ctypes, getpass
PR_GET_NO_NEW_PRIVS = 39
status = dict(line.rstrip().split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
say([os.getresuid(), os.getresgid(), os.getgroups(), getpass.getuser(),
     ctypes.CDLL(None).prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0),
     {name: status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "Seccomp")}])
"""
    users, groups, more_groups, name, no_new_privileges, status = reported(docker_opener, body)
    assert users == [10001] * 3
    assert groups == [10001] * 3
    assert set(more_groups) <= {10001}
    assert name == "sandbox"
    assert no_new_privileges == 1
    none = "0" * 16
    # gVisor is what stands between a submission and the host's system calls; it applies no filter to its own.
    seccomp = "0" if docker_opener.runtime == "runsc" else "2"
    assert status == {"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "Seccomp": seccomp}


def test_a_fork_bomb_is_held_and_not_our_fault(docker_opener: Opener) -> None:
    assert docker_opener.runtime is not None
    limit = LIMITS.processes * HOST_TASKS[docker_opener.runtime]
    body = f"""
count = 0
try:
    while count < {limit}:
        if os.fork() == 0:
            time.sleep(600)
        count += 1
except OSError:
    pass
say(count)
"""
    with docker_opener.probe(body) as sandbox:
        sandbox.channel.settimeout(SECONDS)
        with sandbox.channel.makefile("rb") as lines:
            held = lines.readline()
        ended = sandbox.wait(SECONDS)
    if held:
        assert 0 < json.loads(held) < limit
        assert ended == Ended(exit_code=0, out_of_memory=False)
    else:
        # gVisor tells nobody who forks: it gives up where the host gives it no more tasks, or no more memory for them.
        assert docker_opener.runtime == "runsc"
        assert ended.exit_code == 2 or ended.out_of_memory


def test_as_many_processes_as_allowed_can_work(docker_opener: Opener) -> None:
    """Not only the one that sleeps: gVisor takes several tasks of the host for each, the more the busier it is."""
    count = LIMITS.processes // 2
    body = f"""
is_done, says_so = os.pipe()
for _ in range({count}):
    if os.fork() == 0:
        for _ in range(50):
            open("/etc/passwd").read()
            time.sleep(0.001)
        os.write(says_so, b"!")
        time.sleep(600)
say(sum(len(os.read(is_done, 1)) for _ in range({count})))
"""
    assert reported(docker_opener, body) == count


def test_memory_over_the_limit_ends_it_and_is_told(docker_opener: Opener) -> None:
    with docker_opener.probe(f"hog = bytearray({2 * LIMITS.memory_bytes})") as sandbox:
        assert sandbox.wait(SECONDS) == Ended(exit_code=128 + signal.SIGKILL, out_of_memory=True)


def test_memory_over_the_limit_is_told_whatever_is_killed_for_it(docker_opener: Opener) -> None:
    body = """
import threading
def take():
    hogs = []
    while True:
        hogs.append(bytearray(1_000_000))
for _ in range(3):
    threading.Thread(target=take).start()
"""
    with docker_opener.probe(body) as sandbox:
        assert sandbox.wait(SECONDS).out_of_memory


def test_a_child_that_runs_out_of_memory_is_no_verdict(docker_opener: Opener) -> None:
    body = f"""
if os.fork() == 0:
    hog = bytearray({2 * LIMITS.memory_bytes})
sys.exit(0 if os.WIFSIGNALED(os.wait()[1]) else 1)
"""
    with docker_opener.probe(body) as sandbox:
        ended = sandbox.wait(SECONDS)
    if docker_opener.runtime == "runsc":
        assert ended.out_of_memory, "to the host all processes of a gVisor are one, and end together"
    else:
        assert ended == Ended(exit_code=0, out_of_memory=False)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_container_that_was_killed_from_outside_is_our_fault(
    docker_opener: Opener, engine: docker.APIClient, number: signal.Signals
) -> None:
    said = pytest.raises(SandboxFault, match="was killed from outside")
    with docker_opener.probe("say(1); time.sleep(600)") as sandbox:
        sandbox.channel.settimeout(SECONDS)
        assert sandbox.channel.recv(2) == b"1\n"
        ours = {mount["Source"]: c["Id"] for c in engine.containers() for mount in c["Mounts"]}
        engine.kill(ours[str(Path(sandbox.channel.getsockname()).parent)], signal=number.name)
        with said:
            sandbox.wait(SECONDS)


def test_nothing_of_one_run_is_there_in_the_next(docker_opener: Opener) -> None:
    """Whatever can be written or left behind: files, shared memory, message queues, names of sockets, processes."""
    body = """
import ctypes, subprocess
libc = ctypes.CDLL(None, use_errno=True)
folders = [name for name in ("/tmp", "/dev/shm", "/dev/mqueue") if os.path.exists(name)]
files = [name for folder in (*folders, "/var/tmp") for name in os.listdir(folder)]
segment = libc.shmget(1234, 0, 0)
sockets = [line for line in open("/proc/net/unix") if "@templar" in line]
say([files, segment, sockets, sum(map(str.isdigit, os.listdir("/proc")))])
for folder in folders:
    open(f"{folder}/kept", "w").close()
assert libc.shmget(1234, 4096, 0o1600) >= 0
assert libc.shmget(1234, 0, 0) >= 0
kept = socket.socket(socket.AF_UNIX)
kept.bind("\\0templar")
subprocess.Popen(["sleep", "600"], start_new_session=True)
say("left")
"""
    for _ in range(2):
        with docker_opener.probe(body) as sandbox, sandbox.channel.makefile("rb") as lines:
            sandbox.channel.settimeout(SECONDS)
            assert json.loads(lines.readline()) == [[], -1, [], 2], "its init and itself"
            assert json.loads(lines.readline()) == "left"


def test_the_temporary_folders_are_full_at_their_size(docker_opener: Opener) -> None:
    body = """
def fill(folder):
    written = 0
    try:
        for number in range(1000):
            with open(f"{folder}/{number}", "wb", buffering=0) as file:
                written += file.write(bytes(1_000_000))
    except OSError:
        return written
say([fill("/tmp"), fill("/dev/shm")])
"""
    in_tmp, in_shm = reported(docker_opener, body)
    assert 0 < in_tmp <= LIMITS.tmp_bytes + 4096
    assert 0 < in_shm <= LIMITS.shm_bytes + 4096


def test_nothing_of_the_host_is_to_be_seen(docker_opener: Opener) -> None:
    body = """
ours = [os.path.join(root, name) for root, _, names in os.walk("/app") for name in names if name.endswith(".py")]
say([sorted(ours), [pid for pid in os.listdir("/proc") if pid.isdigit()],
     [line.split()[1] for line in open("/proc/mounts") if line.split()[2] in ("ext4", "xfs", "btrfs")],
     os.path.exists("/var/run/docker.sock"), os.listdir("/home"), socket.gethostname()])
"""
    ours, processes, mounts, has_engine, homes, hostname = reported(docker_opener, body)
    assert ours == sorted(f"/app/{name}" for name in image.CONTENTS if name.endswith(".py"))
    assert len(processes) == 2, "its init and itself"
    assert {name for name in mounts if not name.endswith("/docker-init")} <= {
        "/channel", "/etc/resolv.conf", "/etc/hostname", "/etc/hosts",
    }  # fmt: skip
    assert not has_engine
    assert homes == []
    assert hostname == "sandbox"


def test_the_runner_can_import_all_it_needs(docker_opener: Opener) -> None:
    body = "import sandbox.runner, sandbox.evidence, torch; say([torch.__version__, torch.get_num_threads()])"
    version, threads = reported(docker_opener, body)
    assert version.startswith("2.13.0")
    assert threads == 1


@pytest.mark.slow
def test_torch_compile_works_inside(docker_opener: Opener) -> None:
    body = """
import socket, sys
channel = socket.socket(socket.AF_UNIX)
channel.connect(sys.argv[1])
import torch
compiled = torch.compile(lambda x: torch.nn.functional.gelu(x * 2 + 1).sum())
x = torch.linspace(-1, 1, 100)
assert torch.allclose(compiled(x), torch.nn.functional.gelu(x * 2 + 1).sum())
channel.sendall(b"same")
"""
    spec = make_spec(memory_bytes=2_000_000_000, processes=256)
    with docker_opener.bind(body)(spec, CONNECT_SECONDS) as sandbox:
        sandbox.channel.settimeout(240.0)
        assert sandbox.channel.recv(4, socket.MSG_WAITALL) == b"same", sandbox.wait(1.0) and sandbox.log_tail()


@pytest.mark.parametrize("fails", [False, True])
def test_the_container_is_removed(docker_opener: Opener, engine: docker.APIClient, fails: bool) -> None:
    body = "time.sleep(600)"
    spec = make_spec()
    try:
        with docker_opener.bind(f"import socket, sys, time\nsocket.socket(1).connect(sys.argv[1])\n{body}")(
            spec, SECONDS
        ):
            assert containers(engine, spec.name)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert containers(engine, spec.name) == []


OPENER = """
import sys
from services.evaluator.docker_sandbox import open_docker
from tests.support.probes import PRELUDE, make_spec
spec = make_spec()
command = ("python", "-P", "-c", PRELUDE + "connect(); time.sleep(600)")
with open_docker(spec, 60.0, image=sys.argv[1], runtime=sys.argv[2], command=command):
    print(spec.name, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_evaluator_left_is_removed_and_nothing_else(
    docker_opener: Opener, engine: docker.APIClient, sandbox_image: str, short_tmp: Path
) -> None:
    assert docker_opener.runtime is not None
    command = [sys.executable, "-c", OPENER, sandbox_image, docker_opener.runtime]
    environment = {**os.environ, "TMPDIR": str(short_tmp)}
    with docker_opener.probe("time.sleep(600)") as sandbox:
        ours = list(short_tmp.iterdir())
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as opener:
            assert opener.stdout is not None
            name = opener.stdout.readline().strip()
            opener.send_signal(signal.SIGKILL)
        assert containers(engine, name), "a container outlives its owner"
        assert f"templar-{name}" in remove_orphans(engine)
        assert containers(engine, name) == []
        assert list(short_tmp.iterdir()) == ours
        assert sandbox.wait(0.0).exit_code is None, "that of a living owner runs on"


def test_what_an_engine_could_not_remove_is_removed_later(
    docker_opener: Opener, engine: docker.APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as away:
        away.setattr("services.evaluator.docker_sandbox._remove", lambda client, container: None)
        with docker_opener.probe("") as sandbox:
            sandbox.wait(SECONDS)
    (name,) = remove_orphans(engine)
    assert containers(engine, name) == []


@pytest.mark.parametrize(
    ("owner", "is_orphan"),
    [
        pytest.param(f"{uuid.UUID(int=0)} pid:[1] 1 1", True, id="of another boot"),
        pytest.param(f"{boot_id()} pid:[1] 1 1", False, id="in a pid namespace that cannot be looked into"),
        pytest.param(f"{boot_id()} {os.readlink('/proc/self/ns/pid')} 1 0", True, id="whose pid another has now"),
    ],
)
def test_whose_owner_is_dead(engine: docker.APIClient, sandbox_image: str, owner: str, is_orphan: bool) -> None:
    name = f"templar-{make_spec().name}"
    container = engine.create_container(sandbox_image, "true", name=name, labels={OWNER_LABEL: owner})["Id"]
    try:
        assert (name in remove_orphans(engine)) is is_orphan
    finally:
        with contextlib.suppress(docker.errors.NotFound):
            engine.remove_container(container)


def containers(engine: docker.APIClient, name: str) -> list[Any]:
    """All containers whose name contains this, running or not."""
    found: list[Any] = engine.containers(all=True, filters={"name": name})
    return found


def test_a_missing_image_is_said(sandbox_image: str) -> None:
    assert sandbox_image
    said = pytest.raises(SandboxFault, match="run `just sandbox-image`")
    with said, open_docker(make_spec(), SECONDS, image="templar-sandbox:none"):
        pytest.fail("opened")


def test_the_provider_names_the_digest(engine: docker.APIClient, sandbox_image: str) -> None:
    provider = docker_provider()
    assert provider.kind == "docker"
    assert provider.image == engine.inspect_image(sandbox_image)["Id"]  # type: ignore[no-untyped-call]
    assert choose("auto")[0].kind == "docker"


def test_auto_says_why_it_is_not_docker(sandbox_image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sandbox_image
    monkeypatch.setattr("services.evaluator.providers.image_tag", lambda: "templar-sandbox:none")
    provider, sentence = choose("auto")
    assert provider.kind == "process"
    assert "because the sandbox image templar-sandbox:none is not on this machine" in sentence
    with pytest.raises(SandboxFault, match="run `just sandbox-image`"):
        choose("docker")
