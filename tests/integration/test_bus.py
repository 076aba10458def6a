"""The bus on a real NATS server: nothing is lost, doubled or dropped in silence, whatever is killed, cut or written."""

import asyncio
import contextlib
import dataclasses
import functools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import nats
import pytest
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import ConnectionClosedError
from nats.errors import Error as NatsError
from nats.js.api import ConsumerInfo

from deploy import streams as deployed
from shared import bus, streams, subjects
from shared.bus import Bus, Handler
from shared.events import EvaluationStarted, Event, MessageDeadLettered, Recorded, encode
from shared.faults import Conflict, PoisonMessage, Superseded, TransientFault, UnknownEvent
from shared.streams import STREAM, Consumer
from tests.support.servers import NatsServer, eventually
from tests.support.stories import completed, paid, record, requested, started

pytestmark = pytest.mark.servers

PROJECT = Path(__file__).parents[2]
QUEUE = Consumer(
    name="test-queue",
    filter_subject="tournament.submission.*.paid",
    slots=64,
    ack_wait_seconds=1.0,
    max_deliveries=3,
    pauses_seconds=(0.05,),
)
S1 = subjects.submission("s1")
LETTERS = subjects.dead_letters(QUEUE.name)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The bus as it is, with shorter waits."""
    monkeypatch.setattr(bus, "PUBLISH_TIMEOUT_SECONDS", 1.0)
    monkeypatch.setattr(bus, "PULL_SECONDS", 1.0)
    monkeypatch.setattr(bus, "PULL_GRACE_SECONDS", 0.5)
    monkeypatch.setattr(bus, "REPLAY_EXPIRES_SECONDS", 1.0)
    monkeypatch.setattr(bus, "REPLAY_GRACE_SECONDS", 0.5)
    monkeypatch.setattr(bus, "RETRY_FIRST_SECONDS", 0.1)
    monkeypatch.setattr(bus, "PING_SECONDS", 0.3)
    # The default takes a quarter of a second to draw a traceback, during which no heartbeat is sent.
    structlog.configure(processors=[structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)])
    yield
    structlog.reset_defaults()


@pytest.fixture
async def client(nats_url: str) -> AsyncIterator[Client]:
    """A plain client, for what the bus does not do; declares the queue."""
    async with plain(nats_url) as connected:
        await deployed.apply(connected, consumers=[QUEUE])
        yield connected


@contextlib.asynccontextmanager
async def plain(url: str) -> AsyncIterator[Client]:
    async def unsaid(error: Exception) -> None:
        pass

    connected = await nats.connect(url, error_cb=unsaid, max_reconnect_attempts=-1, reconnect_time_wait=0.05)
    try:
        yield connected
    finally:
        await connected.close()


@contextlib.asynccontextmanager
async def consuming(
    connection: Bus,
    handler: Handler,
    *,
    slots: int = 1,
    give_up: bus.GiveUp | None = None,
    consumer: Consumer = QUEUE,
) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(connection.consume(consumer, handler, slots=slots, give_up=give_up))
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Seen:
    """A handler that notes what it is given, then does as `act` says."""

    def __init__(self, act: Callable[[Recorded, int], Awaitable[None]] | None = None) -> None:
        self.deliveries: list[tuple[str, int]] = []
        self.moments: list[float] = []
        self.now, self.most = 0, 0
        self._act = act

    async def __call__(self, recorded: Recorded, delivery: int) -> None:
        self.deliveries.append((recorded.subject.split(".")[2], delivery))
        self.moments.append(asyncio.get_running_loop().time())
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            if self._act is not None:
                await self._act(recorded, delivery)
        finally:
            self.now -= 1

    async def count(self, least: int) -> bool:
        return len(self.deliveries) >= least


async def for_ever(recorded: Recorded, delivery: int) -> None:
    await asyncio.Event().wait()


async def store(connection: Bus, *events: Event) -> list[Recorded]:
    """Append to the submissions' stories, in this order."""
    stored = []
    for event in events:
        aggregate = subjects.submission(subjects.subject_of(event).split(".")[2])
        last = await connection.last(aggregate)
        stored.append(
            await connection.append(event, aggregate=aggregate, expected=0 if last is None else last.sequence)
        )
    return stored


async def queue(client: Client) -> ConsumerInfo:
    info: ConsumerInfo = await client.jetstream().consumer_info(STREAM, QUEUE.name)
    return info


async def settled(client: Client) -> bool:
    """Whether everything was delivered and answered."""
    info = await queue(client)
    return (info.num_pending, info.num_ack_pending) == (0, 0)


async def letters(connection: Bus) -> list[MessageDeadLettered]:
    events = [recorded.event for recorded in await connection.load(LETTERS)]
    return [event for event in events if isinstance(event, MessageDeadLettered)]


async def restart(server: NatsServer, *, away_seconds: float = 0.0) -> None:
    server.kill()
    await asyncio.sleep(away_seconds)
    await asyncio.to_thread(server.start)


def elsewhere(work: Coroutine[Any, Any, None]) -> None:
    """Run it in another event loop while this one stands still: what other processes do between two of our steps."""
    thread = threading.Thread(target=asyncio.run, args=(work,))
    thread.start()
    thread.join()


