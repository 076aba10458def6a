"""The small bus over JetStream: conditional publish, loading an aggregate, work queues with heartbeats, ordered replay.

It creates no stream and no durable consumer: `deploy.streams` does. It never swallows a failure: a message is acked
after its handler returned, delivered again after a fault or a bug, and dead-lettered, visibly, when it is poison or
its deliveries are used up.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

import msgspec
import nats
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.client import JetStreamContext
from nats.js.errors import APIError

from shared import streams, subjects
from shared.clock import Now, utc_now
from shared.events import Envelope, Event, MessageDeadLettered, Recorded, decode, encode
from shared.faults import Conflict, PoisonMessage, Superseded, TransientFault, UnknownEvent
from shared.logs import logger

T = TypeVar("T")
NATS_FAULTS = (NatsError, OSError)
"""What an operation raises while the server is away. nats-py lets a broken pipe through; TimeoutError is an OSError."""
WRONG_LAST_SEQUENCE_CODES = (10071, 10164)
NO_MESSAGE_CODE = 10037
PUBLISH_TIMEOUT_SECONDS = 5.0
PUBLISH_ATTEMPTS = 8
DECIDE_ATTEMPTS = 10
PULL_SECONDS = 3.0
PULL_GRACE_SECONDS = 2.0
"""How long after a pull's end its answer is waited for; only a server that went away stays silent."""
RECONNECT_POLL_SECONDS = 0.1
PING_SECONDS = 10
"""A server that is silent for three of these is left and connected to again."""
LOG_SAME_ERROR_SECONDS = 30.0
ERROR_CHARACTERS = 2000
RETRY_FIRST_SECONDS = 0.5
RETRY_MAX_SECONDS = 30.0
REPLAY_BATCH = 500
REPLAY_EXPIRES_SECONDS = 5.0
REPLAY_GRACE_SECONDS = 3.0

Handler = Callable[[Recorded, int], Awaitable[None]]
"""Called with the message and its delivery count, from 1."""
GiveUp = Callable[[Recorded, int, str], Awaitable[None]]
"""Called with the message, its delivery count and why it is given up, before the dead letter is written."""


def retry_seconds(attempt: int) -> float:
    """Pause before attempt + 1: doubling from half a second, at most 30 s."""
    return min(RETRY_MAX_SECONDS, RETRY_FIRST_SECONDS * 2.0 ** min(attempt - 1, 16))


