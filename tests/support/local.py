"""A local tournament as its user starts it, and a look into its stream and its processes from outside."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from deploy.local import data_dir, nats
from deploy.local.program import INHERITED, free_port
from shared import bus, subjects
from shared.events import Recorded
from tests.support.servers import eventually, running

PROJECT = Path(__file__).parents[2]


@contextlib.contextmanager
def started(module: str, *arguments: str, folder: Path, **settings: str) -> Iterator["subprocess.Popen[str]"]:
    """`python -m MODULE` with that data directory, output piped; killed at the end, with all that it started."""
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=PROJECT,
        env=environment | {"TOURNAMENT_DATA_DIR": str(folder), **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def kill_9(folder: Path, name: str) -> None:
    """kill -9 of one program of a running tournament."""
    os.kill(int((folder / "run" / f"{name}.pid").read_text()), signal.SIGKILL)


def left_running(folder: Path) -> list[str]:
    """Command lines of processes that know of this data directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            known = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(folder) in known and int(process.name) != os.getpid():
            found.append((process / "cmdline").read_text().replace("\0", " "))
    return found


def stream_of(folder: Path) -> list[Recorded]:
    """Every event of a tournament that has ended, in order."""
    port, secret = free_port(), data_dir.secret(folder)
    server = nats.server(folder / "nats", port=port, token=secret)

    async def read() -> list[Recorded]:
        assert server.ready is not None
        await eventually(server.ready)
        async with bus.connect(nats.url(port=port, token=secret), producer="test") as connection:
            return await connection.load(subjects.ALL)

    with running(server, folder / "reading.log"):
        return asyncio.run(read())