class Line:
    """A TCP line to the server that can go deaf: what we send arrives, what the server answers is lost."""

    def __init__(self, port: int) -> None:
        self.deaf = False
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[int]:
        async with await asyncio.start_server(self._connected, "127.0.0.1", 0) as listening:
            yield listening.sockets[0].getsockname()[1]
            self.cut()

    def cut(self) -> None:
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.close()
            return
        self._writers += [writer, to_server]
        with contextlib.suppress(OSError):
            await asyncio.gather(self._pump(reader, to_server), self._pump(from_server, writer, answers=True))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False) -> None:
        while data := await reader.read(65_536):
            if not (answers and self.deaf):
                writer.write(data)
        writer.close()


# append ---------------------------------------------------------------------------------------------------------------


async def test_what_is_appended_is_what_is_read(connection: Bus) -> None:
    first = await connection.append(paid("s1"), aggregate=S1, expected=0)
    second = await connection.append(requested("s1"), aggregate=S1, expected=first.sequence, cause=first)
    assert await connection.load(S1) == [first, second]
    assert await connection.load(S1, after=first.sequence) == [second]
    assert await connection.last(S1) == second
    assert (second.envelope.causation_id, second.envelope.correlation_id) == (first.envelope.id, "s1")
    assert await connection.load(subjects.submission("s2")) == []
    assert await connection.last(subjects.submission("s2")) is None


async def test_an_append_that_comes_second_is_a_conflict_and_stores_nothing(connection: Bus) -> None:
    first = await connection.append(paid("s1"), aggregate=S1, expected=0)
    for expected in (0, first.sequence + 1):
        with pytest.raises(Conflict):
            await connection.append(requested("s1"), aggregate=S1, expected=expected)
    assert await connection.load(S1) == [first]


@pytest.mark.parametrize("again", ["as before", "after itself"])
async def test_the_same_append_again_returns_what_is_stored(connection: Bus, again: str) -> None:
    first = await connection.append(paid("s1"), aggregate=S1, expected=0)
    expected = 0 if again == "as before" else first.sequence
    assert await connection.append(paid("s1"), aggregate=S1, expected=expected) == first
    assert await connection.load(S1) == [first]


async def test_an_event_that_follows_another_is_not_the_append_that_was_asked_for(connection: Bus) -> None:
    await store(connection, paid("s1"), requested("s1"))
    with pytest.raises(Conflict):
        await connection.append(requested("s1"), aggregate=S1, expected=0)


@pytest.mark.parametrize(
    "aggregate",
    [
        "tournament.submission.s2.>",
        "tournament.submission.s1",
        "tournament.submission.s1.paid.>",
        "tournament.submission.*",
        "tournament.leaderboard.>",
        "tournament.submission.s1.*.*",
        "",
    ],
)
async def test_a_filter_that_does_not_cover_the_event_is_refused(connection: Bus, aggregate: str) -> None:
    with pytest.raises(ValueError, match="does not cover"):
        await connection.append(paid("s1"), aggregate=aggregate, expected=0)
    assert await connection.load(S1) == []


@pytest.mark.parametrize(
    "aggregate", [">", "tournament.>", "tournament.*.s1.paid", "tournament.submission.s1.paid", S1]
)
async def test_a_filter_that_covers_the_event_is_not(connection: Bus, aggregate: str) -> None:
    assert (await connection.append(paid("s1"), aggregate=aggregate, expected=0)).sequence == 1


@pytest.mark.parametrize("size", [streams.MAX_EVENT_BYTES, 2**20 - 1200, 2**21])
async def test_an_event_that_is_too_large_is_refused_and_the_connection_lives(connection: Bus, size: int) -> None:
    with pytest.raises(ValueError, match="bytes, at most"):
        await connection.append(completed(log_tail="x" * size), aggregate=S1, expected=0)
    assert await connection.append(paid("s1"), aggregate=S1, expected=0) == await connection.last(S1)


async def test_the_largest_event_is_stored(connection: Bus) -> None:
    room = streams.MAX_EVENT_BYTES - len(encode(record(1, completed(log_tail="")).envelope)) - 20
    stored = await connection.append(completed(log_tail="x" * room), aggregate=S1, expected=0)
    assert await connection.load(S1) == [stored]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
async def test_an_event_that_no_one_could_read_is_never_stored(connection: Bus, number: float) -> None:
    with pytest.raises(msgspec.ValidationError):
        await connection.append(completed(tps=number), aggregate=S1, expected=0)
    assert await connection.load(S1) == []


async def test_half_a_character_is_never_stored(connection: Bus) -> None:
    with pytest.raises(UnicodeEncodeError):
        await connection.append(completed(log_tail="\ud800"), aggregate=S1, expected=0)
    assert await connection.load(S1) == []


# transact -------------------------------------------------------------------------------------------------------------


def claim(instance: str) -> Callable[[list[Recorded]], list[EvaluationStarted]]:
    """Take the next attempt, once. What is decided depends on all that is there."""

    def decide(story: list[Recorded]) -> list[EvaluationStarted]:
        claims = [recorded.event for recorded in story if isinstance(recorded.event, EvaluationStarted)]
        if any(claim.instance == instance for claim in claims):
            return []
        return [msgspec.structs.replace(started("s1", attempt=len(claims) + 1), instance=instance)]

    return decide