class Bus:
    """One connection, used by one service process. `producer` names the writer in every envelope."""

    def __init__(self, client: Client, *, producer: str, now: Now = utc_now) -> None:
        self._client = client
        self._js: JetStreamContext = client.jetstream(timeout=PUBLISH_TIMEOUT_SECONDS)
        self._producer = producer
        self._now = now

    @property
    def connected(self) -> bool:
        return self._client.is_connected

    async def append(self, event: Event, *, aggregate: str, expected: int, cause: Recorded | None = None) -> Recorded:
        """Store one event, if `expected` is still the last sequence of the `aggregate` filter (0: none yet).

        Safe to repeat and to cancel: when this very event is what follows `expected`, that one is returned. While the
        server is away it waits for up to two minutes.

        Raises:
            Conflict: another event was stored first.
            TransientFault: the server did not answer; whether it was stored is unknown, so ask again.
            ConnectionClosedError: the connection ended for good; so must the process.
            ValueError: the event is too large, or the filter does not cover it. Nothing was sent.
            msgspec.ValidationError: the event could not be read again. Nothing was sent.
        """
        subject = subjects.subject_of(event)
        if not _covers(aggregate, subject):
            raise ValueError(f"{aggregate} does not cover {subject}: the server would accept that silently")
        envelope = Envelope(
            id=event.id,
            type=type(event).__name__,
            version=event.version,
            time=self._now(),
            producer=self._producer,
            causation_id=None if cause is None else cause.envelope.id,
            correlation_id=subject.split(".")[2] if cause is None else cause.envelope.correlation_id,
            data=event,
        )
        headers = {
            "Nats-Msg-Id": envelope.id,
            "Nats-Expected-Last-Subject-Sequence": str(expected),
            "Nats-Expected-Last-Subject-Sequence-Subject": aggregate,
        }
        payload = encode(envelope)
        # The stream never forgets: a NaN where a number belongs would stop every reader for ever.
        decode(payload)
        if len(payload) > streams.MAX_EVENT_BYTES:
            raise ValueError(
                f"{subject}: the event has {len(payload):,} bytes, at most {streams.MAX_EVENT_BYTES:,} are allowed"
            )
        for attempt in range(1, PUBLISH_ATTEMPTS + 1):
            if attempt > 1:
                await asyncio.sleep(retry_seconds(attempt - 1))
            try:
                ack = await _cancellable(
                    self._js.publish(
                        subject, payload, timeout=PUBLISH_TIMEOUT_SECONDS, stream=streams.STREAM, headers=headers
                    )
                )
            except APIError as error:
                if error.err_code in WRONG_LAST_SEQUENCE_CODES:
                    return await self._already_stored(envelope, aggregate, after=expected)
                failure: Exception = error
            except ConnectionClosedError:
                raise
            except NATS_FAULTS as error:
                failure = error
            else:
                if ack.duplicate:
                    return await self._already_stored(envelope, aggregate, after=min(expected, ack.seq - 1))
                return Recorded(sequence=ack.seq, subject=subject, envelope=envelope)
            # Not stored, or stored without our hearing of it. The same id and expectation make asking again safe.
            logger().warning("publish unanswered", subject=subject, attempt=attempt, error=_said(failure))
        raise TransientFault(f"NATS did not store {subject} in {PUBLISH_ATTEMPTS} attempts")

    async def _already_stored(self, envelope: Envelope, aggregate: str, *, after: int) -> Recorded:
        """Our event, if it is the next one. Further on it would follow something that our decision did not know."""
        following = await self._read(aggregate, after=after)
        if following is not None and following.envelope.id == envelope.id:
            return following
        raise Conflict(f"{aggregate} has moved past sequence {after}")

    async def load(self, aggregate: str, *, after: int = 0) -> list[Recorded]:
        """All events of an aggregate with a sequence above `after`, oldest first, read from the stream's leader.

        Raises:
            TransientFault: the server did not answer.
        """
        story: list[Recorded] = []
        while (following := await self._read(aggregate, after=after)) is not None:
            story.append(following)
            after = following.sequence
        return story

    async def last(self, aggregate: str) -> Recorded | None:
        """The latest event under a filter, or None.

        Raises:
            TransientFault: the server did not answer.
        """
        return await self._read(aggregate, after=None)

    async def unfinished(self, consumer: streams.Consumer) -> int:
        """How many messages of a work queue are not delivered yet, in work, or to be delivered again.

        Raises:
            TransientFault: the server did not answer.
        """
        try:
            info = await _cancellable(self._js.consumer_info(streams.STREAM, consumer.name))
        except ConnectionClosedError:
            raise
        except NATS_FAULTS as error:
            raise TransientFault(f"NATS did not answer about {consumer.name}: {_said(error)}") from error
        return (info.num_pending or 0) + (info.num_ack_pending or 0)

    async def _read(self, aggregate: str, *, after: int | None) -> Recorded | None:
        """The first event of an aggregate above a sequence, or its latest (None)."""
        try:
            if after is None:
                raw = await _cancellable(self._js.get_last_msg(streams.STREAM, aggregate))
            else:
                raw = await _cancellable(self._js.get_msg(streams.STREAM, seq=after + 1, subject=aggregate, next=True))
        except ConnectionClosedError:
            raise
        except NATS_FAULTS as error:
            if isinstance(error, APIError) and error.err_code == NO_MESSAGE_CODE:
                return None
            raise TransientFault(f"NATS did not answer while loading {aggregate}: {_said(error)}") from error
        assert raw.seq is not None
        assert raw.subject is not None
        return Recorded(sequence=raw.seq, subject=raw.subject, envelope=decode(raw.data or b""))

    async def transact(
        self,
        aggregate: str,
        decide: Callable[[list[Recorded]], Sequence[Event]],
        *,
        cause: Recorded | None = None,
    ) -> list[Recorded]:
        """Load, decide, append; from the start again whenever another writer was first.

        `decide` must be pure and must return nothing for what its story already holds: after a crash between two
        appends it is asked again and returns the rest.

        Returns:
            The whole story of the aggregate, with what was appended.

        Raises:
            TransientFault: no answer, or still contended after many rounds.
        """
        story = await self.load(aggregate)
        for attempt in range(1, DECIDE_ATTEMPTS + 1):
            try:
                for event in decide(story):
                    expected = story[-1].sequence if story else 0
                    story.append(await self.append(event, aggregate=aggregate, expected=expected, cause=cause))
            except Conflict:
                logger().info("decided by another first", aggregate=aggregate, attempt=attempt)
                story = await self.load(aggregate)
            else:
                return story
        raise TransientFault(f"{aggregate} is contended: {DECIDE_ATTEMPTS} decisions came too late")

    async def consume(
        self,
        consumer: streams.Consumer,
        handler: Handler,
        *,
        slots: int,
        give_up: GiveUp | None = None,
    ) -> None:
        """Work on a durable queue until cancelled: one message per free slot, held by heartbeats while handled.

        Raises:
            ConnectionClosedError: the connection ended for good; so must the process.
        """
        async with asyncio.TaskGroup() as group:
            for _ in range(slots):
                group.create_task(self._work(consumer, handler, give_up))

    async def _work(self, consumer: streams.Consumer, handler: Handler, give_up: GiveUp | None) -> None:
        failures = 0
        while not _stopping():
            try:
                message = await _cancellable(self._pull(consumer))
            except ConnectionClosedError:
                raise
            except NATS_FAULTS as error:
                failures += 1
                logger().warning("pull failed", consumer=consumer.name, error=_said(error))
                await asyncio.sleep(retry_seconds(failures))
                continue
            failures = 0
            if message is not None:
                await self._handle(consumer, message, handler, give_up)

    async def _pull(self, consumer: streams.Consumer) -> Msg | None:
        """One message, or None when there was none for a while.

        Each pull has an inbox of its own that ends with it, because the server delivers nothing to where nobody
        listens. A pull that outlived its wait, or was buffered while disconnected, would otherwise bring a message that
        lies here, held by no heartbeat, while this worker is busy.
        """
        if not self._client.is_connected and not self._client.is_closed:
            await asyncio.sleep(RECONNECT_POLL_SECONDS)
            return None
        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(inbox)
        try:
            await self._client.publish(_pull_subject(consumer.name), _pull_request(1, PULL_SECONDS), reply=inbox)
            message = await subscription.next_msg(timeout=PULL_SECONDS + PULL_GRACE_SECONDS)
        except TimeoutError:
            return None
        finally:
            with contextlib.suppress(*NATS_FAULTS):
                await subscription.unsubscribe()
        if _is_delivery(message):
            return message
        _unserved(message)
        return None

    async def _handle(self, consumer: streams.Consumer, message: Msg, handler: Handler, give_up: GiveUp | None) -> None:
        sequence, deliveries = message.metadata.sequence.stream, message.metadata.num_delivered
        with structlog.contextvars.bound_contextvars(
            consumer=consumer.name, subject=message.subject, sequence=sequence, delivery=deliveries
        ):
            try:
                async with _heartbeat(message, every_seconds=consumer.ack_wait_seconds / 3):
                    await self._attempt(consumer, message, handler, give_up)
            except PoisonMessage as error:
                await self._answer(message.term)
                logger().error("poison", error=str(error))
            except Superseded as error:
                logger().warning("taken over by another", error=str(error))
            except TransientFault as error:
                logger().warning("transient fault, will be delivered again", error=str(error))
                await self._answer(lambda: message.nak(delay=consumer.pause_seconds(deliveries)))
            except Exception:  # noqa: BLE001 - the boundary where a bug becomes a redelivery, never silence
                logger().exception("bug, will be delivered again")
                await self._answer(lambda: message.nak(delay=consumer.pause_seconds(deliveries)))
            else:
                await self._answer(message.ack)
                logger().info("handled")

    async def _attempt(
        self, consumer: streams.Consumer, message: Msg, handler: Handler, give_up: GiveUp | None
    ) -> None:
        """Handle one delivery. Raises PoisonMessage after the dead letter is stored."""
        deliveries = message.metadata.num_delivered
        recorded: Recorded | None = None
        try:
            try:
                recorded = _recorded(message)
            except msgspec.MsgspecError as error:
                raise PoisonMessage(f"it cannot be decoded: {error}") from error
            if deliveries > consumer.max_deliveries:
                raise PoisonMessage(f"given up after {consumer.max_deliveries} deliveries")
            with _cancellation_inside_is_a_bug():
                await handler(recorded, deliveries)
        except PoisonMessage as error:
            why = _legible(str(error))
        except Superseded:
            raise
        except Exception as error:
            # The last delivery is given up at once rather than after one more round trip.
            if deliveries < consumer.max_deliveries:
                raise
            why = _legible(f"delivery {deliveries} failed: {type(error).__name__}: {error}")
            logger().exception("last delivery failed")
        else:
            return
        if recorded is not None and give_up is not None:
            try:
                with _cancellation_inside_is_a_bug():
                    await give_up(recorded, deliveries, why)
            except TransientFault:
                raise
            except Exception as error:  # noqa: BLE001 - the dead letter must be written whatever is wrong with giving up
                logger().exception("giving up failed")
                why = _legible(f"{why}; giving it up failed too: {type(error).__name__}: {error}")
        await self._dead_letter(consumer, message, why)
        raise PoisonMessage(why)

    async def _dead_letter(self, consumer: streams.Consumer, message: Msg, why: str) -> None:
        letter = MessageDeadLettered(
            consumer=consumer.name,
            sequence=message.metadata.sequence.stream,
            subject=message.subject,
            deliveries=message.metadata.num_delivered,
            error=why,
        )

        def decide(story: list[Recorded]) -> list[Event]:
            return [] if any(recorded.envelope.id == letter.id for recorded in story) else [letter]

        await self.transact(subjects.dead_letters(consumer.name), decide)

    async def _answer(self, answer: Callable[[], Awaitable[None]]) -> None:
        """Ack, nak or term. Losing one only means another delivery, which handlers recognise."""
        try:
            await answer()
        except NATS_FAULTS as error:
            logger().warning("answer lost", error=_said(error))

    async def follow(self, *, after: int) -> AsyncGenerator[list[Recorded], None]:
        """Every event of the stream above sequence `after`, in order, in batches, for ever; waits at the end.

        The server never redelivers to such a reader, so contiguity is checked here: on a gap, an error or a silence the
        reader starts again from its own position. A batch is yielded exactly once. Close it (`aclosing`) when leaving
        it early.

        Raises:
            UnknownEvent, msgspec.MsgspecError: a fact that this release cannot read, after all that is before it was
                yielded. Skipping it would make every state after it wrong.
            ConnectionClosedError: the connection ended for good; so must the process.
        """
        position, failures = after, 0
        while True:
            try:
                async with contextlib.aclosing(self._replay(position)) as batches:
                    async for batch in batches:
                        yield batch
                        position, failures = batch[-1].sequence, 0
            except ConnectionClosedError:
                raise
            except NATS_FAULTS as error:
                failures += 1
                logger().warning("replay interrupted", position=position, error=_said(error))
                await asyncio.sleep(retry_seconds(failures))

    async def _replay(self, position: int) -> AsyncGenerator[list[Recorded], None]:
        """One ephemeral consumer, two pipelined pulls. Raises a NATS error on any doubt."""
        wanted = ConsumerConfig(
            filter_subject=subjects.ALL,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=position + 1,
            ack_policy=AckPolicy.NONE,
            mem_storage=True,
            num_replicas=1,
            inactive_threshold=60.0,
        )
        info = await _cancellable(self._js.add_consumer(streams.STREAM, wanted))
        inbox = self._client.new_inbox()
        # By callback, because next_msg starts a task for every message, which costs more than all the rest.
        arrived: asyncio.Queue[Msg] = asyncio.Queue()
        subscription = await self._client.subscribe(inbox, cb=arrived.put, pending_msgs_limit=0, pending_bytes_limit=0)
        asked_for = 0
        batch: list[Recorded] = []
        try:
            while True:
                # Counted by message, because the server deals them out to all waiting pulls in turn.
                while asked_for <= REPLAY_BATCH:
                    pull = _pull_request(REPLAY_BATCH, REPLAY_EXPIRES_SECONDS)
                    await self._client.publish(_pull_subject(info.name), pull, reply=inbox)
                    asked_for += REPLAY_BATCH
                if batch:
                    yield batch
                    batch = []
                for message in await _drain(arrived, limit=REPLAY_BATCH):
                    if not _is_delivery(message):
                        asked_for -= _unserved(message)
                        continue
                    asked_for -= 1
                    try:
                        recorded = _recorded(message)
                    except (UnknownEvent, msgspec.MsgspecError):
                        if batch:
                            yield batch
                        raise
                    if recorded.sequence != position + 1:
                        raise NatsError(f"gap: expected {position + 1}, received {recorded.sequence}")
                    position = recorded.sequence
                    batch.append(recorded)
        finally:
            with contextlib.suppress(*NATS_FAULTS):
                await subscription.unsubscribe()


