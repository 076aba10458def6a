"""Which sandbox image belongs to this checkout: what goes into it, and the tag that says so. It talks to no engine."""

import hashlib
from pathlib import Path

ROOT = Path(__file__).parents[2]
REPOSITORY = "templar-sandbox"
CONTENTS = (
    "sandbox/Dockerfile",
    "sandbox/requirements.txt",
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
    digest = hashlib.sha256()
    for name in CONTENTS:
        content = (ROOT / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return f"{REPOSITORY}:{digest.hexdigest()[:12]}"