async def test_eight_at_once_decide_one_after_the_other_and_once_each(nats_url: str, connection: Bus) -> None:
    async with contextlib.AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(bus.connect(nats_url, producer=f"r{n}")) for n in range(8)]
        for _ in range(2):
            told = await asyncio.gather(*(replica.transact(S1, claim(f"r{n}")) for n, replica in enumerate(replicas)))
    story = await connection.load(S1)
    claims = [recorded.event for recorded in story if isinstance(recorded.event, EvaluationStarted)]
    assert [claim.attempt for claim in claims] == list(range(1, 9))
    assert {claim.instance for claim in claims} == {f"r{n}" for n in range(8)}
    assert all(answer == story for answer in told)


async def test_a_decision_that_another_made_after_something_new_is_made_again(nats_url: str, connection: Bus) -> None:
    """Both decide the same, but between our load and our append the other stored something else before it."""
    stories: list[int] = []

    async def others() -> None:
        async with bus.connect(nats_url, producer="other") as other:
            await store(other, paid("s1"), requested("s1"))

    def decide(story: list[Recorded]) -> list[Event]:
        stories.append(len(story))
        if not story:
            elsewhere(others())
        return [] if any(recorded.envelope.type == "EvalRequested" for recorded in story) else [requested("s1")]

    assert await connection.transact(S1, decide) == await connection.load(S1)
    assert stories == [0, 2]


async def test_what_was_interrupted_between_two_events_is_completed(connection: Bus) -> None:
    wanted = [paid("s1"), requested("s1"), started("s1")]

    def decide(story: list[Recorded]) -> list[Event]:
        known = {recorded.envelope.id for recorded in story}
        return [event for event in wanted if event.id not in known]

    await store(connection, wanted[0])
    for _ in range(2):
        story = await connection.transact(S1, decide)
        assert [recorded.event for recorded in story] == wanted
    assert await connection.load(S1) == story


async def test_a_decision_that_always_comes_too_late_is_a_transient_fault(
    nats_url: str, connection: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus, "DECIDE_ATTEMPTS", 3)

    async def another(story: list[Recorded]) -> None:
        async with bus.connect(nats_url, producer="other") as other:
            await store(other, started("s1", attempt=len(story) + 1))

    def decide(story: list[Recorded]) -> list[Event]:
        elsewhere(another(story))
        return [paid("s1")]

    with pytest.raises(TransientFault, match="contended"):
        await connection.transact(S1, decide)


async def test_a_story_is_whole_while_others_write_it(nats_url: str, connection: Bus) -> None:
    read: list[list[Recorded]] = []

    async def reader() -> None:
        async with bus.connect(nats_url, producer="reader") as reading:
            while not read or len(read[-1]) < 60:
                read.append(await reading.load(S1))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(reader())
        expected = 0
        for number in range(60):
            expected = (
                await connection.append(started("s1", attempt=number), aggregate=S1, expected=expected)
            ).sequence
    story = await connection.load(S1)
    assert all(part == story[: len(part)] for part in read)


# append while the server is away --------------------------------------------------------------------------------------


async def test_appends_go_on_through_kills_of_the_server_and_each_is_stored_once(
    nats_server: NatsServer, connection: Bus
) -> None:
    stored: list[Recorded] = []

    async def write() -> None:
        while len(stored) < 600:
            expected = stored[-1].sequence if stored else 0
            stored.append(await connection.append(started("s1", attempt=len(stored)), aggregate=S1, expected=expected))

    async def enough(count: int) -> bool:
        return len(stored) >= count

    task = asyncio.create_task(write())
    for count in (50, 200, 350):
        await eventually(functools.partial(enough, count))
        await restart(nats_server)
    await task
    assert await connection.load(S1) == stored
    assert [recorded.sequence for recorded in stored] == list(range(1, 601))


async def test_an_append_whose_answer_was_lost_is_read_back(nats_server: NatsServer, connection: Bus) -> None:
    line = Line(nats_server.port)
    async with line.open() as port, bus.connect(f"nats://{nats_server.token}@127.0.0.1:{port}", producer="far") as far:
        first = await far.append(paid("s1"), aggregate=S1, expected=0)
        line.deaf = True
        with structlog.testing.capture_logs() as logs:
            appending = asyncio.create_task(far.append(requested("s1"), aggregate=S1, expected=first.sequence))
            second = await eventually(lambda: arrived(connection, S1, after=first.sequence))
            assert not appending.done()
            line.deaf = False
            line.cut()
            assert await appending == second
    assert any(entry["event"] == "publish unanswered" for entry in logs)
    assert await connection.load(S1) == [first, second]


async def arrived(connection: Bus, aggregate: str, *, after: int) -> Recorded | None:
    return next(iter(await connection.load(aggregate, after=after)), None)


async def test_an_append_that_was_cancelled_is_stored_at_most_once(nats_server: NatsServer, connection: Bus) -> None:
    line = Line(nats_server.port)
    async with line.open() as port, bus.connect(f"nats://{nats_server.token}@127.0.0.1:{port}", producer="far") as far:
        await far.append(paid("other"), aggregate=subjects.submission("other"), expected=0)
        line.deaf = True
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await far.append(paid("s1"), aggregate=S1, expected=0)
        stored = await eventually(lambda: arrived(connection, S1, after=0))
        line.deaf = False
        line.cut()
        assert await far.append(paid("s1"), aggregate=S1, expected=0) == stored
    assert await connection.load(S1) == [stored]


