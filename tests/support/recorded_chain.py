"""A node of the chain that answers from a recording, and the recorder: a proxy in front of a real one. Both speak
JSON-RPC over a WebSocket, so what is tested runs unchanged. They know no subscriptions.

A recording is one file for each case in tests/golden/chain: what was asked of the code under test, and every request
with its answer. Answers as long as the runtime's metadata lie beside it, compressed, once.
"""

import asyncio
import gzip
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from websockets.asyncio.client import connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

GOLDEN = Path(__file__).parents[1] / "golden" / "chain"
LONG_BYTES = 2**14
"""An answer this long gets a file of its own."""
UNRECORDED = -32099
"""JSON-RPC error code of a request that the recording lacks."""

Answer = Callable[[str, Any], Awaitable[dict[str, Any]]]
"""From method and parameters to {"result": …} or {"error": …}."""


class Exchange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request and its answer."""

    method: str
    params: Any
    answer: dict[str, Any] | None = None
    file: str | None = None
    """Where the answer is, when it is long."""


class Endpoint:
    """A node at an address of its own, which stays the same when it is stopped and started again."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._server: Server | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._port}"

    async def start(self) -> None:
        self._server = await serve(self._converse, "127.0.0.1", self._port, max_size=None)
        (socket,) = self._server.sockets
        self._port = socket.getsockname()[1]

    async def kill(self) -> None:
        """Go away without a word: every connection is cut."""
        if self._server is None:
            return
        for connection in self._server.connections:
            connection.transport.abort()
        self._server.close()
        await self._server.wait_closed()
        self._server = None

    async def _converse(self, connection: ServerConnection) -> None:
        try:
            async for text in connection:
                request = msgspec.json.decode(text)
                answer = await self._answer(request["method"], request.get("params", []))
                await connection.send(msgspec.json.encode({"jsonrpc": "2.0", "id": request["id"], **answer}).decode())
        except ConnectionClosed:
            return


class Recorder:
    """Asks a real node, and keeps what was said. `unknown`: hashes of which a real node knows nothing. They are
    answered here, as it answers: development nodes invent an empty block for each, and call it their first.
    """

    def __init__(self, upstream: str, *, unknown: tuple[str, ...] = ()) -> None:
        self._upstream = upstream
        self._unknown = unknown
        self._turn = asyncio.Lock()
        self.exchanges: list[Exchange] = []

    async def __call__(self, method: str, params: Any) -> dict[str, Any]:
        if any(parameter in self._unknown for parameter in params):
            answer: dict[str, Any] = {"result": None}
        else:
            async with self._turn, connect(self._upstream, max_size=None) as node:
                await node.send(
                    msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).decode()
                )
                said = msgspec.json.decode(await node.recv())
            answer = {kind: said[kind] for kind in ("result", "error") if kind in said}
        self.exchanges.append(Exchange(method=method, params=params, answer=answer))
        return answer


class Replayer:
    """Answers from a recording: the same request again gets the next answer to it, and the last one for ever."""

    def __init__(self, exchanges: list[Exchange]) -> None:
        self._answers: dict[bytes, list[dict[str, Any]]] = {}
        for exchange in exchanges:
            assert exchange.answer is not None
            self._answers.setdefault(_key(exchange.method, exchange.params), []).append(exchange.answer)
        self.unrecorded: list[str] = []
        """What was asked and is not there. A test must see that nothing is."""

    async def __call__(self, method: str, params: Any) -> dict[str, Any]:
        answers = self._answers.get(_key(method, params))
        if answers is None:
            said = f"not recorded: {method} {params}"
            self.unrecorded.append(said)
            return {"error": {"code": UNRECORDED, "message": said}}
        return answers.pop(0) if len(answers) > 1 else answers[0]


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """A case: what was asked of the code under test, and what the chain said."""

    asked: Any
    exchanges: list[Exchange]


def save(name: str, recording: Recording) -> None:
    """Write a case: a line for what was asked, and one for each exchange."""
    lines = [recording.asked, *(_without_long_answer(exchange) for exchange in recording.exchanges)]
    (GOLDEN / f"{name}.jsonl").write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


def load(name: str) -> Recording:
    """Read a case."""
    asked, *lines = (GOLDEN / f"{name}.jsonl").read_bytes().splitlines()
    exchanges = [_with_long_answer(msgspec.json.decode(line, type=Exchange)) for line in lines]
    return Recording(asked=msgspec.json.decode(asked), exchanges=exchanges)


def _without_long_answer(exchange: Exchange) -> Exchange:
    encoded = msgspec.json.encode(exchange.answer)
    if len(encoded) < LONG_BYTES:
        return exchange
    name = f"{hashlib.sha256(encoded).hexdigest()[:16]}.json.gz"
    if not (GOLDEN / name).exists():
        (GOLDEN / name).write_bytes(gzip.compress(encoded, mtime=0))
    return Exchange(method=exchange.method, params=exchange.params, file=name)


def _with_long_answer(exchange: Exchange) -> Exchange:
    if exchange.file is None:
        return exchange
    answer = msgspec.json.decode(gzip.decompress((GOLDEN / exchange.file).read_bytes()))
    return Exchange(method=exchange.method, params=exchange.params, answer=answer)


def _key(method: str, params: Any) -> bytes:
    return msgspec.json.encode([method, params])
