"""Writes the list of the sandbox image's Python packages from uv.lock: `python -m deploy.sandbox_requirements`.

The lock is the only place where versions are chosen. These lists are kept beside the image because they are part of it,
and because a host needs nothing but pip to read them.
"""

import functools
import os
import subprocess
import tomllib
from collections.abc import Iterator
from typing import Any

from packaging.markers import Marker
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

from services.evaluator.image import ROOT

PYTHON = (3, 11)
MACHINES = ("x86_64", "aarch64")
GLIBC_MINOR = 36
"""Debian bookworm's."""
CUDA_PREFIXES = ("cuda-", "nvidia-", "torch", "triton")
"""PyPI's build of torch, and what the CPU's does not need."""
CPU_BUILDS = {
    "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_aarch64.whl": (
        "sha256:84453b69508ec79902f899c5ed9495acb9e2bbe9fda5f1d5d6f19e3c3842e1a7"
    ),
    "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl": (
        "sha256:6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"
    ),
}
"""torch without CUDA, as download.pytorch.org/whl/cpu serves it. The lock knows PyPI's files only."""
HEADER = """\
# {title}
# Made from uv.lock by `python -m deploy.sandbox_requirements`: change the lock, not this.
"""
TITLES = {
    "requirements.txt": "What a submission can import beside torch.",
    "requirements-cpu.txt": "torch as download.pytorch.org/whl/cpu has it.",
    "requirements-cuda.txt": "torch as PyPI has it, and what only that build needs.",
}


def main() -> None:
    for name, text in lists().items():
        (ROOT / "sandbox" / name).write_text(text)


def lists() -> dict[str, str]:
    """The text of each list, by its file's name."""
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    packages = {(package["name"], package["version"]): package for package in lock["package"]}
    entries: dict[str, list[str]] = {name: [] for name in TITLES}
    for name, version in _exported():
        hashes = [wheel["hash"] for wheel in packages[name, version]["wheels"] if _fits(_filename(wheel))]
        kept = "requirements-cuda.txt" if name.startswith(CUDA_PREFIXES) else "requirements.txt"
        entries[kept].append(_entry(name, version, hashes))
        if name == "torch":
            entries["requirements-cpu.txt"].append(_entry(name, f"{version}+cpu", _cpu_hashes(version)))
    return {name: HEADER.format(title=TITLES[name]) + "".join(entries[name]) for name in TITLES}


def _entry(name: str, version: str, hashes: list[str]) -> str:
    return " \\\n    ".join([f"{name}=={version}", *(f"--hash={each}" for each in hashes)]) + "\n"


def _exported() -> Iterator[tuple[str, str]]:
    """Name and version of everything that the group `sandbox` needs on Linux with the image's Python."""
    options = ["--frozen", "--offline", "--only-group", "sandbox", "--no-hashes", "--no-header", "--no-annotate"]
    command = [os.environ.get("UV", "uv"), "export", "--quiet", *options]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    environment = {"sys_platform": "linux", "python_full_version": "{}.{}.0".format(*PYTHON)}
    for line in text.splitlines():
        requirement, _, marker = line.partition(" ; ")
        machines = [{**environment, "platform_machine": machine} for machine in MACHINES]
        needed = {not marker or Marker(marker).evaluate(machine) for machine in machines}
        assert len(needed) == 1, f"{line}: one list can serve both machines only while they need the same"
        if needed == {True}:
            name, version = requirement.split("==")
            yield name, version


def _cpu_hashes(version: str) -> list[str]:
    found = [digest for name, digest in CPU_BUILDS.items() if name.startswith(f"torch-{version}+cpu-")]
    assert found, f"CPU_BUILDS has no torch {version}; take the hashes from download.pytorch.org/whl/cpu/torch"
    return found


def _filename(wheel: dict[str, Any]) -> str:
    name: str = wheel["url"].rpartition("/")[2]
    return name


def _fits(wheel: str) -> bool:
    return not _tags().isdisjoint(parse_wheel_filename(wheel)[3])


@functools.cache
def _tags() -> frozenset[Tag]:
    """Of every wheel that the image's Python can use, on any of the machines."""
    glibc = [f"manylinux_2_{minor}" for minor in range(5, GLIBC_MINOR + 1)]
    platforms = [f"{name}_{machine}" for machine in MACHINES for name in (*glibc, "manylinux2014")]
    interpreter = "cp{}{}".format(*PYTHON)
    own = cpython_tags(PYTHON, abis=[interpreter], platforms=platforms)
    return frozenset([*own, *compatible_tags(PYTHON, interpreter, platforms)])


if __name__ == "__main__":
    main()
