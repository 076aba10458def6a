"""The ingest service as a process, on a real NATS server: each submission counts once, whatever is sent or killed."""

import asyncio
import contextlib
import dataclasses
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import nats
import pytest

from deploy.local.program import free_port
from services.ingest import handlers, http, upload
from shared import bus, hparams, streams, subjects
from shared.artifacts import ArtifactStore
from shared.bus import Bus
from shared.events import EvalRequested, MessageDeadLettered, Recorded, SubmissionPaid
from tests.support.servers import NatsServer, eventually
from tests.support.stories import ALICE, started

pytestmark = pytest.mark.servers

T = TypeVar("T")
PROJECT = Path(__file__).parents[2]
DEMO = PROJECT / "hparams" / "demo.json"
COMPETITION = hparams.load(DEMO)
LIMIT = COMPETITION.max_code_bytes + upload.ENVELOPE_BYTES
BOB = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty"
SOURCE = b"def inner_steps(model, data_iterator, optimizer, num_steps, device): ...\n"
REQUEST_SECONDS = 60.0


@dataclass
class Service:
    """One replica of the ingest service."""

    process: "subprocess.Popen[bytes]"
    url: str
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def said(self, event: str) -> list[dict[str, Any]]:
        """Its log lines of one kind. Lines that are no JSON are Python's own and fail the test."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["event"] == event]


def environment(nats_url: str, artifacts: ArtifactStore, **settings: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "TOURNAMENT_NATS_URL": nats_url,
        "TOURNAMENT_ARTIFACTS_DIR": str(artifacts.root),
        "TOURNAMENT_HPARAMS": str(DEMO),
        "TOURNAMENT_API_URL": "https://tournament.example/",
        **settings,
    }


@contextlib.contextmanager
def ingest(nats_url: str, artifacts: ArtifactStore) -> Iterator[Service]:
    """Started and answering; at the end it is told to stop and must do so in order, unless the test ended it."""
    port = free_port()
    log = artifacts.root.with_name(f"ingest-{port}.log")
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.ingest.main"],
            cwd=PROJECT,
            env=environment(nats_url, artifacts, TOURNAMENT_INGEST_PORT=str(port)),
            stderr=output,
        )
    service = Service(process, f"http://127.0.0.1:{port}", log)
    try:
        wait_until(lambda: health(service) is not None)
        yield service
        if process.poll() is None:
            process.terminate()
            assert process.wait(REQUEST_SECONDS) == 0
    finally:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + REQUEST_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def health(service: Service) -> httpx.Response | None:
    assert service.process.poll() is None, service.log.read_text()
    try:
        return httpx.get(f"{service.url}/health", timeout=REQUEST_SECONDS)
    except httpx.TransportError:
        return None


@pytest.fixture
def service(nats_url: str, artifacts: ArtifactStore) -> Iterator[Service]:
    with ingest(nats_url, artifacts) as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=REQUEST_SECONDS) as opened:
        yield opened


async def submit(
    client: httpx.AsyncClient, service: Service, source: bytes = SOURCE, *, hotkey: str = ALICE
) -> httpx.Response:
    return await client.post(
        f"{service.url}/submissions", files={"file": ("train.py", source)}, data={"miner_hotkey": hotkey}
    )


async def events(connection: Bus, kind: type[T]) -> list[T]:
    return [recorded.event for recorded in await connection.load(subjects.ALL) if isinstance(recorded.event, kind)]


async def requested(connection: Bus, count: int = 1) -> list[Recorded] | None:
    """The whole stream once so many evaluations were requested."""
    story = await connection.load(subjects.ALL)
    return story if sum(isinstance(recorded.event, EvalRequested) for recorded in story) >= count else None


async def settled(nats_url: str) -> None:
    """Returns when the queue is empty: nothing more will be requested."""
    client = await nats.connect(nats_url)

    async def empty() -> bool:
        info = await client.jetstream().consumer_info(streams.STREAM, streams.REQUEST_EVALUATIONS.name)
        return bool(info.num_pending == 0 and info.num_ack_pending == 0)

    try:
        await eventually(empty)
    finally:
        await client.close()


def expect_one_of_each(story: list[Recorded], *, submissions: int = 1) -> None:
    """Each submission was recorded once, and its evaluation requested once, because of it."""
    paid = {recorded.envelope.id: recorded for recorded in story if isinstance(recorded.event, SubmissionPaid)}
    asked = [recorded for recorded in story if isinstance(recorded.event, EvalRequested)]
    assert len(paid) == len(asked) == submissions
    assert {recorded.envelope.causation_id for recorded in asked} == set(paid)
    assert len(story) == 2 * submissions


async def test_a_submission_is_stored_recorded_and_its_evaluation_requested(
    service: Service, connection: Bus, artifacts: ArtifactStore, client: httpx.AsyncClient
) -> None:
    response = await submit(client, service)
    body = response.json()
    assert response.status_code == 201
    assert list(body) == ["submission_id", "status", "status_url", "code_hash", "created_at"]
    assert body["status"] == "pending"
    assert body["status_url"] == f"https://tournament.example/submissions/{body['submission_id']}"
    story = await eventually(lambda: requested(connection))
    expect_one_of_each(story)
    paid, asked = (recorded.event for recorded in story)
    assert isinstance(paid, SubmissionPaid)
    assert isinstance(asked, EvalRequested)
    assert (paid.submission_id, paid.miner_hotkey, paid.miner_uid) == (body["submission_id"], ALICE, None)
    assert (paid.code_bytes, f"sha256:{paid.code_sha256}") == (len(SOURCE), body["code_hash"])
    assert artifacts.get(paid.code_sha256) == SOURCE
    assert (asked.submission_id, asked.code_sha256, asked.reason) == (paid.submission_id, paid.code_sha256, "submitted")
    assert (asked.hparams_sha256, asked.runs) == (COMPETITION.sha256, COMPETITION.evaluation.runs)
    assert hparams.parse(artifacts.get(asked.hparams_sha256)) == COMPETITION
    assert body["created_at"] == story[0].envelope.time.isoformat().replace("+00:00", "Z")
    answer = health(service)
    assert answer is not None
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_the_same_request_again_is_the_same_submission(
    service: Service, nats_url: str, connection: Bus, client: httpx.AsyncClient
) -> None:
    first = await submit(client, service)
    second = await submit(client, service)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    story = await eventually(lambda: requested(connection))
    begun = started(first.json()["submission_id"], story[1].event.evaluation_id)  # type: ignore[attr-defined]
    aggregate = subjects.submission(begun.submission_id)
    await connection.append(begun, aggregate=aggregate, expected=story[1].sequence)
    third = await submit(client, service)
    assert (third.status_code, third.json()) == (200, first.json() | {"status": "evaluating"})
    await settled(nats_url)
    assert len(await connection.load(subjects.ALL)) == 3


async def test_other_code_and_another_hotkey_are_other_submissions(
    service: Service, nats_url: str, connection: Bus, client: httpx.AsyncClient
) -> None:
    responses = [
        await submit(client, service),
        await submit(client, service, hotkey=BOB),
        await submit(client, service, SOURCE + b"#"),
        await submit(client, service, SOURCE.replace(b"\n", b"\r\n")),
    ]
    assert [response.status_code for response in responses] == [201] * 4
    assert len({response.json()["submission_id"] for response in responses}) == 4
    await settled(nats_url)
    expect_one_of_each(await connection.load(subjects.ALL), submissions=4)


async def test_identical_requests_to_two_replicas_at_once_are_one_submission(
    service: Service, nats_url: str, connection: Bus, artifacts: ArtifactStore, client: httpx.AsyncClient
) -> None:
    rounds = 5
    with ingest(nats_url, artifacts) as other:
        for number in range(rounds):
            sent = [submit(client, to, SOURCE + b"#%d" % number) for to in (service, other) * 6]
            responses = await asyncio.gather(*sent)
            assert sorted(response.status_code for response in responses) == [200] * 11 + [201]
            assert len({response.json()["submission_id"] for response in responses}) == 1
            assert len({response.json()["created_at"] for response in responses}) == 1
        await settled(nats_url)
    expect_one_of_each(await connection.load(subjects.ALL), submissions=rounds)


HOTKEY = {"miner_hotkey": ALICE}
FILE = {"file": ("train.py", SOURCE)}


def code(source: bytes) -> dict[str, Any]:
    return {"files": {"file": ("train.py", source)}, "data": HOTKEY}


REFUSED: list[tuple[str, dict[str, Any], int, str, str]] = [
    ("a syntax error", code(b"def inner_steps(:"), 422, "invalid_submission", "syntax error in line 1"),
    ("no inner_steps", code(b"x = 1"), 422, "invalid_submission", "no top-level inner_steps"),
    ("an empty file", code(b""), 422, "invalid_submission", "the file is empty"),
    ("no text", code(b"\xff\xfe"), 422, "invalid_submission", "not UTF-8"),
    (
        "a file that is a little too large",
        code(SOURCE.ljust(COMPETITION.max_code_bytes + 1, b"#")),
        422,
        "invalid_submission",
        "at most 262,144 are accepted",
    ),
    ("a body that is too large", code(b"#" * LIMIT), 413, "body_too_large", "more than 278,528 bytes"),
    ("no file", {"files": {"miner_hotkey": (None, ALICE)}}, 422, "invalid_request", "received: miner_hotkey"),
    ("no hotkey", {"files": FILE}, 422, "invalid_request", "received: file"),
    (
        "no hotkey that exists",
        {"files": FILE, "data": {"miner_hotkey": "5x"}},
        422,
        "invalid_request",
        "miner_hotkey cannot be used",
    ),
    (
        "two files",
        {"files": [("file", FILE["file"])] * 2, "data": HOTKEY},
        422,
        "invalid_request",
        "received: miner_hotkey, file, file",
    ),
    ("JSON", {"json": {"file": "x", **HOTKEY}}, 422, "invalid_request", "must be multipart/form-data"),
    ("a form without files", {"data": {"file": "x", **HOTKEY}}, 422, "invalid_request", "must be multipart/form-data"),
    ("nothing", {}, 422, "invalid_request", "must be multipart/form-data"),
]


async def test_what_is_refused_says_why_and_leaves_nothing_behind(
    service: Service, connection: Bus, artifacts: ArtifactStore, client: httpx.AsyncClient
) -> None:
    stored = sorted(path for path in artifacts.root.rglob("*") if path.is_file())
    for why, sent, status, kind, detail in REFUSED:
        response = await client.post(f"{service.url}/submissions", **sent)
        body = response.json()
        assert (response.status_code, body["code"], list(body)) == (status, kind, ["detail", "code"]), why
        assert detail in body["detail"], why
    assert await connection.load(subjects.ALL) == []
    assert sorted(path for path in artifacts.root.rglob("*") if path.is_file()) == stored
    assert (await submit(client, service)).status_code == 201


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/submissions", 405), ("POST", "/", 404)])
async def test_other_routes_answer_in_the_same_form(
    service: Service, client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    response = await client.request(method, f"{service.url}{path}")
    assert response.status_code == status
    assert list(response.json()) == ["detail", "code"]


def conversation(service: Service, head: str, body: Iterator[bytes]) -> bytes:
    """All that the server says until it closes the connection, however long the client would go on sending."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=REQUEST_SECONDS) as connected:
        connected.sendall(f"POST /submissions HTTP/1.1\r\nHost: ingest\r\n{head}\r\n\r\n".encode())
        with contextlib.suppress(ConnectionError):
            for piece in body:
                connected.sendall(piece)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while received := connected.recv(65_536):
                answer += received
        return answer


