"""The ingest service on a real chain and a real NATS server: paid at once, or when the node is there again."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import urlsplit

import bittensor
import httpx
import pytest

from deploy.local.program import LOOPBACK
from shared import request
from shared.artifacts import ArtifactStore
from shared.bus import Bus
from shared.events import EvalRequested, PaymentClaimed, PaymentRefused, SubmissionPaid
from tests.support.chain import COST_RAO, MINER, RECIPIENT, finalize, pay, transport
from tests.support.ingest_process import REQUEST_SECONDS, Process, events, some
from tests.support.paid_ingest import form
from tests.support.servers import artifacts, connection, eventually, nats_server, nats_url

__all__ = ["artifacts", "connection", "nats_server", "nats_url"]

pytestmark = [pytest.mark.servers, pytest.mark.slow]

Ingest = tuple[httpx.AsyncClient, Callable[..., Awaitable[httpx.Response]]]
SOURCE = b"def inner_steps(model, data_iterator, optimizer, num_steps, device): ...\n"


class Line:
    """A way to the node that can be cut: a TCP proxy."""

    def __init__(self, endpoint: str) -> None:
        node = urlsplit(endpoint)
        self._host, self._port = node.hostname, node.port
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def endpoint(self) -> str:
        return f"ws://{LOOPBACK}:{self.port}"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._carry, LOOPBACK, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Nobody gets through, and who is through is thrown out."""
        assert self._server is not None
        self._server.close()
        for task in set(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        far: asyncio.StreamWriter | None = None
        try:
            far_reader, far = await asyncio.open_connection(self._host, self._port)
            await asyncio.gather(_copy(reader, far), _copy(far_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for end in (writer, far):
                if end is not None:
                    end.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    raise ConnectionResetError


@pytest.fixture
async def line(chain_endpoint: str) -> AsyncIterator[Line]:
    opened = Line(chain_endpoint)
    await opened.open()
    yield opened
    await opened.cut()


@contextlib.asynccontextmanager
async def service(nats_url: str, artifacts: ArtifactStore, line: Line) -> AsyncIterator[Ingest]:
    """The real ingest, as a program; yields a client of it, and a function that submits."""
    running = Process(nats_url, artifacts, None, MODULE="services.ingest.main", TOURNAMENT_CHAIN_ENDPOINT=line.endpoint)
    try:
        async with httpx.AsyncClient(base_url=running.url, timeout=REQUEST_SECONDS) as client:
            await running.ready(client)

            async def submit(payment: str, source: bytes = SOURCE) -> httpx.Response:
                code_sha256 = hashlib.sha256(source).hexdigest()
                sent = form(source, payment=payment, at=time.time(), by=MINER.hotkey, code_sha256=code_sha256)
                return await client.post("/submissions", **sent)

            yield client, submit
        running.process.terminate()
        assert await asyncio.to_thread(running.process.wait, REQUEST_SECONDS) == 0
        assert [said for said in running.log.read_text().splitlines() if not said.startswith("{")] == []
    finally:
        running.process.kill()
        running.process.wait()


async def test_a_payment_on_the_chain_buys_a_submission(
    *, client: bittensor.Client, line: Line, nats_url: str, artifacts: ArtifactStore, connection: Bus
) -> None:
    async with service(nats_url, artifacts, line) as (ingest, submit):
        genesis = await transport(client).get_block_hash(0)

        async def known() -> bool:
            said = (await ingest.get("/info")).json()
            assert said["payment_recipient"] == RECIPIENT
            return bool(said["genesis_hash"] == genesis)

        await eventually(known)
        payment = await pay(client)
        response = await submit(payment)
        assert response.status_code == 201, response.text
        (bought,) = await eventually(some(connection, SubmissionPaid))
        assert (bought.payment.payer, bought.payment.recipient) == (MINER.coldkey_address, RECIPIENT)
        assert (bought.payment.reference, bought.payment.amount_rao) == (payment, COST_RAO)
        assert (bought.miner_hotkey, bought.miner_uid) == (MINER.hotkey_address, 2)
        await eventually(some(connection, EvalRequested))
        assert (await submit(payment)).status_code == 200
        assert (await submit(payment, SOURCE + b"#")).json()["code"] == "payment_already_used"
        small = await submit(await pay(client, amount_rao=COST_RAO - 1))
        assert (small.status_code, small.json()["code"]) == (402, "payment_too_small")
        (refused,) = await events(connection, PaymentRefused)
        assert (refused.payer, refused.amount_rao) == (MINER.coldkey_address, COST_RAO - 1)


async def test_a_node_that_dies_and_returns_costs_nobody_a_payment(
    *, client: bittensor.Client, line: Line, nats_url: str, artifacts: ArtifactStore, connection: Bus
) -> None:
    first, second = await pay(client), await pay(client)
    async with service(nats_url, artifacts, line) as (_, submit):
        assert (await submit(first)).status_code == 201  # it is connected
        await line.cut()
        response = await submit(second)
        assert response.status_code == 202
        assert response.json()["status_url"].endswith(second)
    # Restarted while the node is away, it goes on when the node returns.
    async with service(nats_url, artifacts, line) as (_, submit):
        assert (await submit(second)).status_code == 202
        await line.open()
        bought = await eventually(some(connection, SubmissionPaid, 2))
        assert bought[1].payment.reference == second
        assert len(await events(connection, PaymentClaimed)) == 1
        again = await submit(second)
        assert (again.status_code, again.json()["submission_id"]) == (200, request.submission_id(second))


async def test_a_payment_that_is_not_final_yet_is_waited_for(
    *, client: bittensor.Client, line: Line, nats_url: str, artifacts: ArtifactStore, connection: Bus
) -> None:
    async with service(nats_url, artifacts, line) as (_, submit):
        payment = await pay(client, final=False)
        response = await submit(payment)
        # On a node whose finality does not lag it is final at once.
        assert response.status_code in (201, 202), response.text
        await finalize(client)
        (bought,) = await eventually(some(connection, SubmissionPaid))
        assert bought.payment.reference == payment
