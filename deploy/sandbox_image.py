"""Builds the sandbox image of this checkout: `python -m deploy.sandbox_image`. It never puts anything else into it.

The base is a public one, named by its digest, or, without a registry, made from Debian's packages of one day. Python
packages are downloaded on the host, with the host's pip and its configuration, and are taken by their hashes only; so
the build itself needs no network and no certificates.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from services.evaluator.docker_sandbox import connect
from services.evaluator.image import CONTENTS, ROOT, base_tag, image_tag
from services.evaluator.sandbox import SandboxFault

BASE: dict[str, Any] = tomllib.loads((ROOT / "sandbox/base.toml").read_text())
PUBLIC_BASE: str = BASE["public"]
DEBIAN_PACKAGES = ROOT / "sandbox/debian-packages.txt"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SNAPSHOT = f"http://snapshot.debian.org/archive/debian/{BASE['snapshot']}"
MIRROR = "http://deb.debian.org/debian"
MIRROR_VARIABLE = "DEBIAN_MIRROR"
OCI = "org.opencontainers.image"
PYTHON_VERSION = "3.11"
REQUIREMENTS = ROOT / "sandbox/requirements.txt"
CPU_REQUIREMENTS = ROOT / "sandbox/requirements-cpu.txt"
CUDA_REQUIREMENTS = ROOT / "sandbox/requirements-cuda.txt"
WHEELS = ROOT / "build" / "sandbox-wheels"
SILENCE_SECONDS = 600
"""How long a step of the build may say nothing: unpacking torch with its CUDA libraries takes minutes."""
ARCHIVE_SECONDS = 10
"""How long an archive of packages has to answer before another is asked."""
REFUSED = re.compile(
    r"^ +(?P<package>\S+) from (?P<source>[^\s#]+).*:\n(?: +Expected .*\n)+ +Got +(?P<sha256>\w+)", re.MULTILINE
)
"""What pip says of a file whose hash is not in the list."""
NOT_FOUND = "No matching distribution found"


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
    debian = base_tag()
    for name in (PUBLIC_BASE, debian):
        if _exists(client, name):
            return name
    _say(f"pulling {PUBLIC_BASE}")
    try:
        client.pull(PUBLIC_BASE)
    except (APIError, NotFound) as error:
        _say(f"the registry does not give it ({error.explanation or error}): making a base from Debian packages")
        _bootstrap(client, debian)
        return debian
    return PUBLIC_BASE


def _bootstrap(client: docker.APIClient, name: str) -> None:
    if shutil.which("debootstrap") is None:
        raise BuildError("without a registry the base is made by debootstrap; install it (apt-get install debootstrap)")
    if not KEYRING.is_file():
        raise BuildError(f"{KEYRING} is not here to check Debian's signatures (apt-get install debian-archive-keyring)")
    if os.geteuid() != 0:
        raise BuildError("debootstrap must run as root; run this once with sudo")
    archive = debian_archive()
    with tempfile.TemporaryDirectory(prefix="sandbox-base-") as directory:
        root = Path(directory) / "root"
        options = ["--variant=minbase", "--force-check-gpg", f"--keyring={KEYRING}"]
        command = ["debootstrap", *options, f"--include={','.join(BASE['packages'])}", "bookworm", str(root), archive]
        _run(command, f"debootstrap failed; {MIRROR_VARIABLE} names another mirror")
        _compare_packages(_packages(root), archive)
        shutil.rmtree(root / "var/cache/apt/archives")
        for own in ("etc/hostname", "etc/resolv.conf", "etc/apt/sources.list"):  # this machine's, not the image's
            (root / own).unlink()
        _say("importing the base")
        with subprocess.Popen(["tar", "-C", str(root), "--sort=name", "-c", "."], stdout=subprocess.PIPE) as tar:
            repository, tag = name.split(":")
            label = f"LABEL templar.debian-archive={archive}"
            client.import_image_from_stream(tar.stdout, repository, tag, changes=[label])
        if tar.returncode != 0:
            client.remove_image(name, force=True)
            raise BuildError(f"tar of the base failed with exit code {tar.returncode}; is the disk full?")


def debian_archive() -> str:
    """Where Debian's packages come from: what `DEBIAN_MIRROR` names, else the snapshot, else today's archive."""
    mirror = os.environ.get(MIRROR_VARIABLE)
    if mirror:
        return mirror.rstrip("/")
    try:
        answer = requests.head(f"{SNAPSHOT}/dists/bookworm/InRelease", timeout=ARCHIVE_SECONDS, allow_redirects=True)
        answer.raise_for_status()
    except requests.RequestException as error:
        _say(f"WARNING: {SNAPSHOT} does not answer ({type(error).__name__}): taking today's packages from {MIRROR}")
        return MIRROR
    return SNAPSHOT


def _packages(root: Path) -> list[str]:
    query = ["chroot", str(root), "dpkg-query", "-W", "-f", "${Package} ${Version}\\n"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()


def _compare_packages(found: Sequence[str], archive: str) -> None:
    # No failure: a point release of Debian must not stop a validator whose only mirror has moved on.
    lines = differences(DEBIAN_PACKAGES.read_text().splitlines(), found)
    if lines:
        _say(f"WARNING: {archive} gave other packages than sandbox/debian-packages.txt lists; the image will differ:")
        for line in lines:
            _say(f"  {line}")


def differences(pinned: Sequence[str], found: Sequence[str]) -> list[str]:
    """One line for each package whose version, or presence, is not the pinned one. Both lists are `name version`."""
    wanted, got = (dict(line.split() for line in lines if line) for lines in (pinned, found))
    return [
        f"{name}: {got.get(name, 'absent')} instead of {wanted.get(name, 'absent')}"
        for name in sorted(wanted.keys() | got.keys())
        if wanted.get(name) != got.get(name)
    ]


def _wheels() -> Path:
    """The folder with every wheel that the image needs and the list that pins them, downloaded once.

    torch is the CPU's build where the host's pip can find that one, else PyPI's.
    """
    pinned = b"".join(each.read_bytes() for each in (REQUIREMENTS, CPU_REQUIREMENTS, CUDA_REQUIREMENTS))
    kept = WHEELS / "pinned.txt"
    if kept.is_file() and kept.read_bytes() == pinned:
        return WHEELS
    shutil.rmtree(WHEELS, ignore_errors=True)
    WHEELS.mkdir(parents=True)
    _say("downloading torch and what it needs")
    lists = [REQUIREMENTS, CPU_REQUIREMENTS]
    if not download(CPU_REQUIREMENTS, WHEELS):
        lists = [REQUIREMENTS, CUDA_REQUIREMENTS]
    for requirements in lists:
        if not download(requirements, WHEELS):
            raise BuildError(f"pip finds no file for the image's Python of a package in sandbox/{requirements.name}")
    (WHEELS / "requirements.txt").write_text("".join(each.read_text() for each in lists))
    kept.write_bytes(pinned)
    return WHEELS


def download(requirements: Path, wheels: Path) -> bool:
    """Let the host's pip fetch the wheels of a list, for the image's Python; whether it found them all.

    None is taken that the list does not pin.

    Raises:
        BuildError: a file is not the pinned one, or pip failed.
    """
    options = ["--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:", "--python-version", PYTHON_VERSION]
    command = [*_pip(), "download", *options, "--dest", str(wheels), "-r", str(requirements)]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    refused = REFUSED.search(result.stdout)
    if refused:
        raise BuildError(
            f"{refused['package']} from {refused['source']} has the sha256 {refused['sha256']}, which "
            f"sandbox/{requirements.name} does not allow: an index of this machine's pip serves a build of its own, or "
            "the file was changed on its way. Let pip take it from pypi.org, or torch without CUDA from "
            "download.pytorch.org/whl/cpu (`pip config debug` says where pip looks). If you trust this build and want "
            "an image of your own with it, add its hash to that list"
        )
    if result.returncode != 0 and NOT_FOUND not in result.stdout:
        raise BuildError(f"pip could not download the packages:\n{result.stdout[-2000:]}")
    return result.returncode == 0


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
        shutil.copy(wheels / "requirements.txt", context / "wheels")
        arguments, labels = _about(base)
        messages = client.build(
            path=directory,
            tag=tag,
            buildargs={"BASE": base, **arguments},
            labels=labels,
            # The host's, because an engine may have no bridge; only the public base's compiler comes over it.
            network_mode="host",
            rm=True,
            forcerm=True,
            decode=True,
        )
        _follow(messages)


def _about(base: str) -> tuple[dict[str, str], dict[str, str]]:
    """What the Dockerfile must know of a base, and how the image names it."""
    name, digest = f"{OCI}.base.name", f"{OCI}.base.digest"
    if base != PUBLIC_BASE:
        return {}, {name: base}
    archive = debian_archive()
    security = re.sub(r"/debian(/|$)", r"/debian-security\1", archive)
    labels = {name: BASE["public_name"], digest: base.partition("@")[2]}
    return {"DEBIAN": archive, "DEBIAN_SECURITY": security}, labels


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