@contextlib.asynccontextmanager
async def connect(url: str, *, producer: str, now: Now = utc_now) -> AsyncIterator[Bus]:
    """Connect, for ever if need be: a server that is away is waited for, and said so in the log."""

    leaving = False
    said: tuple[str, float] = ("", -LOG_SAME_ERROR_SECONDS)

    async def on_error(error: Exception) -> None:
        nonlocal said
        what, at = _said(error), asyncio.get_running_loop().time()
        if what == said[0] and at < said[1] + LOG_SAME_ERROR_SECONDS:
            return
        said = (what, at)
        logger().warning("nats is not reachable, trying again" if isinstance(error, OSError) else "nats", error=what)

    async def on_disconnected() -> None:
        if not leaving:
            logger().warning("nats connection lost")

    async def on_reconnected() -> None:
        logger().info("nats connection back")

    async def on_closed() -> None:
        if not leaving:
            logger().error("nats connection closed for good", error=str(client.last_error))

    client = await nats.connect(
        url,
        name=producer,
        error_cb=on_error,
        disconnected_cb=on_disconnected,
        reconnected_cb=on_reconnected,
        closed_cb=on_closed,
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.25,
        connect_timeout=5,
        ping_interval=PING_SECONDS,
        max_outstanding_pings=2,
    )
    try:
        yield Bus(client, producer=producer, now=now)
    finally:
        leaving = True
        with contextlib.suppress(*NATS_FAULTS):
            await client.close()


