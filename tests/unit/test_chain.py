"""The one connection that all questions to the chain share: what ends it, and what does not."""

import asyncio
from typing import Any

import bittensor
import pytest
from bittensor._transport.errors import StateDiscardedError, SubstrateRequestException
from bittensor.result import ChainError

from shared.chain import Chain
from shared.faults import TransientFault


class Client:
    """In place of the SDK's. Once it is closed, nobody is answered any more."""

    opened: list["Client"]

    def __init__(self, endpoint: str) -> None:
        self.closed = asyncio.Event()

    async def connect(self) -> None:
        self.opened.append(self)

    async def close(self) -> None:
        self.closed.set()


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch) -> Chain:
    Client.opened = []
    monkeypatch.setattr(bittensor, "Client", Client)
    return Chain("ws://node")


def as_the_sdk_reads(error: SubstrateRequestException) -> Exception:
    wrapped = ChainError(str(error))
    wrapped.__cause__ = error
    return wrapped


async def raises(chain: Chain, error: Exception) -> None:
    async def question(client: Any) -> None:
        raise error

    with pytest.raises(TransientFault, match="did not answer"):
        await chain.ask(question)


@pytest.mark.parametrize("wrapped", [True, False])
async def test_who_names_a_block_that_the_node_has_forgotten_ends_nobody_elses_question(
    *, chain: Chain, wrapped: bool
) -> None:
    """Anybody can name one, in a payment. Again and again, the chain would be away for everybody."""
    asked, answered = asyncio.Event(), asyncio.Event()

    async def slow(client: Any) -> str:
        asked.set()
        gone = asyncio.create_task(client.closed.wait())
        done = asyncio.create_task(answered.wait())
        await asyncio.wait([gone, done], return_when=asyncio.FIRST_COMPLETED)
        done.cancel()
        gone.cancel()
        if client.closed.is_set():
            raise ConnectionError("closed")
        return "proven"

    honest = asyncio.create_task(chain.ask(slow))
    await asked.wait()
    forgotten = StateDiscardedError(f"0x{'a' * 64}")
    await raises(chain, as_the_sdk_reads(forgotten) if wrapped else forgotten)
    answered.set()
    assert await honest == "proven"
    assert len(Client.opened) == 1


async def test_a_fault_of_the_connection_opens_another(chain: Chain) -> None:
    for number, error in enumerate([ConnectionError("reset"), as_the_sdk_reads(SubstrateRequestException("gone"))]):
        await raises(chain, error)
        assert [client.closed.is_set() for client in Client.opened] == [True] * (number + 1)
