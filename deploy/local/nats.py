"""The real NATS server from its wheel, as a program on loopback. deploy/nats.conf says how it is configured."""

import functools
import sysconfig
from pathlib import Path

import nats
from nats.errors import Error as NatsError

from deploy.local.program import LOOPBACK, Program

PROBE_SECONDS = 2
CONFIGURATION = Path(__file__).parents[1] / "nats.conf"


def server(store: Path, *, port: int, token: str) -> Program:
    """A server that keeps its streams in `store`. The token must begin with a letter, or nats.conf reads a number."""
    binary = Path(sysconfig.get_path("scripts")) / "nats-server"
    return Program(
        name="nats",
        command=(str(binary), "--config", str(CONFIGURATION)),
        settings={"NATS_PORT": str(port), "NATS_TOKEN": token, "NATS_STORE_DIR": f'"{store}"'},
        ready=functools.partial(_answers, url(port=port, token=token)),
    )


def url(*, port: int, token: str) -> str:
    """Where clients find it."""
    return f"nats://{token}@{LOOPBACK}:{port}"


async def _answers(address: str) -> bool:
    async def unsaid(error: Exception) -> None:
        """A refused connection is this probe's ordinary answer."""

    try:
        # Without these the client itself tries sixty times, two seconds apart.
        client = await nats.connect(
            address,
            error_cb=unsaid,
            allow_reconnect=False,
            reconnect_time_wait=0,
            max_reconnect_attempts=1,
            connect_timeout=PROBE_SECONDS,
        )
    except (NatsError, OSError, TimeoutError):
        return False
    await client.close()
    return True
