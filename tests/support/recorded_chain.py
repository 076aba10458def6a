"""A node of the chain that answers from a recording, and the recorder: a proxy in front of a real one. Both speak
JSON-RPC over a WebSocket, so what is tested runs unchanged. Of subscriptions they know the one that watches an
extrinsic.

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
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

GOLDEN = Path(__file__).parents[1] / "golden" / "chain"
LONG_BYTES = 2**14
"""An answer this long gets a file of its own."""
UNRECORDED = -32099
"""JSON-RPC error code of a request that the recording lacks."""
WATCH, UNWATCH = "author_submitAndWatchExtrinsic", "author_unwatchExtrinsic"
SUBMITS = ("author_submitExtrinsic", WATCH)
ON_ITS_WAY = ("future", "ready", "broadcast", "inBlock")
"""What a node says of an extrinsic that it will say more of."""
SIGNATURE = slice(2 + 2 * 37, 2 + 2 * (37 + 64))
"""Where it is in an extrinsic's hexadecimal digits: after its length, version, signer, and the kind of signature."""

Answer = Callable[[str, Any], Awaitable[dict[str, Any]]]
"""From method and parameters to {"result": …} or {"error": …}, with {"updates": […]} what is pushed after it."""


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
        self.dies_at: str | None = None
        """The method at which it goes away: it does what was asked, and does not answer."""
        self.hangs_up_at: str | None = None
        """The method at which it ends the connection in good order, instead of answering."""
        self._death: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._port}"

    async def start(self) -> None:
        if self._death is not None:
            await self._death
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
                if request["method"] == self.hangs_up_at:
                    return
                if request["method"] == self.dies_at:
                    connection.transport.abort()
                    self._death = asyncio.create_task(self.kill())
                    return
                updates = answer.pop("updates", [])
                await _send(connection, {"id": request["id"], **answer})
                for update in updates:
                    params = {"subscription": answer["result"], "result": update}
                    await _send(connection, {"method": "author_extrinsicUpdate", "params": params})
        except ConnectionClosed:
            return


async def _send(connection: ServerConnection, message: dict[str, Any]) -> None:
    await connection.send(msgspec.json.encode({"jsonrpc": "2.0", **message}).decode())


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
        elif method == UNWATCH:
            answer = {"result": True}  # the connection that it was watched on is closed
        else:
            async with self._turn, connect(self._upstream, max_size=None) as node:
                await node.send(
                    msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).decode()
                )
                said = msgspec.json.decode(await node.recv())
                answer = {kind: said[kind] for kind in ("result", "error") if kind in said}
                if method == WATCH and "result" in answer:
                    answer["updates"] = await _updates(node)
        self.exchanges.append(Exchange(method=method, params=params, answer=answer))
        return dict(answer)


async def _updates(node: ClientConnection) -> list[Any]:
    """All that the node says of a watched extrinsic."""
    said: list[Any] = []
    while not said or any(status in ON_ITS_WAY for status in ([said[-1]] if isinstance(said[-1], str) else said[-1])):
        said.append(msgspec.json.decode(await node.recv())["params"]["result"])
    return said


class Replayer:
    """Answers from a recording: the same request again gets the next answer to it, and the last one for ever.

    A signature is random, so of an extrinsic that is submitted all but the signature must be what was recorded.
    From then on the recorded blocks contain the one that was submitted.
    """

    def __init__(self, exchanges: list[Exchange]) -> None:
        self._left: dict[bytes, list[Exchange]] = {}
        for exchange in exchanges:
            self._left.setdefault(_key(exchange.method, exchange.params), []).append(exchange)
        self._submitted: dict[str, str] = {}
        """By what was recorded: the extrinsic, and its hash."""
        self.unrecorded: list[str] = []
        """What was asked and is not there. A test must see that nothing is."""

    async def __call__(self, method: str, params: Any) -> dict[str, Any]:
        left = self._left.get(_key(method, params))
        if left is None:
            said = f"not recorded: {method} {params}"
            self.unrecorded.append(said)
            return {"error": {"code": UNRECORDED, "message": said}}
        exchange = left.pop(0) if len(left) > 1 else left[0]
        if method in SUBMITS:
            (recorded,), (submitted,) = exchange.params, params
            self._submitted |= {recorded: submitted, _hash(recorded): _hash(submitted)}
        text = msgspec.json.encode(exchange.answer).decode()
        for recorded, submitted in self._submitted.items():
            text = text.replace(recorded, submitted)
        answer: dict[str, Any] = msgspec.json.decode(text)
        return answer


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
    if method in SUBMITS:
        (extrinsic,) = params
        params = [extrinsic[: SIGNATURE.start] + extrinsic[SIGNATURE.stop :]]
    return msgspec.json.encode([method, params])


def _hash(extrinsic: str) -> str:
    return f"0x{hashlib.blake2b(bytes.fromhex(extrinsic.removeprefix('0x')), digest_size=32).hexdigest()}"
