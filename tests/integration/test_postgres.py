"""The embedded PostgreSQL where it is hard: as root below folders that only root may enter, in a container's few
capabilities, after crashes.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from deploy.local import postgres
from deploy.local.program import free_port
from tests.support.servers import eventually, running

pytestmark = pytest.mark.servers

PROJECT = Path(__file__).parents[2]
DOCKERS_CAPABILITIES = "-all,+chown,+dac_override,+fsetid,+fowner,+setgid,+setuid,+setfcap,+setpcap,+kill"
SERVE = """
import asyncio, subprocess, sys
from pathlib import Path
from deploy.local import postgres
from deploy.local.program import free_port
cluster, port = Path(sys.argv[1]), free_port()
postgres.prepare(cluster, password="secret")
program = postgres.server(cluster, port=port, password="secret")
server = subprocess.Popen(program.command, **program.options())
async def wait():
    async with asyncio.timeout(30):
        while not await program.ready(): await asyncio.sleep(0.02)
asyncio.run(wait())
server.send_signal(program.stop_signal)
sys.exit(server.wait())
"""


@pytest.fixture
def closed_folder() -> Iterator[Path]:
    """Only its owner may enter it."""
    with tempfile.TemporaryDirectory(prefix="closed-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("capabilities", ["+all", DOCKERS_CAPABILITIES])
def test_it_runs_from_and_in_folders_that_only_their_owner_may_enter(closed_folder: Path, capabilities: str) -> None:
    package = Path(postgres._binary("postgres")).parents[2]
    for part in (package, package.with_name(package.name + ".libs")):
        shutil.copytree(part, closed_folder / part.name)
    bounded = ["setpriv", "--bounding-set", capabilities, "--inh-caps", "-all"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*bounded, sys.executable, "-c", SERVE, str(closed_folder / "cluster")],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{closed_folder}:{PROJECT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


async def test_what_a_crash_leaves_is_no_obstacle(tmp_path: Path) -> None:
    cluster, password = tmp_path / "cluster", secrets.token_hex(8)
    (tmp_path / "cluster.unfinished").mkdir()
    postgres.prepare(cluster, password=password)
    for attempt in range(3):
        port = free_port()
        program = postgres.server(cluster, port=port, password=password)
        assert program.ready is not None
        with running(program, tmp_path / "log") as process:
            await eventually(program.ready)
            connection = await asyncpg.connect(postgres.url(port=port, password=password))
            if attempt == 0:
                await connection.execute("CREATE TABLE kept (value int); INSERT INTO kept VALUES (7)")
            assert await connection.fetchval("SELECT value FROM kept") == 7
            process.send_signal(signal.SIGKILL)
            process.wait()
            connection.terminate()
        if attempt == 1:
            (cluster / "postmaster.pid").write_bytes(b"")
        postgres.prepare(cluster, password=password)


async def test_it_asks_for_the_password(tmp_path: Path) -> None:
    postgres.prepare(tmp_path / "cluster", password="right")
    port = free_port()
    program = postgres.server(tmp_path / "cluster", port=port, password="right")
    assert program.ready is not None
    with running(program, tmp_path / "log"):
        await eventually(program.ready)
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(postgres.url(port=port, password="wrong"))
