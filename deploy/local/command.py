"""What every command that starts a local tournament shares: its settings, its end, one sentence for each fault."""

import asyncio
import functools
import signal
import sys
from collections.abc import Coroutine, Mapping
from pathlib import Path

from deploy.local.data_dir import DataDirError
from deploy.local.postgres import PostgresError
from deploy.local.program import LOOPBACK
from deploy.local.stack import ROOT, ChainOptions, Options
from deploy.local.supervisor import ProgramFailed
from deploy.streams import StreamsError
from services.evaluator.sandbox import SandboxFault
from services.evaluator.settings import runtime
from shared import environment
from shared.environment import SettingsError
from shared.hparams import HparamsError
from shared.process import USAGE_EXIT_CODE

API_PORT = 8000
INGEST_PORT = 8001
FAULTS = (
    *(SettingsError, HparamsError, SandboxFault),
    *(DataDirError, PostgresError, StreamsError, ProgramFailed),
)
"""What a person can mend. Each message says how."""


def options(
    environ: Mapping[str, str],
    *,
    hparams: Path,
    sandbox: str,
    data_dir: Path,
    api_port: int = API_PORT,
    ingest_port: int = INGEST_PORT,
    burn_hotkey: str | None = None,
    chain: ChainOptions | None = None,
) -> Options:
    """The settings of the environment over the defaults given.

    Raises:
        SettingsError: a variable is unusable.
    """
    port = functools.partial(environment.integer, environ, least=1, most=65_535)
    return Options(
        data_dir=environment.path(environ, "TOURNAMENT_DATA_DIR", str(data_dir)),
        hparams=hparams.resolve(),
        sandbox=sandbox,
        runtime=runtime(environ),
        host=environment.text(environ, "TOURNAMENT_API_HOST", LOOPBACK),
        api_port=port("TOURNAMENT_API_PORT", api_port),
        ingest_port=port("TOURNAMENT_INGEST_PORT", ingest_port),
        public_api_url=environment.optional_text(environ, "TOURNAMENT_API_URL"),
        burn_hotkey=burn_hotkey or environment.optional_text(environ, "TOURNAMENT_BURN_HOTKEY"),
        chain=chain,
        shards=environment.optional_text(environ, "TOURNAMENT_SHARDS_DIR"),
    )


def default_data_dir(name: str) -> Path:
    """Under the checkout, where git ignores it."""
    return ROOT / "data" / name


def run(command: str, main: Coroutine[None, None, int]) -> int:
    """Run to the exit code of `main`; 128 + n when signal n ended it, 2 for what a person can mend."""
    try:
        return asyncio.run(_until_signalled(main))
    except FAULTS as fault:
        print(f"{command}: {fault}", file=sys.stderr)  # noqa: T201 - for the person who started it
        return USAGE_EXIT_CODE


async def _until_signalled(main: Coroutine[None, None, int]) -> int:
    """A second signal changes nothing: what is being stopped in order goes on being stopped."""
    task = asyncio.create_task(main)
    received: list[int] = []

    def stop(number: int) -> None:
        if not received:
            task.cancel()
        received.append(number)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        return 128 + received[0]