def endless(piece: bytes) -> Iterator[bytes]:
    deadline = time.monotonic() + REQUEST_SECONDS
    while time.monotonic() < deadline:
        yield piece
    pytest.fail("the server took everything that was sent")


MULTIPART = "Content-Type: multipart/form-data; boundary=b"
CHUNK = b"8000\r\n" + b"#" * 0x8000 + b"\r\n"


@pytest.mark.parametrize(
    ("why", "head", "body"),
    [
        ("said so and sends nothing", "Content-Length: 1000000000000", lambda: iter(())),
        ("said so, waits to be asked", "Content-Length: 1000000000000\r\nExpect: 100-continue", lambda: iter(())),
        ("said so and goes on sending", "Content-Length: 1000000000000", lambda: endless(CHUNK)),
        ("does not say so, in chunks", "Transfer-Encoding: chunked", lambda: endless(CHUNK)),
        ("stops in the middle", "Transfer-Encoding: chunked", lambda: iter([CHUNK] * 10)),
    ],
)
def test_a_body_without_end_is_refused_and_its_connection_closed(
    service: Service, why: str, head: str, body: Callable[[], Iterator[bytes]]
) -> None:
    begin = time.monotonic()
    answer = conversation(service, f"{MULTIPART}\r\n{head}", body())
    assert answer.startswith(b"HTTP/1.1 413 "), why
    assert answer.count(b"HTTP/1.1") == 1
    assert b"\r\nconnection: close\r\n" in answer
    assert b'"code":"body_too_large"' in answer
    assert time.monotonic() - begin < http.LINGER_SECONDS + 5.0
    # It cost no memory.
    resident = int((Path("/proc") / str(service.process.pid) / "statm").read_text().split()[1]) * os.sysconf(
        "SC_PAGESIZE"
    )
    assert resident < 200 * 2**20
    assert health(service) is not None


