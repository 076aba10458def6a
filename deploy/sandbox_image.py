"""Builds the sandbox image of this checkout: `python -m deploy.sandbox_image`. It never puts anything else into it.

The base is the usual public one, or, without a registry, Debian packages. Python packages are downloaded on the host,
with the host's pip and its configuration, so the build itself needs no network and no certificates.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from services.evaluator.docker_sandbox import connect
from services.evaluator.image import CONTENTS, ROOT, image_tag
from services.evaluator.sandbox import SandboxFault

PUBLIC_BASE = ("python", "3.11-slim-bookworm")
BASE = ("templar-sandbox-base", "bookworm")
"""Whatever the base came from, under one name, so that it is made once per machine."""
BASE_PACKAGES = "python3,python3-venv,python3-dev,g++"
PYTHON_VERSION = "3.11"
WHEELS = ROOT / "build" / "sandbox-wheels"
MIRROR_VARIABLE = "DEBIAN_MIRROR"
SILENCE_SECONDS = 600
"""How long a step of the build may say nothing: unpacking torch with its CUDA libraries takes minutes."""


class BuildError(Exception):
    """The image cannot be built. The message says what to install or to do."""


def main() -> int:
    """Build, unless the image is there already; returns the exit code."""
    began = time.monotonic()
    try:
        tag = ensure_image()
    except BuildError as error:
        print(f"sandbox-image: {error}", file=sys.stderr)  # noqa: T201 - for the person who started it
        return 1
    _say(f"{tag} is ready ({time.monotonic() - began:.0f} s)")
    return 0


def ensure_image() -> str:
    """The tag of this checkout's image, which exists when this returns.

    Raises:
        BuildError: no engine, no base, no wheels, or a failed build.
    """
    tag = image_tag()
    try:
        with connect() as client:
            client.timeout = SILENCE_SECONDS
            if not _exists(client, tag):
                _build(client, _base(client), _wheels(), tag)
    except SandboxFault as fault:
        raise BuildError(str(fault)) from None
    except (DockerException, requests.RequestException, OSError) as error:
        raise BuildError(f"the Docker engine or the disk failed: {error}") from None
    return tag


def _base(client: docker.APIClient) -> str:
    name = ":".join(BASE)
    if _exists(client, name):
        return name
    _say(f"pulling {':'.join(PUBLIC_BASE)}")
    try:
        client.pull(*PUBLIC_BASE)
        client.tag(":".join(PUBLIC_BASE), *BASE)
    except (APIError, NotFound) as error:
        _say(f"the registry does not give it ({error.explanation or error}): making a base from Debian packages")
        _bootstrap(client)
    return name


def _bootstrap(client: docker.APIClient) -> None:
    if shutil.which("debootstrap") is None:
        raise BuildError("without a registry the base is made by debootstrap; install it (apt-get install debootstrap)")
    if os.geteuid() != 0:
        raise BuildError("debootstrap must run as root; run this once with sudo")
    mirror = os.environ.get(MIRROR_VARIABLE)
    with tempfile.TemporaryDirectory(prefix="sandbox-base-") as directory:
        root = Path(directory) / "root"
        command = ["debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", "bookworm", str(root)]
        _run([*command, mirror] if mirror else command, f"debootstrap failed; {MIRROR_VARIABLE} names another mirror")
        shutil.rmtree(root / "var/cache/apt/archives")
        _say("importing the base")
        with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as tar:
            client.import_image_from_stream(tar.stdout, *BASE)
        if tar.returncode != 0:
            client.remove_image(":".join(BASE), force=True)
            raise BuildError(f"tar of the base failed with exit code {tar.returncode}; is the disk full?")


def _wheels() -> Path:
    """The folder with every wheel of requirements.txt for the image's Python, downloaded once."""
    requirements = ROOT / "sandbox/requirements.txt"
    kept = WHEELS / "requirements.txt"
    if kept.is_file() and kept.read_bytes() == requirements.read_bytes():
        return WHEELS
    shutil.rmtree(WHEELS, ignore_errors=True)
    WHEELS.mkdir(parents=True)
    _say("downloading torch and what it needs")
    options = ["--quiet", "--only-binary=:all:", "--python-version", PYTHON_VERSION, "--dest", str(WHEELS)]
    _run([*_pip(), "download", *options, "-r", str(requirements)], "pip could not download the packages")
    shutil.copy(requirements, kept)
    return WHEELS


def _pip() -> list[str]:
    """The host's own pip: that one knows where this machine gets its packages from; a virtual environment has none."""
    python = Path(sys.base_prefix) / "bin" / "python3"
    if subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0:
        return [str(python), "-m", "pip"]
    found = shutil.which("pip3")
    if found is None:
        raise BuildError("no pip here; install it (apt-get install python3-pip)")
    return [found]


def _build(client: docker.APIClient, base: str, wheels: Path, tag: str) -> None:
    _say(f"building {tag}")
    # Beside the wheels, so that these can be linked instead of copied.
    with tempfile.TemporaryDirectory(dir=wheels.parent) as directory:
        context = Path(directory)
        for name in CONTENTS:
            # The Dockerfile and the requirements lie at the top, the package below.
            target = context / (name if name.endswith(".py") else Path(name).name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
        (context / "wheels").mkdir()
        for wheel in wheels.glob("*.whl"):
            (context / "wheels" / wheel.name).hardlink_to(wheel)
        messages = client.build(
            path=directory,
            tag=tag,
            buildargs={"BASE": base},
            # The host's, because an engine may have no bridge; only the public base's compiler comes over it.
            network_mode="host",
            rm=True,
            forcerm=True,
            decode=True,
        )
        _follow(messages)


def _follow(messages: Iterator[dict[str, Any]]) -> None:
    for message in messages:
        if "error" in message:
            raise BuildError(f"the build failed: {message['error'].strip()}")
        line = message.get("stream", "").strip()
        if line:
            _say(f"  {line}")


def _exists(client: docker.APIClient, name: str) -> bool:
    try:
        client.inspect_image(name)  # type: ignore[no-untyped-call]
    except ImageNotFound:
        return False
    return True


def _run(command: list[str], failure: str) -> None:
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if result.returncode != 0:
        raise BuildError(f"{failure}:\n{result.stdout[-2000:]}")


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - progress for the person who started it


if __name__ == "__main__":
    raise SystemExit(main())