def _recorded(message: Msg) -> Recorded:
    return Recorded(sequence=message.metadata.sequence.stream, subject=message.subject, envelope=decode(message.data))


async def _drain(arrived: asyncio.Queue[Msg], *, limit: int) -> list[Msg]:
    """Wait for one message, then take whatever else is already here."""
    async with asyncio.timeout(REPLAY_EXPIRES_SECONDS + REPLAY_GRACE_SECONDS):
        messages = [await arrived.get()]
    while len(messages) < limit and not arrived.empty():
        messages.append(arrived.get_nowait())
    return messages


def _pull_subject(consumer: str) -> str:
    return f"$JS.API.CONSUMER.MSG.NEXT.{streams.STREAM}.{consumer}"


def _pull_request(batch: int, seconds: float) -> bytes:
    return json.dumps({"batch": batch, "expires": int(seconds * 1e9)}).encode()


def _is_delivery(message: Msg) -> bool:
    """Whether it is a message of the stream, not the server's word on a pull. Headers do not tell: writers set them."""
    return message.reply.startswith("$JS.ACK.")


def _unserved(message: Msg) -> int:
    """How many messages a pull that ended did not bring.

    Raises:
        NatsError: it did not end because its time was up; the consumer is in doubt.
    """
    headers = message.headers or {}
    status = headers.get("Status")
    if status == "503":
        raise NatsError("no such consumer (`python -m deploy.streams` declares them), or NATS is still starting")
    if status not in ("404", "408"):
        raise NatsError(f"pull ended with status {status} {headers.get('Description', '')}")
    return int(headers.get("Nats-Pending-Messages", "0"))


