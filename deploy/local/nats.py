"""The real NATS server from its wheel, as a program on loopback. deploy/nats.conf says how it is configured."""

import sysconfig
from pathlib import Path

from deploy.local.program import LOOPBACK, Program

CONFIGURATION = Path(__file__).parents[1] / "nats.conf"


def server(store: Path, *, port: int, token: str) -> Program:
    """A server that keeps its streams in `store`. The token must begin with a letter, or nats.conf reads a number."""
    binary = Path(sysconfig.get_path("scripts")) / "nats-server"
    return Program(
        name="nats",
        command=(str(binary), "--config", str(CONFIGURATION)),
        settings={"NATS_PORT": str(port), "NATS_TOKEN": token, "NATS_STORE_DIR": str(store)},
    )


def url(*, port: int, token: str) -> str:
    """Where clients find it."""
    return f"nats://{token}@{LOOPBACK}:{port}"
