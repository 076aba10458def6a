"""The one folder that holds everything of a local tournament: who may use it, and the secret of its servers."""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


class DataDirError(Exception):
    """The folder cannot be used. The message says why and what to do."""


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Make the folder and keep every other tournament out of it, until the block is left or this process dies.

    Raises:
        DataDirError: it cannot be written, or another tournament runs in it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # miners' code is nobody else's business
        lock = (folder / "lock").open("a+")
    except OSError as error:
        raise DataDirError(
            f"cannot write to the data directory {folder}: {error.strerror}; set TOURNAMENT_DATA_DIR to another"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise DataDirError(
                f"another tournament (process {lock.read().strip() or 'unknown'}) runs in {folder}; "
                "stop it, or set TOURNAMENT_DATA_DIR to another folder"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def reserve(folder: Path, purpose: str) -> None:
    """Let a folder serve one purpose for ever: what was submitted for nothing must never compete for money.

    Raises:
        DataDirError: it was used for another.
    """
    file = folder / "purpose"
    if not file.exists():
        _write(file, purpose)
    known = file.read_text()
    if known != purpose:
        raise DataDirError(
            f"{folder} belongs to a tournament of another kind ({known}), this one is {purpose}; "
            "set TOURNAMENT_DATA_DIR to another folder"
        )


def publish_nats_url(folder: Path, url: str) -> None:
    """Let commands of the same user find the server, whose port is another at every start."""
    _write(folder / "nats_url", url)


def nats_url(folder: Path) -> str:
    """The address of the server of the tournament that runs in this folder, with its secret.

    Raises:
        DataDirError: none runs there.
    """
    try:
        with (folder / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        with contextlib.suppress(FileNotFoundError):  # it is just starting
            return (folder / "nats_url").read_text()
    except OSError:
        pass
    raise DataDirError(
        f"no validator runs in {folder}; start it (`just up`), or set TOURNAMENT_NATS_URL, or TOURNAMENT_DATA_DIR"
    )


def secret(folder: Path) -> str:
    """What the servers of this folder ask of their clients: made once, readable by its owner alone.

    Loopback is open to every user of the machine, and whoever can write into the stream can decide who is paid.
    """
    file = folder / "secret"
    if not file.exists():
        _write(file, f"t{secrets.token_hex(16)}")
    return file.read_text()


def _write(file: Path, text: str) -> None:
    """Whole or not at all, and for the owner alone."""
    unfinished = file.with_suffix(".unfinished")
    unfinished.touch(mode=0o600)
    unfinished.write_text(text)
    unfinished.rename(file)
