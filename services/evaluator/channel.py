"""The Unix socket between controller and runner: one connection, then no address that anybody else could reach."""

import contextlib
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from services.evaluator import owner
from services.evaluator.sandbox import SandboxFault

PREFIX = "tt-"
SOCKET_NAME = "s"
MAX_PATH_BYTES = 107
POLL_SECONDS = 0.1


class Listener:
    """A listening socket in `folder`, which holds nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / SOCKET_NAME
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(POLL_SECONDS)
            self._socket.bind(str(self.path))
            self.path.chmod(0o666)
            self._socket.listen(1)
        except OSError:
            self._socket.close()
            raise

    def accept(self, timeout_seconds: float, died: Callable[[], str | None]) -> socket.socket:
        """The one connection. `died` is asked now and then: why nobody will connect any more, or None.

        Raises:
            SandboxFault: nobody connected in time, or nobody will.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                connection, _ = self._socket.accept()
            except TimeoutError:
                reason = died()
                if reason is None and time.monotonic() > deadline:
                    reason = f"did not connect within {timeout_seconds:g} s"
                if reason is not None:
                    raise SandboxFault(f"the runner {reason}") from None
            except OSError as error:
                raise SandboxFault(f"the runner's connection could not be taken: {error}") from error
            else:
                self.close()
                return connection

    def close(self) -> None:
        """Nobody can connect from now on."""
        self.path.unlink(missing_ok=True)
        self._socket.close()


def remove_folder(folder: Path) -> None:
    """Remove a listener's folder, and the private one around it, that its owner cannot remove any more."""
    if folder.parent.name.startswith(PREFIX):
        shutil.rmtree(folder.parent, ignore_errors=True)


def remove_abandoned() -> list[str]:
    """Remove the folders whose owner did not live to do it, and return their names.

    A container names its folder, but the owner may have been killed before there was one, or while a guard began.
    """
    removed = []
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        found = _NAME.fullmatch(folder.name)
        try:
            if found is None or folder.lstat().st_uid != os.getuid():
                continue
        except FileNotFoundError:  # its owner has just removed it
            continue
        namespace, pid, started = found.groups()
        if not owner.is_alive(f"{owner.boot()} pid:[{namespace}] {pid} {started}"):
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder.name)
    return removed


_NAME = re.compile(rf"{PREFIX}(\d+)-(\d+)-(\d+)-\w+")


def _prefix() -> str:
    """Of a folder's name: by it everybody can see whether its owner lives."""
    _, namespace, pid, started = owner.this_process().split(" ")
    return f"{PREFIX}{namespace.removeprefix('pid:[').removesuffix(']')}-{pid}-{started}-"


@contextlib.contextmanager
def listening() -> Iterator[Listener]:
    """A listener in a new folder of its own, inside one that only this user can enter. Both are gone afterwards.

    Raises:
        SandboxFault: the temporary directory's path is too long for a Unix socket, or it is full or not writable.
    """
    with contextlib.ExitStack() as stack:
        try:
            home = tempfile.TemporaryDirectory(prefix=_prefix(), ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(home), "c")
            if len(os.fsencode(folder / SOCKET_NAME)) > MAX_PATH_BYTES:
                raise SandboxFault(f"{folder} is too long a path for a Unix socket; set TMPDIR to a shorter one")
            # Only this is given into a container, where another user connects from; outside, `home` bars the way.
            folder.mkdir()
            folder.chmod(0o711)
            listener = Listener(folder)
        except OSError as error:
            raise SandboxFault(f"no channel: {error}; make room there, or set TMPDIR to a writable folder") from error
        stack.callback(listener.close)
        yield listener
