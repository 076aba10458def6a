"""The artifact store: files named by the sha256 of their bytes, under one directory. Nothing is ever changed in it."""

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

from shared.faults import PoisonMessage, TransientFault

SHA256_HEX_DIGITS = 64


class ArtifactStore:
    """Content-addressed files in `root/ab/abcdef…`. Safe for many writers: a rename is atomic, and equal names mean
    equal bytes.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, content: bytes) -> str:
        """Store bytes durably and return their sha256 (64 hex digits). On disk, directory entry included, on return.

        Raises:
            TransientFault: the disk is full or not writable.
        """
        name = hashlib.sha256(content).hexdigest()
        path = self._path(name)
        temporary = path.parent / f".{name}.{secrets.token_hex(8)}"
        try:
            if path.exists():
                return name
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
            for directory in (path.parent, self.root):
                _sync_directory(directory)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise TransientFault(f"cannot store an artifact under {self.root}: {error.strerror}") from error
        return name

    def get(self, name: str) -> bytes:
        """The bytes of an artifact, checked against its name.

        Raises:
            TransientFault: it is not there (yet), or cannot be read.
            PoisonMessage: the name is no sha256, or the stored bytes are not what the name says.
        """
        if len(name) != SHA256_HEX_DIGITS or any(digit not in "0123456789abcdef" for digit in name):
            raise PoisonMessage(f"{name!r} is no sha256")
        try:
            content = self._path(name).read_bytes()
        except OSError as error:
            raise TransientFault(f"cannot read artifact {name[:12]}… under {self.root}: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != name:
            raise PoisonMessage(f"artifact {name[:12]}… under {self.root} was altered: its bytes do not match its name")
        return content

    def _path(self, name: str) -> Path:
        return self.root / name[:2] / name


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
