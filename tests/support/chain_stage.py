"""Where a test is played: on the real chain, through a recorder, or from the recording of that. One body for both, so
that what talks to the chain is tried where there is none, with the SDK unchanged.

Record again with TOURNAMENT_CHAIN_RECORD=1 and TOURNAMENT_CHAIN_ENDPOINT, on a chain whose finality lags behind.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import bittensor
import msgspec
import pytest

from shared.chain import Chain
from tests.support import chain as real
from tests.support.recorded_chain import Endpoint, Recorder, Recording, Replayer, load, save

RECORD = os.environ.get("TOURNAMENT_CHAIN_RECORD") == "1"
T = TypeVar("T")
Happening = Callable[[bittensor.Client], Awaitable[object]]
"""Something that is done on the real chain, and is not recorded but in what the chain says after it."""


@dataclass(frozen=True, kw_only=True)
class Scene(Generic[T]):
    """What is set up on the chain, and the way to it."""

    asked: T
    endpoint: Endpoint
    happens: Callable[[Happening], Awaitable[None]]
    """Lets something happen meanwhile; it has happened already where there is only a recording."""


class Stage:
    """`client` is a connection to the real chain; None: there are only recordings."""

    def __init__(self, client: bittensor.Client | None) -> None:
        self._client = client

    @asynccontextmanager
    async def play(
        self,
        name: str,
        set_up: Callable[[bittensor.Client], Awaitable[T]],
        kind: Any = None,
        *,
        unknown: tuple[str, ...] = (),
        record: bool = RECORD,
    ) -> AsyncIterator[Scene[T]]:
        """`set_up` returns what the recording keeps of it, of this kind. `unknown`: blocks that no node knows."""
        if self._client is None:
            recording = load(name)
            replayer = Replayer(recording.exchanges)
            async with started(Endpoint(replayer)) as endpoint:
                asked: T = msgspec.convert(recording.asked, kind)
                yield Scene(asked=asked, endpoint=endpoint, happens=_it_is_recorded)
            assert replayer.unrecorded == []
            return
        client = self._client
        asked = await set_up(client)

        async def happens(what: Happening) -> None:
            await what(client)

        recorder = Recorder(real.transport(client).url, unknown=unknown)
        async with started(Endpoint(recorder)) as endpoint:
            yield Scene(asked=asked, endpoint=endpoint, happens=happens)
        if record:
            save(name, Recording(asked=asked, exchanges=recorder.exchanges))


async def _it_is_recorded(what: Happening) -> None:
    return


@asynccontextmanager
async def started(endpoint: Endpoint) -> AsyncIterator[Endpoint]:
    await endpoint.start()
    try:
        yield endpoint
    finally:
        await endpoint.kill()


@asynccontextmanager
async def asking(endpoint: Endpoint) -> AsyncIterator[Chain]:
    chain = Chain(endpoint.url)
    try:
        yield chain
    finally:
        await chain.close()


@pytest.fixture(params=["recorded", pytest.param("real", marks=pytest.mark.chain)])
def endpoint_of_chain(request: pytest.FixtureRequest) -> str | None:
    """None: there is only the recording."""
    return None if request.param == "recorded" else str(request.getfixturevalue("chain_endpoint"))


@pytest.fixture
def nothing_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the SDK finds on disk it does not ask the chain for."""
    monkeypatch.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("BTCLI_TOKEN_SYMBOLS_CACHE", str(tmp_path / "symbols.json"))


@pytest.fixture
async def stage(
    endpoint_of_chain: str | None, nothing_on_disk: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Stage]:
    if endpoint_of_chain is None:
        yield Stage(None)
        return
    async with bittensor.Client(endpoint_of_chain) as client:
        monkeypatch.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(tmp_path / "asked-again"))
        monkeypatch.setenv("BTCLI_TOKEN_SYMBOLS_CACHE", str(tmp_path / "asked-again.json"))
        yield Stage(client)