async def _cancellable(operation: Awaitable[T]) -> T:
    """The operation, cancelled whenever its task is.

    `asyncio.wait_for`, on which nats-py rests, forgets a cancellation that comes together with the answer (until Python
    3.12), and a service that is told only once to stop would go on.
    """
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    try:
        return await operation
    finally:
        if task.cancelling() > before:
            raise asyncio.CancelledError


def _stopping() -> bool:
    """Whether the current task is being cancelled, even if something below it swallowed that."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


@contextlib.contextmanager
def _cancellation_inside_is_a_bug() -> Iterator[None]:
    """A handler that awaits something cancelled must not end its worker in silence, as a cancelled task would."""
    try:
        yield
    except asyncio.CancelledError as error:
        if _stopping():
            raise
        raise RuntimeError("something that the handler awaited was cancelled") from error


def _said(error: Exception) -> str:
    """What an error says, or at least its name: repr of a JetStream error tells nothing, nor does str of a timeout."""
    return str(error) or repr(error)


def _legible(text: str) -> str:
    """What an event can carry: not too long, and no half of a character that UTF-8 refuses."""
    return text.encode(errors="replace").decode()[:ERROR_CHARACTERS]


@contextlib.asynccontextmanager
async def _heartbeat(message: Msg, *, every_seconds: float) -> AsyncIterator[None]:
    """Extend the ack deadline while the body runs, so that long work stays with its worker while that lives."""

    async def beat() -> None:
        while True:
            await asyncio.sleep(every_seconds)
            try:
                await message.in_progress()
            except NATS_FAULTS as error:
                logger().warning("heartbeat lost", error=_said(error))

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])  # and not `await task`: suppressing its cancellation would suppress our own


def _covers(aggregate: str, subject: str) -> bool:
    """Whether a NATS filter (`*` one token, trailing `>` the rest) matches the subject."""
    pattern, tokens = aggregate.split("."), subject.split(".")
    for position, token in enumerate(pattern):
        if token == ">":
            return len(tokens) > position
        if position >= len(tokens) or token not in ("*", tokens[position]):
            return False
    return len(pattern) == len(tokens)
