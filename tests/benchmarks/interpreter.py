"""The Python that the bare loop runs in: for the docker sandbox the image's own, as a plain process of the host.

Another build of Python or torch changes the speed by more than a container costs. So the image's files are unpacked
and started by their own dynamic loader: the same interpreter, libraries and C library, and no container around them.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from services.evaluator.docker_sandbox import ENGINE_FAILURES, connect
from services.evaluator.sandbox import Provider, SandboxFault

PROJECT = Path(__file__).parents[2]
UNPACKED = ("usr", "venv")
"""What of the image's root has Python, torch and all libraries."""


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """How to start it."""

    command: tuple[str, ...]
    modules: tuple[Path, ...] = ()
    """Where its packages are, beside the project."""
    environment: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def interpreter(provider: Provider) -> Iterator[Interpreter]:
    """That of the provider's sandboxes.

    Raises:
        SandboxFault: the image cannot be unpacked.
    """
    if provider.kind == "process":
        yield Interpreter(command=(sys.executable,))
        return
    folder = PROJECT / "build"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="bare-") as directory:
        root = Path(directory)
        _unpack(provider.image, root)
        yield _of_image(root)


def _unpack(image: str, root: Path) -> None:
    try:
        with connect() as client:
            container = client.create_container(image, command=["never", "started"])["Id"]
            try:
                with subprocess.Popen(["tar", "-x", "-C", root, *UNPACKED], stdin=subprocess.PIPE) as tar:
                    assert tar.stdin is not None
                    for chunk in client.export(container):
                        tar.stdin.write(chunk)
            finally:
                client.remove_container(container)
    except ENGINE_FAILURES as error:
        raise SandboxFault(f"the image could not be unpacked: {error}") from None
    if tar.returncode != 0:
        raise SandboxFault(f"the image could not be unpacked: tar ended with {tar.returncode}; is the disk full?")


def _of_image(root: Path) -> Interpreter:
    python = resolved(root, "venv/bin/python")
    libraries = sorted(root.glob("usr/lib/*-linux-gnu"))
    (loader,) = (path for folder in libraries for path in folder.glob("ld-linux-*.so.*"))
    path = ":".join(map(str, [root / "usr/local/lib", *libraries]))
    return Interpreter(
        command=(str(loader), "--library-path", path, str(python)),
        modules=tuple(root.glob("venv/lib/python3.*/site-packages")),
        environment={"PYTHONHOME": str(python.parents[1])},
    )


def resolved(root: Path, name: str) -> Path:
    """The file behind links that are meant for a system whose root this is."""
    path = root / name
    while path.is_symlink():
        target = os.readlink(path)
        path = root / target.lstrip("/") if target.startswith("/") else path.parent / target
    return path
