"""The real sandbox: one locked-down container per run, removed whatever happened. It never trusts what is inside."""

import contextlib
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import DeviceRequest, LogConfig, Mount, Ulimit
from docker.utils import kwargs_from_env
from docker.utils.socket import frames_iter

from services.evaluator import interior, owner
from services.evaluator.channel import SOCKET_NAME, listening, remove_folder
from services.evaluator.image import ROOT
from services.evaluator.log_tail import LogTail
from services.evaluator.sandbox import LOG_TAIL_BYTES, SIGNAL_EXIT_CODES, Ended, Runtime, Sandbox, SandboxFault, Spec
from shared.logs import logger

DEFAULT_ENGINE = "unix:///var/run/docker.sock"
USER = "10001:10001"
SECCOMP = ROOT / "sandbox" / "seccomp.json"
"""Which system calls there are inside; everything else is refused."""
CHANNEL_FOLDER = "/channel"
GPU_CAPABILITIES = [["gpu", "compute", "utility"]]
RUNNER = ("python", *interior.COMMAND)
OWNER_LABEL = "templar.tournament.owner"
HIDDEN = (
    *("/proc/acpi", "/proc/asound", "/proc/cmdline", "/proc/interrupts", "/proc/kcore", "/proc/keys"),
    *("/proc/latency_stats", "/proc/pressure", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list"),
    *("/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"),
)
"""Of what the kernel tells everybody: Docker's own list, and the boot parameters and pressure triggers of the host."""
HOST_TASKS: dict[Runtime, int] = {"runc": 1, "runsc": 16}
"""How many tasks of the host each process inside may take. gVisor takes some 50 for itself, 6 for an idle process and
as many as 50 for a busy one, and where it gets no more the whole sandbox dies: honest code must never come near."""
POLL_SECONDS = 0.02
OOM_FLAG_SECONDS = 0.5
KILLED_EXIT_CODE = SIGNAL_EXIT_CODES + 9
OOM_EXIT_CODES: dict[Runtime, frozenset[int]] = {
    "runc": frozenset({KILLED_EXIT_CODE}),
    "runsc": frozenset({KILLED_EXIT_CODE, 2}),
}
"""How a sandbox ends that the kernel killed for its memory. It may take one of gVisor's helpers first, without which
gVisor gives up."""

_LEFT_BEHIND: set[str] = set()
"""Containers of this process that could not be removed, and may still run."""

ENGINE_FAILURES = (DockerException, requests.RequestException, OSError)
"""What docker-py raises when the engine refuses, is gone, or hangs."""


def connect() -> docker.APIClient:
    """A client for the engine that the environment names.

    Raises:
        SandboxFault: none answers.
    """
    try:
        settings = kwargs_from_env()
        scheme, _, path = settings.get("base_url", DEFAULT_ENGINE).partition("://")
        if scheme == "unix":
            # docker-py never closes a socket that could not connect, so one of ours goes first.
            with socket.socket(socket.AF_UNIX) as attempt:
                attempt.connect(path)
        return docker.APIClient(**settings, version="auto")
    except ENGINE_FAILURES as error:
        raise SandboxFault(f"no Docker engine answers ({error}); install docker.io and start dockerd") from None


def image_digest(client: docker.APIClient, image: str) -> str:
    """The content digest of an image on this machine.

    Raises:
        SandboxFault: it is not here.
    """
    try:
        digest: str = client.inspect_image(image)["Id"]  # type: ignore[no-untyped-call]
    except ImageNotFound:
        raise SandboxFault(f"the sandbox image {image} is not on this machine; run `just sandbox-image`") from None
    except ENGINE_FAILURES as error:
        raise SandboxFault(f"the Docker engine did not answer: {error}") from None
    return digest


def require_runtime(client: docker.APIClient, runtime: str) -> None:
    """Check that the engine can start containers with this runtime.

    Raises:
        SandboxFault: it cannot.
    """
    try:
        known = sorted(client.info()["Runtimes"])
    except ENGINE_FAILURES as error:
        raise SandboxFault(f"the Docker engine did not answer: {error}") from None
    if runtime not in known:
        raise SandboxFault(
            f"the Docker engine does not know the runtime {runtime}; install it and name it in "
            f"/etc/docker/daemon.json, as docs/validator.md says. It knows {', '.join(known)}"
        )


def remove_orphans(client: docker.APIClient) -> list[str]:
    """Remove what nobody uses any more, and return its names. Not to be called while this process has a sandbox open.

    A container outlives its owner's kill -9, and an ended one stays when the engine was away at its end.

    Raises:
        SandboxFault: the engine did not answer.
    """
    removed = []
    try:
        for container in client.containers(all=True, filters={"label": OWNER_LABEL}):
            whose, is_ended = container["Labels"][OWNER_LABEL], container["State"] != "running"
            is_ours = whose == owner.this_process()
            if not owner.is_alive(whose) or (is_ours and (is_ended or container["Id"] in _LEFT_BEHIND)):
                _remove(client, container["Id"])
                for mount in container["Mounts"]:
                    remove_folder(Path(mount["Source"]))
                # One that somebody else is just removing has lost its name already.
                removed.append((container["Names"] or [container["Id"]])[0].removeprefix("/"))
    except ENGINE_FAILURES as error:
        raise SandboxFault(f"the Docker engine did not answer: {error}") from None
    return removed


@contextlib.contextmanager
def open_docker(
    spec: Spec,
    timeout_seconds: float,
    *,
    image: str,
    runtime: Runtime = "runc",
    command: Sequence[str] = RUNNER,
) -> Iterator[Sandbox]:
    """Start a container and wait for its runner to connect; see `sandbox.Open`."""
    # A client for each run, because docker-py keeps a connection open for every container that it ever asked about.
    # The log ends when the container is gone, so it is closed after that.
    with connect() as client, listening() as listener, contextlib.ExitStack() as logs, contextlib.ExitStack() as stack:
        try:
            container = _create(client, spec, listener.folder, image=image, runtime=runtime, command=command)
            stack.callback(_remove, client, container)
            log = _attach(client, container, logs)
            client.start(container)
        except ImageNotFound:
            raise SandboxFault(f"the sandbox image {image} is not on this machine; run `just sandbox-image`") from None
        except ENGINE_FAILURES as error:
            raise SandboxFault(f"the container did not start: {_explain(error)}") from error

        def died() -> str | None:
            state = _state(client, container)
            if state["Running"]:
                return None
            log.finish()
            return f"ended with exit code {state['ExitCode']} before it connected: {log.text()}"

        channel = stack.enter_context(listener.accept(timeout_seconds, died))
        yield _DockerSandbox(client, container, channel, log, OOM_EXIT_CODES[runtime])


class _DockerSandbox:
    def __init__(
        self,
        client: docker.APIClient,
        container: str,
        channel: socket.socket,
        log: LogTail,
        oom_exit_codes: frozenset[int],
    ) -> None:
        self.channel = channel
        self._client = client
        self._container = container
        self._log = log
        self._oom_exit_codes = oom_exit_codes
        self._ended: Ended | None = None

    def wait(self, timeout_seconds: float) -> Ended:
        if self._ended is None:
            self._ended = self._wait(time.monotonic() + timeout_seconds)
            self._log.finish()
        return self._ended

    def log_tail(self) -> str:
        return self._log.text()

    def _wait(self, deadline: float) -> Ended:
        while _state(self._client, self._container)["Running"]:
            if time.monotonic() >= deadline:
                _kill(self._client, self._container)
                return Ended(exit_code=None, out_of_memory=False)
            time.sleep(POLL_SECONDS)
        code = _state(self._client, self._container)["ExitCode"]
        # A child that ran out of memory sets the flag too, but leaves the process itself alive.
        out_of_memory = code in self._oom_exit_codes and self._has_oom_flag()
        if code > SIGNAL_EXIT_CODES and not out_of_memory and _was_killed(self._client, self._container):
            raise SandboxFault("the container was killed from outside, by somebody or by the engine's own restart")
        return Ended(exit_code=code, out_of_memory=out_of_memory)

    def _has_oom_flag(self) -> bool:
        """The engine learns of an out-of-memory kill by another way than of the end, possibly a little later."""
        deadline = time.monotonic() + OOM_FLAG_SECONDS
        while not (flag := bool(_state(self._client, self._container)["OOMKilled"])) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return flag


def _create(
    client: docker.APIClient, spec: Spec, folder: Path, *, image: str, runtime: Runtime, command: Sequence[str]
) -> str:
    limits = spec.limits
    largest_file = interior.largest_file_bytes(limits)
    gpu = [] if spec.gpu_uuid is None else [spec.gpu_uuid]
    host_config = client.create_host_config(
        runtime=runtime,
        network_mode="none",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges", f"seccomp={SECCOMP.read_text()}"],
        pids_limit=limits.processes * HOST_TASKS[runtime],
        mem_limit=limits.memory_bytes,
        memswap_limit=limits.memory_bytes,
        cpuset_cpus=",".join(map(str, spec.cpus)),
        tmpfs={"/tmp": f"rw,exec,nosuid,nodev,mode=1777,size={limits.tmp_bytes},nr_inodes={interior.TMP_FILES}"},  # noqa: S108 - inside
        shm_size=limits.shm_bytes,
        ipc_mode="private",
        ulimits=[
            Ulimit(name="core", soft=0, hard=0),
            Ulimit(name="nofile", soft=interior.OPEN_FILES, hard=interior.OPEN_FILES),
            Ulimit(name="fsize", soft=largest_file, hard=largest_file),
        ],
        # The engine's own log would take a flood to the host's disk.
        log_config=LogConfig(type="none"),
        # A first process with no duties of its own, so that signals and exit codes mean what they usually mean.
        init=True,
        mounts=[Mount(CHANNEL_FOLDER, str(folder), type="bind", read_only=True)],
        device_requests=[DeviceRequest(device_ids=[uuid], capabilities=GPU_CAPABILITIES) for uuid in gpu],
    )
    host_config["MaskedPaths"] = list(HIDDEN)  # docker-py has no argument for it
    created = client.create_container(
        image,
        command=[*command, f"{CHANNEL_FOLDER}/{SOCKET_NAME}"],
        name=f"templar-{spec.name}",
        user=USER,
        environment=interior.environment(PurePosixPath("/tmp"), len(spec.cpus)),  # noqa: S108 - inside
        labels={OWNER_LABEL: owner.this_process()},
        hostname="sandbox",
        host_config=host_config,
    )
    container: str = created["Id"]
    return container


def _attach(client: docker.APIClient, container: str, logs: contextlib.ExitStack) -> LogTail:
    """Attached before the start, so that nothing is missed."""
    stream = client.attach_socket(container, params={"stdout": 1, "stderr": 1, "stream": 1})
    logs.callback(stream._response.close)  # docker-py offers no other way to close it
    frames = frames_iter(stream, tty=False)  # type: ignore[no-untyped-call]
    log = LogTail((chunk for _, chunk in frames), limit_bytes=LOG_TAIL_BYTES)
    logs.callback(log.finish)
    return log


def _state(client: docker.APIClient, container: str) -> dict[str, Any]:
    try:
        state: dict[str, Any] = client.inspect_container(container)["State"]
    except ENGINE_FAILURES as error:
        raise SandboxFault(f"the container was lost: {_explain(error)}") from error
    return state


def _was_killed(client: docker.APIClient, container: str) -> bool:
    """Whether the engine sent a signal, or has restarted meanwhile: then it has forgotten that it started this."""
    filters = {"container": container, "event": ["start", "kill"]}
    try:
        events = client.events(since=0, until=int(time.time()) + 1, filters=filters, decode=True)
        actions = {event["Action"] for event in events}
    except ENGINE_FAILURES as error:
        raise SandboxFault(f"the container was lost: {_explain(error)}") from error
    return actions != {"start"}


def _kill(client: docker.APIClient, container: str) -> None:
    """Kill and wait until nothing of it runs."""
    try:
        with contextlib.suppress(APIError):  # it may end by itself just now
            client.kill(container)
        client.wait(container)
    except ENGINE_FAILURES as error:
        raise SandboxFault(f"the container could not be killed: {_explain(error)}") from error


def _remove(client: docker.APIClient, container: str) -> None:
    """Remove, running or not. What fails here is removed as an orphan at the next evaluation or start."""
    try:
        client.remove_container(container, force=True, v=True)
    except NotFound:
        pass
    except ENGINE_FAILURES as error:
        _LEFT_BEHIND.add(container)
        logger().warning("sandbox container left behind", container=container, error=_explain(error))


def _explain(error: Exception) -> str:
    explanation = str(getattr(error, "explanation", None) or error)
    if "could not select device driver" in explanation:
        return f"{explanation}; install nvidia-container-toolkit and restart the engine"
    return explanation
