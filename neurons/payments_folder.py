"""Payments on this machine's disk, one file each, so that none is lost to a crash. No key is ever written here."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from neurons import payment
from neurons.outcome import Unusable
from neurons.payment import PaymentRecord
from shared import request


def folder(environ: Mapping[str, str]) -> Path:
    """Of this user, by the XDG base directory specification."""
    base = environ.get("XDG_STATE_HOME", "")
    state = Path(base) if Path(base).is_absolute() else Path.home() / ".local" / "state"
    return state / "templar-tournament" / "payments"


def path_of(directory: Path, record: PaymentRecord) -> Path:
    """Where a payment is kept, for ever the same: named by its transfer, or by the credit."""
    name = record.transfer.extrinsic_hash if record.transfer is not None else str(record.reference)
    return directory / (re.sub(r"[^A-Za-z0-9-]", "-", name) + ".json")


def save(path: Path, record: PaymentRecord) -> None:
    """When this returns, the record outlives a crash of the machine.

    Raises:
        OSError: it cannot be written, and what was there before is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(payment.encode(record))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def remove(path: Path) -> None:
    """Forget a payment that was never made."""
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        _sync_folder(path.parent)


def load(path: Path) -> PaymentRecord:
    """Read one.

    Raises:
        Unusable: it cannot be read or is none.
    """
    try:
        return payment.decode(path.read_bytes())
    except OSError as error:
        raise Unusable(f"cannot read {path}: {error.strerror}") from None
    except payment.InvalidRecord as error:
        raise Unusable(f"{path} is no record of a payment of this release: {error}") from None


def unfinished(directory: Path) -> list[tuple[Path, PaymentRecord]]:
    """All that have bought nothing yet, the oldest first.

    Raises:
        Unusable: one of the files cannot be read: it may be money.
    """
    return sorted(
        ((path, record) for path, record in _all(directory) if record.unfinished), key=lambda found: found[1].created_at
    )


def find(directory: Path, wanted: str) -> tuple[Path, PaymentRecord]:
    """The payment that the person means: a reference, a file, or, with an empty text, the only unfinished one.

    Raises:
        Unusable: there is none, or more than one.
    """
    if not wanted:
        waiting = unfinished(directory)
        if len(waiting) == 1:
            return waiting[0]
        if not waiting:
            raise Unusable("there is no unfinished payment; nothing to go on with")
        names = ", ".join(str(path) for path, _ in waiting)
        raise Unusable(f"there are {len(waiting)} unfinished payments; name one after --resume: {names}")
    try:
        request.check_reference(wanted)
    except request.InvalidReference as error:
        path = Path(wanted)
        if path.suffix == ".json":
            return path, load(path)
        raise Unusable(f"--resume {wanted}: neither a file of {directory} nor a reference; {error}") from None
    for path, record in _all(directory):
        if record.reference == wanted:
            return path, record
    raise Unusable(f"no payment {wanted} is known on this machine; its file would be in {directory}")


def _all(directory: Path) -> Iterator[tuple[Path, PaymentRecord]]:
    for path in sorted(directory.glob("*.json")):
        yield path, load(path)


def _sync_folder(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
