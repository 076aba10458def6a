"""The Unix socket between controller and runner: one connection, then no address that anybody else could reach."""

import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

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
        self._socket.settimeout(POLL_SECONDS)
        self._socket.bind(str(self.path))
        self.path.chmod(0o666)
        self._socket.listen(1)

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


@contextlib.contextmanager
def listening() -> Iterator[Listener]:
    """A listener in a new folder of its own, inside one that only this user can enter. Both are gone afterwards.

    Raises:
        SandboxFault: the temporary directory's path is too long for a Unix socket, or not writable.
    """
    try:
        home = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
    except OSError as error:
        raise SandboxFault(f"no temporary directory: {error}; set TMPDIR to a writable folder") from None
    with home as private:
        folder = Path(private, "c")
        if len(os.fsencode(folder / SOCKET_NAME)) > MAX_PATH_BYTES:
            raise SandboxFault(f"{folder} is too long a path for a Unix socket; set TMPDIR to a shorter one")
        # Only the folder is given into a container, where another user connects from; outside, `private` bars the way.
        folder.mkdir()
        folder.chmod(0o711)
        listener = Listener(folder)
        try:
            yield listener
        finally:
            listener.close()
