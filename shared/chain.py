"""The way to the chain: one connection, opened when it is first needed and again after a failure. It knows no rule."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

import bittensor
from bittensor._transport.errors import StateDiscardedError, SubstrateRequestException

from shared.faults import TransientFault
from shared.logs import logger

T = TypeVar("T")
OPEN_SECONDS = 30.0
"""With the runtime's metadata, about a megabyte."""
ASK_SECONDS = 30.0
CLOSE_SECONDS = 2.0

NO_ACCOUNT = "5C4hrfjw9DjXZTzV3MwzrrAr9P1MJhSrvWGWqi1eSuyUpnhM"
"""32 zero bytes: what the chain answers for the owner of a hotkey that has none."""

CHAIN_FAULTS = (bittensor.result.BittensorError, SubstrateRequestException, OSError, EOFError)
"""What the SDK and its transport raise when the node is away, busy or behind. TimeoutError is an OSError."""


class Chain:
    """A node that may be away at any time. `endpoint` is a ws:// or wss:// address, or a network's name: `finney`,
    `test`, `local`. A name brings the SDK's public fallbacks and archive nodes. Call `close` at the end.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._client: bittensor.Client | None = None
        self._opening: asyncio.Task[bittensor.Client] | None = None

    async def ask(
        self, question: Callable[[bittensor.Client], Awaitable[T]], *, timeout_seconds: float = ASK_SECONDS
    ) -> T:
        """The answer to a question that may take several requests.

        Raises:
            TransientFault: the node does not answer, or has forgotten the block. What was sent to it may have arrived.
        """
        client = await self._open()
        try:
            async with asyncio.timeout(timeout_seconds):
                return await question(client)
        except CHAIN_FAULTS as error:
            # That a block is forgotten is an answer: whoever names such a block must not end the questions of others.
            if not isinstance(error.__cause__ or error, StateDiscardedError):
                await self._leave(client)
            raise TransientFault(f"the chain at {self.endpoint} did not answer: {_said(error)}") from error

    async def close(self) -> None:
        """End the connection, if there is one. Nobody may be asking any more."""
        opening = self._opening
        if opening is not None:
            # An attempt that is about to fail may do so: the SDK's own task would end with nobody to hear why.
            await asyncio.wait([opening], timeout=CLOSE_SECONDS)
            opening.cancel()
            await asyncio.wait([opening])
        if self._client is not None:
            await self._leave(self._client)

    async def _open(self) -> bittensor.Client:
        """One attempt for all who ask meanwhile, which nobody's impatience ends: it may take longer than a question."""
        if self._client is not None:
            return self._client
        if self._opening is None:
            self._opening = asyncio.create_task(self._connect())
            self._opening.add_done_callback(self._opened)
        return await asyncio.shield(self._opening)

    async def _connect(self) -> bittensor.Client:
        client = bittensor.Client(self.endpoint)
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await client.connect()
        except CHAIN_FAULTS as error:
            await _close(client)
            raise TransientFault(f"cannot reach the chain at {self.endpoint}: {_said(error)}") from error
        except asyncio.CancelledError:
            await _close(client)
            raise
        logger().info("chain connected", endpoint=self.endpoint)
        self._client = client
        return client

    def _opened(self, opening: asyncio.Task[bittensor.Client]) -> None:
        self._opening = None
        if not opening.cancelled():
            opening.exception()  # heard, even if all who asked have left

    async def _leave(self, client: bittensor.Client) -> None:
        """Who asks next opens another. Others who were still asking fail too, and ask again."""
        if self._client is client:
            self._client = None
        await _close(client)


async def _close(client: bittensor.Client) -> None:
    # The SDK's own reader trips over a node that hangs up in good order instead of answering, and close() says so.
    with contextlib.suppress(*CHAIN_FAULTS, AssertionError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await client.close()


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