async def test_an_append_given_up_while_the_server_was_away_may_be_stored_later_but_once(
    nats_server: NatsServer, connection: Bus
) -> None:
    nats_server.kill()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await connection.append(paid("s1"), aggregate=S1, expected=0)
    await asyncio.to_thread(nats_server.start)
    stored = await connection.append(paid("s1"), aggregate=S1, expected=0)
    assert await connection.load(S1) == [stored]
    assert await connection.load(subjects.ALL) == [stored]


async def test_a_server_that_stays_away_is_a_transient_fault(
    nats_server: NatsServer, connection: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus, "PUBLISH_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(bus, "PUBLISH_ATTEMPTS", 3)
    nats_server.kill()
    with pytest.raises(TransientFault, match="did not store"):
        await connection.append(paid("s1"), aggregate=S1, expected=0)
    for reading in (connection.load, connection.last):
        with pytest.raises(TransientFault, match="did not answer"):
            await reading(S1)


async def test_a_stream_that_is_not_there_is_not_an_empty_story(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    await asyncio.to_thread(server.start)
    try:
        async with bus.connect(server.url, producer="early") as early:
            for reading in (early.load, early.last):
                with pytest.raises(TransientFault, match="stream not found"):
                    await reading(S1)
    finally:
        server.kill()


async def test_a_server_that_stops_answering_is_left_and_found_again(nats_server: NatsServer, connection: Bus) -> None:
    assert nats_server.process is not None
    nats_server.process.send_signal(signal.SIGSTOP)
    try:

        async def lost() -> bool:
            return not connection.connected

        await eventually(lost, seconds=10)
    finally:
        nats_server.process.send_signal(signal.SIGCONT)
    stored = await connection.append(paid("s1"), aggregate=S1, expected=0)
    assert await connection.load(S1) == [stored]


async def test_a_connection_that_the_server_ended_for_good_ends_everything_loudly(
    client: Client, connection: Bus
) -> None:
    """nats-py never connects again after such an error, so a service that went on would wait for ever."""
    ends = [
        asyncio.create_task(connection.consume(QUEUE, Seen(), slots=2)),
        asyncio.create_task(anext(connection.follow(after=0))),
    ]
    await asyncio.sleep(0)
    with structlog.testing.capture_logs() as logs:
        await connection._client.publish("tournament.x", b"x" * (2**20 - 10), headers={"a": "b" * 100})
        _, waiting = await asyncio.wait(ends, timeout=10)
    assert not waiting
    consumed, followed = (task.exception() for task in ends)
    assert isinstance(consumed, ExceptionGroup)
    assert consumed.subgroup(ConnectionClosedError) is not None
    assert isinstance(followed, ConnectionClosedError)
    with pytest.raises(ConnectionClosedError):
        await connection.append(paid("s1"), aggregate=S1, expected=0)
    for reading in (connection.load, connection.last):
        with pytest.raises(ConnectionClosedError):
            await reading(S1)
    assert [entry["error"] for entry in logs if entry["event"] == "nats connection closed for good"] == [
        "nats: maximum payload violation"
    ]


# cancellation ---------------------------------------------------------------------------------------------------------


def cancelled_with(answer: Msg) -> Callable[..., Awaitable[Msg]]:
    """A request whose caller is cancelled in the very moment in which its answer arrives."""

    async def request(*arguments: Any, **options: Any) -> Msg:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        arriving: asyncio.Future[Msg] = loop.create_future()
        loop.call_soon(arriving.set_result, answer)
        loop.call_soon(task.cancel)
        return await asyncio.wait_for(arriving, 5)

    return request


@pytest.mark.parametrize(
    ("operation", "answer"),
    [
        ("append", {"stream": STREAM, "seq": 1}),
        ("append", {"error": {"code": 400, "err_code": 10071}}),
        ("load", {"error": {"code": 404, "err_code": 10037}}),
        ("last", {"error": {"code": 404, "err_code": 10037}}),
        ("follow", {"stream_name": STREAM, "name": "x", "config": {"ack_policy": "none"}}),
    ],
)
async def test_a_cancellation_that_comes_with_the_answer_is_not_lost(
    connection: Bus, monkeypatch: pytest.MonkeyPatch, operation: str, answer: dict[str, Any]
) -> None:
    """Or a service that is told to stop in that moment would go on."""

    async def operate() -> None:
        if operation == "append":
            await connection.append(paid("s1"), aggregate=S1, expected=0)
        elif operation == "load":
            await connection.load(S1)
        elif operation == "last":
            await connection.last(S1)
        else:
            await anext(connection.follow(after=0))

    told = Msg(connection._client, data=msgspec.json.encode(answer))
    monkeypatch.setattr(connection._client, "request", cancelled_with(told))
    task = asyncio.create_task(operate())
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()


async def test_a_cancellation_that_comes_with_a_message_leaves_it_to_another(
    client: Client, connection: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = Msg(connection._client, "tournament.submission.s1.paid", f"$JS.ACK.{STREAM}.{QUEUE.name}.1.1.1.1.0")
    seen = Seen()
    worker = asyncio.create_task(connection._work(QUEUE, seen, None))
    monkeypatch.setattr(Subscription, "next_msg", cancelled_with(message))
    await asyncio.wait([worker], timeout=5)
    assert worker.cancelled()
    assert seen.deliveries == []


# consume --------------------------------------------------------------------------------------------------------------


async def test_long_work_is_held_by_its_worker_and_delivered_once(client: Client, connection: Bus) -> None:
    async def work(recorded: Recorded, delivery: int) -> None:
        await asyncio.sleep(3 * QUEUE.ack_wait_seconds)

    seen = Seen(work)
    await store(connection, paid("s1"))
    async with consuming(connection, seen, slots=2):
        await eventually(lambda: seen.count(1))
        await eventually(lambda: settled(client))
    assert seen.deliveries == [("s1", 1)]


WORKER = """
import asyncio, sys
from shared import bus
from tests.integration.test_bus import QUEUE, for_ever
async def main():
    async with bus.connect(sys.argv[1], producer="worker") as connection:
        await connection.consume(QUEUE, for_ever, slots=1)
asyncio.run(main())
"""


async def test_what_a_killed_worker_held_is_delivered_again(nats_url: str, client: Client, connection: Bus) -> None:
    await store(connection, paid("s1"))
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, nats_url],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"]},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:

        async def held() -> bool:
            return (await queue(client)).num_ack_pending == 1

        await eventually(held)
    finally:
        worker.kill()
        worker.wait()
    seen = Seen()
    async with consuming(connection, seen):
        await eventually(lambda: settled(client))
    assert seen.deliveries == [("s1", 2)]


class GaveUp:
    def __init__(self, act: Callable[[int], None] | None = None) -> None:
        self.calls: list[tuple[int, str]] = []
        self._act = act

    async def __call__(self, recorded: Recorded, deliveries: int, why: str) -> None:
        self.calls.append((deliveries, why))
        if self._act is not None:
            self._act(len(self.calls))


def raising(error: BaseException) -> Callable[[Recorded, int], Awaitable[None]]:
    async def act(recorded: Recorded, delivery: int) -> None:
        raise error

    return act


async def test_poison_is_dead_lettered_once_and_never_delivered_again(client: Client, connection: Bus) -> None:
    seen, gave_up = Seen(raising(PoisonMessage("no such thing"))), GaveUp()
    (stored,) = await store(connection, paid("s1"))
    async with consuming(connection, seen, give_up=gave_up):
        await eventually(lambda: letters(connection))
        await eventually(lambda: settled(client))
        await asyncio.sleep(1.5 * QUEUE.ack_wait_seconds)
    assert seen.deliveries == [("s1", 1)]
    assert gave_up.calls == [(1, "no such thing")]
    assert await letters(connection) == [
        MessageDeadLettered(
            consumer=QUEUE.name,
            sequence=stored.sequence,
            subject="tournament.submission.s1.paid",
            deliveries=1,
            error="no such thing",
        )
    ]


async def test_a_dead_letter_is_written_once_when_the_message_comes_back_all_the_same(
    client: Client, connection: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(message: Msg) -> None:
        monkeypatch.undo()
        raise NatsError("lost")

    seen = Seen(raising(PoisonMessage("no such thing")))
    await store(connection, paid("s1"))
    monkeypatch.setattr(Msg, "term", lost)
    async with consuming(connection, seen):
        await eventually(lambda: seen.count(2))
        await eventually(lambda: settled(client))
    assert seen.deliveries == [("s1", 1), ("s1", 2)]
    assert len(await letters(connection)) == 1


async def test_many_dead_letters_at_once_are_all_written(client: Client, connection: Bus) -> None:
    names = [f"s{number}" for number in range(24)]
    await store(connection, *(paid(name) for name in names))
    async with consuming(connection, Seen(raising(PoisonMessage("no"))), slots=24):
        await eventually(lambda: settled(client))
    assert sorted(letter.subject.split(".")[2] for letter in await letters(connection)) == sorted(names)


async def test_a_transient_fault_is_delivered_again_after_its_pause(client: Client, connection: Bus) -> None:
    slow = dataclasses.replace(QUEUE, max_deliveries=4, pauses_seconds=(0.2, 0.6))

    async def fail(recorded: Recorded, delivery: int) -> None:
        if delivery < 4:
            raise TransientFault("the engine is away")

    seen = Seen(fail)
    await store(connection, paid("s1"))
    async with consuming(connection, seen, slots=2, consumer=slow):
        await eventually(lambda: seen.count(4))
        await eventually(lambda: settled(client))
    assert [delivery for _, delivery in seen.deliveries] == [1, 2, 3, 4]
    pauses = [after - before for before, after in zip(seen.moments, seen.moments[1:], strict=False)]
    assert all(pause >= least for pause, least in zip(pauses, (0.2, 0.6, 0.6), strict=True)), pauses
    assert await letters(connection) == []


async def test_a_bug_is_tried_again_then_given_up_visibly(client: Client, connection: Bus) -> None:
    seen, gave_up = Seen(raising(ZeroDivisionError("division by zero"))), GaveUp()
    await store(connection, paid("s1"))
    async with consuming(connection, seen, give_up=gave_up):
        (letter,) = await eventually(lambda: letters(connection))
        await eventually(lambda: settled(client))
    why = "delivery 3 failed: ZeroDivisionError: division by zero"
    assert [delivery for _, delivery in seen.deliveries] == [1, 2, 3]
    assert gave_up.calls == [(3, why)]
    assert (letter.error, letter.deliveries) == (why, 3)


async def test_a_message_whose_workers_all_died_is_given_up_without_another_try(
    client: Client, connection: Bus
) -> None:
    brief = dataclasses.replace(QUEUE, max_deliveries=1)
    await store(connection, paid("s1"))
    died = Seen(for_ever)
    async with consuming(connection, died, consumer=brief):
        await eventually(lambda: died.count(1))
    seen, gave_up = Seen(), GaveUp()
    async with consuming(connection, seen, give_up=gave_up, consumer=brief):
        (letter,) = await eventually(lambda: letters(connection))
    assert seen.deliveries == []
    assert gave_up.calls == [(2, "given up after 1 deliveries")]
    assert letter.deliveries == 2


async def test_the_dead_letter_is_written_even_when_giving_up_is_broken(client: Client, connection: Bus) -> None:
    def broken(call: int) -> None:
        raise PoisonMessage("expected something else")

    await store(connection, paid("s1"))
    async with consuming(connection, Seen(raising(PoisonMessage("no"))), give_up=GaveUp(broken)):
        (letter,) = await eventually(lambda: letters(connection))
        await eventually(lambda: settled(client))
    assert letter.error == "no; giving it up failed too: PoisonMessage: expected something else"


async def test_giving_up_is_tried_again_after_a_transient_fault(client: Client, connection: Bus) -> None:
    def away(call: int) -> None:
        if call == 1:
            raise TransientFault("away")

    gave_up = GaveUp(away)
    await store(connection, paid("s1"))
    async with consuming(connection, Seen(raising(PoisonMessage("no"))), give_up=gave_up):
        (letter,) = await eventually(lambda: letters(connection))
        await eventually(lambda: settled(client))
    assert [deliveries for deliveries, _ in gave_up.calls] == [1, 2]
    assert letter.error == "no"


async def test_a_dead_letter_can_carry_any_error(client: Client, connection: Bus) -> None:
    await store(connection, paid("s1"))
    async with consuming(connection, Seen(raising(PoisonMessage("\ud800" + "x" * 2**21)))):
        (letter,) = await eventually(lambda: letters(connection))
    assert letter.error == "?" + "x" * (bus.ERROR_CHARACTERS - 1)


def altered(**changes: Any) -> bytes:
    fields: dict[str, Any] = msgspec.json.decode(encode(record(1, paid("s1")).envelope))
    return msgspec.json.encode(fields | changes)


UNDECODABLE = {
    "empty": b"",
    "not JSON": b"hello",
    "not UTF-8": b'{"id":"\xff"}',
    "another shape": b"{}",
    "a wrong field": altered(data={"submission_id": 7}),
    "too deep": altered(data={}).replace(b'"data":{}', b'"data":{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
}


@pytest.mark.parametrize("payload", UNDECODABLE.values(), ids=UNDECODABLE)
async def test_what_cannot_be_decoded_is_dead_lettered_at_once(client: Client, connection: Bus, payload: bytes) -> None:
    seen, gave_up = Seen(), GaveUp()
    await client.jetstream().publish("tournament.submission.s1.paid", payload)
    async with consuming(connection, seen, give_up=gave_up):
        (letter,) = await eventually(lambda: letters(connection))
        await eventually(lambda: settled(client))
    assert letter.error.startswith("it cannot be decoded: ")
    assert (letter.sequence, letter.deliveries, seen.deliveries, gave_up.calls) == (1, 1, [], [])


@pytest.mark.parametrize("newer", [{"type": "Promoted"}, {"version": 99}], ids=["type", "version"])
async def test_what_a_newer_release_wrote_is_left_to_it_for_a_while_then_dead_lettered(
    client: Client, connection: Bus, newer: dict[str, Any]
) -> None:
    await client.jetstream().publish("tournament.submission.s1.paid", altered(**newer))
    async with consuming(connection, Seen()):
        (letter,) = await eventually(lambda: letters(connection))
        await eventually(lambda: settled(client))
    assert letter.deliveries == QUEUE.max_deliveries
    assert "UnknownEvent" in letter.error


async def test_a_message_with_a_status_header_is_a_message(client: Client, connection: Bus) -> None:
    seen = Seen()
    await client.jetstream().publish("tournament.submission.s1.paid", altered(), headers={"Status": "404"})
    async with consuming(connection, seen):
        await eventually(lambda: seen.count(1))
    assert [len(batch) for batch in [await anext(connection.follow(after=0))]] == [1]


async def test_there_are_never_more_handlers_than_slots_and_nothing_waits_behind_them(
    client: Client, connection: Bus
) -> None:
    held: list[int] = []

    async def work(recorded: Recorded, delivery: int) -> None:
        held.append((await queue(client)).num_ack_pending or 0)
        await asyncio.sleep(0.05)

    seen = Seen(work)
    await store(connection, *(paid(f"s{number}") for number in range(12)))
    async with consuming(connection, seen, slots=3):
        await eventually(lambda: settled(client))
    assert (seen.most, max(held)) == (3, 3)
    assert sorted(seen.deliveries) == sorted((f"s{number}", 1) for number in range(12))


async def test_a_busy_worker_holds_nothing_else_even_after_an_outage(
    nats_server: NatsServer, client: Client, connection: Bus
) -> None:
    """A pull that was buffered while the server was away must not fetch what another evaluator could do."""
    seen = Seen(for_ever)
    async with consuming(connection, seen):
        await eventually(lambda: waiting_pulls(client, QUEUE.name))
        await restart(nats_server, away_seconds=4.0)
        await store(connection, *(paid(f"s{number}") for number in range(5)))
        await eventually(lambda: seen.count(1))
        await asyncio.sleep(0.5)
        assert (await queue(client)).num_ack_pending == 1
        others = Seen()
        async with consuming(connection, others, slots=4):
            await eventually(lambda: others.count(4))
    assert sorted(others.deliveries) == [(f"s{number}", 1) for number in range(1, 5)]


async def waiting_pulls(client: Client, consumer: str) -> int:
    return (await client.jetstream().consumer_info(STREAM, consumer)).num_waiting or 0


async def test_a_queue_goes_on_after_kills_of_the_server(
    nats_server: NatsServer, client: Client, connection: Bus
) -> None:
    async def work(recorded: Recorded, delivery: int) -> None:
        await asyncio.sleep(0.02)

    seen = Seen(work)
    async with consuming(connection, seen, slots=2):
        for round_ in range(3):
            await store(connection, *(paid(f"s{round_}-{number}") for number in range(10)))
            await eventually(functools.partial(seen.count, 10 * round_ + 3))
            await restart(nats_server)
        await eventually(lambda: settled(client))
    assert {name for name, _ in seen.deliveries} == {f"s{r}-{number}" for r in range(3) for number in range(10)}
    assert await letters(connection) == []


async def test_a_queue_that_is_not_declared_yet_is_waited_for(client: Client, connection: Bus) -> None:
    late = dataclasses.replace(QUEUE, name="late-queue")
    seen = Seen()
    await store(connection, paid("s1"))
    with structlog.testing.capture_logs() as logs:
        async with consuming(connection, seen, consumer=late):

            async def said() -> bool:
                return any("deploy.streams" in str(entry.get("error")) for entry in logs)

            await eventually(said)
            await deployed.apply(client, consumers=[late])
            await eventually(lambda: seen.count(1))


async def test_a_handler_that_is_cancelled_leaves_its_message_to_another(client: Client, connection: Bus) -> None:
    first = Seen(for_ever)
    await store(connection, paid("s1"))
    async with consuming(connection, first) as task:
        await eventually(lambda: first.count(1))
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
    assert (await queue(client)).num_ack_pending == 1
    second = Seen()
    async with consuming(connection, second):
        await eventually(lambda: settled(client))
    assert second.deliveries == [("s1", 2)]


async def test_something_cancelled_inside_a_handler_is_a_bug_and_does_not_end_the_worker(
    client: Client, connection: Bus
) -> None:
    async def work(recorded: Recorded, delivery: int) -> None:
        if delivery == 1:
            inner = asyncio.create_task(asyncio.sleep(60))
            inner.cancel()
            await inner

    seen = Seen(work)
    await store(connection, paid("s1"), paid("s2"))
    async with consuming(connection, seen) as task:
        await eventually(lambda: settled(client))
        assert not task.done()
    assert sorted(seen.deliveries) == [("s1", 1), ("s1", 2), ("s2", 1), ("s2", 2)]


async def test_a_handler_that_swallows_its_cancellation_is_the_last_one(client: Client, connection: Bus) -> None:
    async def work(recorded: Recorded, delivery: int) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    seen = Seen(work)
    await store(connection, paid("s1"), paid("s2"))
    async with consuming(connection, seen) as task:
        await eventually(lambda: seen.count(1))
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=5)
        assert done
    assert seen.deliveries == [("s1", 1)]


async def test_a_message_that_another_has_taken_over_is_left_unanswered(client: Client, connection: Bus) -> None:
    async def work(recorded: Recorded, delivery: int) -> None:
        if delivery == 1:
            raise Superseded("another has it")

    seen = Seen(work)
    await store(connection, paid("s1"))
    async with consuming(connection, seen, slots=2):
        await eventually(lambda: settled(client))
    assert seen.deliveries == [("s1", 1), ("s1", 2)]
    assert seen.moments[1] - seen.moments[0] > 0.5 * QUEUE.ack_wait_seconds


# follow ---------------------------------------------------------------------------------------------------------------


async def fill(client: Client, count: int) -> None:
    """Many events, quickly."""
    context = client.jetstream()
    for start in range(0, count, 200):
        await asyncio.gather(
            *(
                context.publish(subjects.subject_of(event), encode(record(1, event).envelope))
                for event in (started(f"s{number % 7}", attempt=number) for number in range(start, start + 200))
            )
        )


async def followed(connection: Bus, *, after: int, up_to: int) -> list[list[Recorded]]:
    batches: list[list[Recorded]] = []
    async with asyncio.timeout(60), contextlib.aclosing(connection.follow(after=after)) as following:
        async for batch in following:
            batches.append(batch)
            if batch[-1].sequence >= up_to:
                break
    return batches


def sequences(batches: Sequence[Sequence[Recorded]]) -> list[int]:
    return [recorded.sequence for batch in batches for recorded in batch]


async def test_the_stream_is_followed_in_order_and_in_batches_from_any_position(
    client: Client, connection: Bus
) -> None:
    await fill(client, 1600)
    batches = await followed(connection, after=0, up_to=1600)
    assert sequences(batches) == list(range(1, 1601))
    assert all(1 <= len(batch) <= bus.REPLAY_BATCH for batch in batches)
    assert len(batches) < 400
    assert [recorded for batch in batches for recorded in batch][:3] == (await connection.load(subjects.ALL))[:3]
    assert sequences(await followed(connection, after=1300, up_to=1600)) == list(range(1301, 1601))


async def test_a_follower_waits_at_the_end(connection: Bus) -> None:
    await store(connection, paid("s1"))
    loop = asyncio.get_running_loop()
    with structlog.testing.capture_logs() as logs:
        async with contextlib.aclosing(connection.follow(after=0)) as following:
            assert sequences([await anext(following)]) == [1]
            coming = asyncio.create_task(anext(following))
            await asyncio.wait([coming], timeout=3 * bus.REPLAY_EXPIRES_SECONDS)
            assert not coming.done()
            begin = loop.time()
            await store(connection, paid("s2"))
            assert sequences([await coming]) == [2]
    assert loop.time() - begin < bus.REPLAY_EXPIRES_SECONDS / 2
    assert logs == []


async def test_a_follower_sees_everything_once_through_kills_of_the_server(
    nats_server: NatsServer, nats_url: str, connection: Bus
) -> None:
    async def write() -> None:
        expected = 0
        for number in range(400):
            expected = (
                await connection.append(started("s1", attempt=number), aggregate=S1, expected=expected)
            ).sequence

    async with bus.connect(nats_url, producer="follower") as follower, asyncio.TaskGroup() as tasks:
        following = tasks.create_task(followed(follower, after=0, up_to=400))
        tasks.create_task(write())
        for count in (40, 160, 280):
            await eventually(functools.partial(reached, connection, count))
            await restart(nats_server)
    assert sequences(following.result()) == list(range(1, 401))


async def reached(connection: Bus, sequence: int) -> bool:
    last = await connection.last(S1)
    return last is not None and last.sequence >= sequence


async def test_a_follower_does_not_pile_up_pulls(
    client: Client, connection: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a rate at which pulls end by their time and not by their number."""
    monkeypatch.setattr(bus, "REPLAY_BATCH", 20)
    monkeypatch.setattr(bus, "REPLAY_EXPIRES_SECONDS", 0.2)
    most = 0
    following = asyncio.create_task(followed(connection, after=0, up_to=600))
    for number in range(600):
        await asyncio.sleep(0.003)
        event = started("s1", attempt=number)
        await client.jetstream().publish(subjects.subject_of(event), encode(record(1, event).envelope))
        if number % 50 == 49:
            infos = await client.jetstream().consumers_info(STREAM)
            most = max(most, *(info.num_waiting or 0 for info in infos if info.name != QUEUE.name))
    assert sequences(await following) == list(range(1, 601))
    assert 1 <= most <= 4


@pytest.mark.parametrize(
    ("payload", "error"),
    [(altered(type="Promoted"), UnknownEvent), (altered(version=99), UnknownEvent), (b"\xff", msgspec.MsgspecError)],
    ids=["type", "version", "garbage"],
)
async def test_a_follower_stops_loudly_before_what_it_cannot_read(
    client: Client, connection: Bus, payload: bytes, error: type[Exception]
) -> None:
    await store(connection, paid("s1"), requested("s1"))
    await client.jetstream().publish("tournament.submission.s1.paid", payload)
    await store(connection, paid("s2"))
    seen: list[int] = []

    async def follow() -> None:
        async for batch in connection.follow(after=0):
            seen.extend(recorded.sequence for recorded in batch)

    with pytest.raises(error):
        await follow()
    assert seen == [1, 2]


async def test_a_follower_that_leaves_early_leaves_nothing_behind(connection: Bus) -> None:
    await store(connection, paid("s1"))
    before = len(connection._client._subs)
    for _ in range(3):
        await followed(connection, after=0, up_to=1)
    assert len(connection._client._subs) == before


# connect --------------------------------------------------------------------------------------------------------------


async def test_a_server_that_is_away_at_start_is_waited_for_and_said_so_once(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    entered = asyncio.Event()

    async def service() -> None:
        async with bus.connect(server.url, producer="early") as early:
            assert early.connected
            entered.set()

    with structlog.testing.capture_logs() as logs:
        task = asyncio.create_task(service())
        await asyncio.sleep(1.5)
        assert not entered.is_set()
        await asyncio.to_thread(server.start)
        try:
            await asyncio.wait_for(task, timeout=10)
        finally:
            server.kill()
    said = [entry for entry in logs if entry["event"] == "nats is not reachable, trying again"]
    assert len(said) == 1
    assert "Connect call failed" in said[0]["error"]
    assert server.token not in str(logs)
    assert [entry for entry in logs if entry["log_level"] != "info"] == said


async def test_waiting_for_a_server_can_be_cancelled(tmp_path: Path) -> None:
    async def service() -> None:
        async with bus.connect(NatsServer(tmp_path).url, producer="early"):
            raise AssertionError("there is no server")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.6):
            await service()


async def test_leaving_while_the_server_is_away_is_quick_and_quiet(nats_server: NatsServer, nats_url: str) -> None:
    loop = asyncio.get_running_loop()
    async with bus.connect(nats_url, producer="leaving") as leaving:
        nats_server.kill()

        async def lost() -> bool:
            return not leaving.connected

        await eventually(lost)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await leaving.append(paid("s1"), aggregate=S1, expected=0)
        begin = loop.time()
    assert loop.time() - begin < 2
