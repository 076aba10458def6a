"""Which sandbox image belongs to this checkout: what goes into it, and the tag that says so. It talks to no engine."""

import hashlib
from pathlib import Path

ROOT = Path(__file__).parents[2]
REPOSITORY = "templar-sandbox"
BASE_CONTENTS = ("sandbox/base.toml", "sandbox/debian-packages.txt")
"""What the base is made from."""
CONTENTS = (
    *BASE_CONTENTS,
    "sandbox/Dockerfile",
    "sandbox/requirements.txt",
    "sandbox/requirements-cpu.txt",
    "sandbox/requirements-cuda.txt",
    "sandbox/__init__.py",
    "sandbox/benchmark/__init__.py",
    "sandbox/benchmark/model.py",
    "sandbox/evidence.py",
    "sandbox/protocol.py",
    "sandbox/runner.py",
)
"""Everything of ours that the image is made from. Data sources and the reference stay outside a submission's reach."""


def image_tag() -> str:
    """`templar-sandbox:<12 hex digits>` of the contents: another checkout's image is never taken for ours."""
    return f"{REPOSITORY}:{_digest(CONTENTS)}"


def base_tag() -> str:
    """`templar-sandbox-base:<12 hex digits>`: the base that is made from Debian packages, once per machine."""
    return f"{REPOSITORY}-base:{_digest(BASE_CONTENTS)}"


def _digest(names: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for name in names:
        content = (ROOT / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:12]