async def test_a_client_that_is_still_sending_sees_why_it_is_refused(
    service: Service, client: httpx.AsyncClient
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"#" * 65_536

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    response = await client.post(f"{service.url}/submissions", headers=headers, content=chunks())
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")


async def test_nats_restarts_during_a_request(
    nats_server: NatsServer, nats_url: str, artifacts: ArtifactStore, client: httpx.AsyncClient
) -> None:
    with ingest(nats_url, artifacts) as service:
        await submit(client, service)
        nats_server.kill()
        waiting = asyncio.create_task(submit(client, service, SOURCE + b"# during"))
        answer = await asyncio.to_thread(health, service)
        assert answer is not None
        assert (answer.status_code, answer.json()["code"]) == (503, "try_again_later")
        assert not waiting.done()
        await asyncio.to_thread(nats_server.start)
        response = await waiting
        assert response.status_code in (200, 201)  # 200: it was stored by an attempt that went unanswered
        await settled(nats_url)
        async with bus.connect(nats_url, producer="test") as connection:
            expect_one_of_each(await connection.load(subjects.ALL), submissions=2)


async def test_without_nats_it_says_when_to_come_back_and_nothing_is_lost(
    nats_server: NatsServer, nats_url: str, artifacts: ArtifactStore, client: httpx.AsyncClient
) -> None:
    nats_server.kill()
    with ingest(nats_url, artifacts) as service:  # it has never seen a server
        answer = health(service)
        assert answer is not None
        assert (answer.status_code, answer.json()["code"]) == (503, "try_again_later")
        begin = time.monotonic()
        responses = await asyncio.gather(submit(client, service), submit(client, service, SOURCE + b"# another"))
        assert http.PATIENCE_SECONDS - 0.5 < time.monotonic() - begin < http.PATIENCE_SECONDS + 5.0
        for response in responses:
            assert (response.status_code, response.json()["code"]) == (503, "try_again_later")
            assert int(response.headers["retry-after"]) > 0
        refused = await submit(client, service, b"x = 1")
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_submission")

        await asyncio.to_thread(nats_server.start)
        again = await submit(client, service)
        assert again.status_code in (200, 201)
        assert (await submit(client, service)).status_code == 200
        nats_server.kill()  # and now it goes while connected
        assert (await submit(client, service)).status_code == 503
        await asyncio.to_thread(nats_server.start)
        assert (await submit(client, service)).status_code == 200
        await settled(nats_url)
        async with bus.connect(nats_url, producer="test") as connection:
            expect_one_of_each(await connection.load(subjects.ALL), submissions=1)


async def test_it_can_be_stopped_while_it_waits_for_nats(artifacts: ArtifactStore) -> None:
    with ingest(f"nats://127.0.0.1:{free_port()}", artifacts) as service:
        service.process.terminate()
        assert await asyncio.to_thread(service.process.wait, REQUEST_SECONDS) == 0


async def test_what_was_stored_without_an_answer_is_recognised(
    connection: Bus, artifacts: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The publish arrives; the word of it does not, and the caller gives up."""
    publish = connection._js.publish

    async def lost(*arguments: Any, **options: Any) -> None:
        await publish(*arguments, **options)
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(connection._js, "publish", lost)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await handlers.submit(connection, artifacts, SOURCE, miner_hotkey=ALICE)
    again = await handlers.submit(connection, artifacts, SOURCE, miner_hotkey=ALICE)
    assert again.created is False
    assert len(await events(connection, SubmissionPaid)) == 1


async def test_a_disk_that_takes_nothing_is_said_logged_and_waited_for(
    service: Service, connection: Bus, artifacts: ArtifactStore, client: httpx.AsyncClient
) -> None:
    aside = artifacts.root.with_name("aside")
    artifacts.root.rename(aside)
    artifacts.root.write_bytes(b"")  # permissions would not hold against root
    response = await submit(client, service)
    assert (response.status_code, response.json()["code"]) == (503, "try_again_later")
    assert int(response.headers["retry-after"]) > 0
    said = service.said("not stored yet")
    assert "cannot store an artifact under" in said[0]["error"]
    assert len(said) < 10
    assert await connection.load(subjects.ALL) == []
    # While a request waits, the disk comes back.
    waiting = asyncio.create_task(submit(client, service))
    await asyncio.to_thread(wait_until, lambda: len(service.said("not stored yet")) > len(said))
    artifacts.root.unlink()
    aside.rename(artifacts.root)
    assert (await waiting).status_code == 201
    expect_one_of_each(await eventually(lambda: requested(connection)))


async def test_kill_9_between_the_two_events_loses_and_doubles_nothing(
    nats_url: str, connection: Bus, artifacts: ArtifactStore, client: httpx.AsyncClient
) -> None:
    watcher = await nats.connect(nats_url)
    seen = await watcher.subscribe("tournament.submission.*.paid")
    kills = 4
    for number in range(kills):
        with ingest(nats_url, artifacts) as service:
            await eventually(functools.partial(reached, client, service))
            sending = asyncio.create_task(submit(client, service, SOURCE + b"#%d" % number))
            await seen.next_msg(timeout=REQUEST_SECONDS)
            service.process.kill()
            service.process.wait()
            await asyncio.wait([sending])
            if sending.exception() is None:
                assert sending.result().status_code == 201
    # One more is certain to have been caught in between: nobody was there to request anything.
    await handlers.submit(connection, artifacts, SOURCE + b"# unseen", miner_hotkey=ALICE)
    assert len(await events(connection, EvalRequested)) <= kills
    with ingest(nats_url, artifacts) as service:
        await eventually(lambda: requested(connection, kills + 1))
        for number in range(kills):  # the client that heard nothing sends it again
            assert (await submit(client, service, SOURCE + b"#%d" % number)).status_code == 200
        await settled(nats_url)
    expect_one_of_each(await connection.load(subjects.ALL), submissions=kills + 1)
    await watcher.close()


async def test_a_paid_submission_outlives_every_delivery_that_nats_could_not_store(
    nats_url: str, connection: Bus, artifacts: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus, "PUBLISH_ATTEMPTS", 1)
    impatient = dataclasses.replace(streams.REQUEST_EVALUATIONS, max_deliveries=2)
    given_up: list[int] = []

    async def give_up(recorded: Recorded, deliveries: int, why: str) -> None:
        given_up.append(deliveries)
        await handlers.give_up(connection, COMPETITION, recorded, deliveries, why)

    await handlers.submit(connection, artifacts, SOURCE, miner_hotkey=ALICE)
    operator = await nats.connect(nats_url)
    await operator.jetstream().update_stream(dataclasses.replace(streams.stream_config(), max_msgs=1))  # it is full
    request = functools.partial(handlers.request_evaluation, connection, COMPETITION)
    work = asyncio.create_task(connection.consume(impatient, request, slots=1, give_up=give_up))

    async def often() -> bool:
        return len(given_up) >= 2

    await eventually(often)
    assert len(await connection.load(subjects.ALL)) == 1
    await operator.jetstream().update_stream(streams.stream_config())
    await eventually(lambda: requested(connection))
    # That it had failed so often stays visible.
    await eventually(lambda: events(connection, MessageDeadLettered))
    work.cancel()
    await asyncio.wait([work])
    await operator.close()
    assert len(await events(connection, EvalRequested)) == 1


async def reached(client: httpx.AsyncClient, service: Service) -> bool:
    return (await client.get(f"{service.url}/health")).status_code == 200


def test_a_request_that_is_under_way_is_answered_before_it_stops(service: Service, nats_url: str) -> None:
    wait_until(lambda: (answer := health(service)) is not None and answer.status_code == 200)
    request = httpx.Request("POST", "http://ingest/", files={"file": ("train.py", SOURCE)}, data=HOTKEY)
    body = request.read()
    head = f"POST /submissions HTTP/1.1\r\nHost: ingest\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=REQUEST_SECONDS) as connected:
        connected.sendall(f"{head}Content-Type: {request.headers['content-type']}\r\n\r\n".encode() + body[:50])
        health(service)  # by now the first bytes have been read
        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not accepts(service))
        connected.sendall(body[50:])
        answer = b""
        while received := connected.recv(65_536):
            answer += received
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert service.process.wait(REQUEST_SECONDS) == 0


def accepts(service: Service) -> bool:
    try:
        socket.create_connection(("127.0.0.1", service.port), timeout=REQUEST_SECONDS).close()
    except ConnectionError:
        return False
    return True


async def test_a_file_that_hangs_the_parser_stops_nobody_else(service: Service, client: httpx.AsyncClient) -> None:
    slow = b"a\n" * 130_000 + b"x = 1"
    waiting = asyncio.create_task(submit(client, service, slow))
    longest_seconds = 0.0
    while not waiting.done():
        begin = time.monotonic()
        assert (await client.get(f"{service.url}/health")).status_code == 200
        longest_seconds = max(longest_seconds, time.monotonic() - begin)
    assert (await waiting).json()["code"] == "invalid_submission"
    assert longest_seconds < 0.5
    assert (await submit(client, service)).status_code == 201


async def test_it_says_that_submissions_are_free(service: Service, client: httpx.AsyncClient) -> None:
    said = (await client.get(f"{service.url}/info")).json()
    assert abs(said.pop("time_seconds") - time.time()) < REQUEST_SECONDS
    assert said == {
        "netuid": COMPETITION.economy.netuid,
        "submission_cost_rao": COMPETITION.economy.submission_cost_rao,
        "payment_max_age_seconds": COMPETITION.economy.payment_max_age_seconds,
        "payment_recipient": None,
        "genesis_hash": None,
        "hparams": COMPETITION.name,
        "hparams_sha256": COMPETITION.sha256,
        "max_code_bytes": COMPETITION.max_code_bytes,
        "api_url": "https://tournament.example",
    }
    refused = await client.post(
        f"{service.url}/submissions", files=FILE, data={**HOTKEY, "payment": "1", "signed_at": "1", "signature": "1"}
    )
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")


async def test_its_answers_are_described(service: Service, client: httpx.AsyncClient) -> None:
    described = (await client.get(f"{service.url}/openapi.json")).json()
    answers = described["paths"]["/submissions"]["post"]["responses"]
    assert sorted(answers) == ["200", "201", "202", "401", "402", "408", "409", "413", "422", "503"]
    for status, answer in answers.items():
        model = answer["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert model == {"200": "Accepted", "201": "Accepted", "202": "Claimed"}.get(status, "ProblemBody")
    fields = described["paths"]["/submissions"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert fields["required"] == ["file", "miner_hotkey"]
    for model in ("Accepted", "Claimed", "Info", "ProblemBody"):
        assert all(
            field.get("description") for field in described["components"]["schemas"][model]["properties"].values()
        )
    assert (await client.get(f"{service.url}/docs")).status_code == 200


def ended(settings: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "services.ingest.main"],
        cwd=PROJECT,
        env=settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=REQUEST_SECONDS,
    )
    return done.returncode, done.stderr


def test_what_keeps_it_from_starting_is_said_in_one_sentence(artifacts: ArtifactStore, tmp_path: Path) -> None:
    nobody = f"nats://127.0.0.1:{free_port()}"
    assert ended({"PATH": os.environ["PATH"]}) == (2, "ingest: TOURNAMENT_NATS_URL is not set\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert ended(environment(nobody, artifacts, TOURNAMENT_INGEST_PORT=str(port))) == (
            2,
            f"ingest: cannot listen on 127.0.0.1 port {port}: Address already in use; "
            "choose another TOURNAMENT_INGEST_PORT\n",
        )
    missing = tmp_path / "missing.json"
    free = {"TOURNAMENT_INGEST_PORT": str(free_port())}
    assert ended(environment(nobody, artifacts, TOURNAMENT_HPARAMS=str(missing), **free)) == (
        2,
        f"ingest: {missing}: No such file or directory\n",
    )
    artifacts.root.write_bytes(b"")
    returncode, said = ended(environment(nobody, artifacts, **free))
    assert returncode == 2
    assert said.startswith(
        f"ingest: TOURNAMENT_ARTIFACTS_DIR cannot be used: cannot store an artifact under {artifacts.root}"
    )
    assert said.count("\n") == 1
