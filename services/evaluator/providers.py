"""Chooses the sandbox of this machine, once, at start. It opens none."""

import functools
import importlib.metadata
import platform

from services.evaluator.docker_sandbox import connect, image_digest, open_docker, remove_orphans
from services.evaluator.image import image_tag
from services.evaluator.process_sandbox import open_process
from services.evaluator.sandbox import Provider, SandboxFault
from shared.logs import logger


def docker_provider() -> Provider:
    """Containers of this checkout's image. Removes what an earlier life left behind.

    Raises:
        SandboxFault: no engine answers, or the image is not there.
    """
    with connect() as client:
        digest = image_digest(client, image_tag())
        for name in remove_orphans(client):
            logger().info("orphaned sandbox removed", container=name)
    return Provider(kind="docker", image=digest, open=functools.partial(open_docker, image=digest))


def process_provider() -> Provider:
    """Child processes of this interpreter.

    Raises:
        SandboxFault: torch is not installed here.
    """
    try:
        torch_version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        raise SandboxFault("torch is not installed here; run `uv sync`, or use the docker sandbox") from None
    image = f"python {platform.python_version()}, torch {torch_version}"
    return Provider(kind="process", image=image, open=open_process)


def choose(setting: str) -> tuple[Provider, str]:
    """The sandbox that `auto`, `docker` or `process` asks for, and a sentence: which it is, and how to get the other.

    Raises:
        SandboxFault: what was asked for cannot be had.
    """
    if setting == "process":
        return process_provider(), f"process sandbox, as asked: it contains nothing hostile; {_HOW_TO_DOCKER}"
    try:
        return docker_provider(), "docker sandbox; --sandbox process runs without an engine"
    except SandboxFault as fault:
        if setting == "docker":
            raise
        return process_provider(), f"process sandbox, which contains nothing hostile, because {fault}; {_HOW_TO_DOCKER}"


_HOW_TO_DOCKER = "for docker, start an engine and run `just sandbox-image`"
