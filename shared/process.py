"""How a service process starts and ends: logs first, settings checked, SIGTERM and SIGINT cancel the work in order."""

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine

from shared import logs
from shared.environment import SettingsError
from shared.hparams import HparamsError

USAGE_EXIT_CODE = 2


def run(service: str, main: Callable[[], Coroutine[None, None, None]]) -> int:
    """Run `main` until it ends or a signal cancels it; returns the exit code.

    0: ended or asked to end. 2: a setting is wrong, said in one line. Anything else raises: a crash must look like one.
    """
    logs.configure(service)
    try:
        asyncio.run(_until_signalled(main()))
    except (SettingsError, HparamsError) as error:
        print(f"{service}: {error}", file=sys.stderr)  # noqa: T201 - for the person who started it
        return USAGE_EXIT_CODE
    return 0


async def _until_signalled(work: Coroutine[None, None, None]) -> None:
    task = asyncio.create_task(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        logs.logger().info("stopped")
