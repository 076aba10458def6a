"""Chooses the sandbox of this machine, once, at start. It opens none."""

import asyncio
import functools
import importlib.metadata
import platform
from collections.abc import Callable

from services.evaluator.channel import remove_abandoned
from services.evaluator.docker_sandbox import connect, image_digest, open_docker, remove_orphans, require_runtime
from services.evaluator.image import image_tag
from services.evaluator.process_sandbox import open_process
from services.evaluator.sandbox import Provider, Runtime, SandboxFault
from shared.bus import retry_seconds
from shared.environment import SettingsError
from shared.logs import logger


def docker_provider(runtime: Runtime = "runc") -> Provider:
    """Containers of this checkout's image. Removes what an earlier life left behind.

    Raises:
        SandboxFault: no engine answers, it does not know the runtime, or the image is not there.
    """
    with connect() as client:
        require_runtime(client, runtime)
        digest = image_digest(client, image_tag())
        for name in remove_orphans(client):
            logger().info("orphaned sandbox removed", container=name)
    _remove_abandoned_folders()
    opened = functools.partial(open_docker, image=digest, runtime=runtime)
    return Provider(kind="docker", image=digest, runtime=runtime, open=opened)


def process_provider() -> Provider:
    """Child processes of this interpreter. Removes what an earlier life left behind.

    Raises:
        SandboxFault: torch is not installed here.
    """
    try:
        torch_version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        raise SandboxFault("torch is not installed here; run `uv sync`, or use the docker sandbox") from None
    _remove_abandoned_folders()
    image = f"python {platform.python_version()}, torch {torch_version}"
    return Provider(kind="process", image=image, runtime="", open=open_process)


def _remove_abandoned_folders() -> None:
    for name in remove_abandoned():
        logger().info("abandoned folder removed", folder=name)


def choose(setting: str, runtime: Runtime = "runc") -> tuple[Provider, str]:
    """The sandbox that `auto`, `docker` or `process` asks for, and a sentence: which it is, and how to get the other.

    Raises:
        SandboxFault: what was asked for cannot be had.
    """
    if setting == "process":
        return process_provider(), f"process sandbox, as asked: it contains nothing hostile; {_HOW_TO_DOCKER}"
    try:
        return docker_provider(runtime), f"docker sandbox, with {runtime}; {_HOW_TO_PROCESS}"
    except SandboxFault as fault:
        if setting == "docker":
            raise
        why = str(fault)
    try:
        return process_provider(), f"process sandbox, which contains nothing hostile, because {why}; {_HOW_TO_DOCKER}"
    except SandboxFault as fault:
        raise SandboxFault(f"{why}; {fault}") from None


async def wait_for(setting: str, runtime: Runtime = "runc") -> Callable[[], Provider]:
    """The way in which this process opens sandboxes from now on, said in the log.

    An engine or an image that is not there yet is waited for: after a reboot the engine may come up last.

    Raises:
        SettingsError: child processes were asked for, which would need what is not installed.
    """
    attempt = 0
    while True:
        try:
            provider, sentence = await asyncio.to_thread(choose, setting, runtime)
        except SandboxFault as fault:
            if setting == "process":
                raise SettingsError(f"TOURNAMENT_SANDBOX is process, but {fault}") from None
            attempt += 1
            logger().warning("no sandbox yet, trying again", error=str(fault))
            await asyncio.sleep(retry_seconds(attempt))
        else:
            break
    if provider.kind == "docker":
        logger().info(sentence, image=provider.image)
        return functools.partial(docker_provider, runtime)
    logger().warning(sentence, image=provider.image)
    return process_provider


_HOW_TO_DOCKER = "for docker, start an engine and run `just sandbox-image`"
_HOW_TO_PROCESS = "--sandbox process, or TOURNAMENT_SANDBOX=process, does without an engine"
