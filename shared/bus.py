"""The small bus over JetStream: conditional publish, loading an aggregate, work queues with heartbeats, ordered replay.

It creates no stream and no durable consumer: `deploy.streams` does. It never swallows a failure: a message is acked
after its handler returned, delivered again after a fault or a bug, and dead-lettered, visibly, when it is poison or
its deliveries are used up.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import msgspec
import nats
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import ConnectionClosedError, NoRespondersError
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.client import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from shared import streams, subjects
from shared.clock import Now, utc_now
from shared.events import Envelope, Event, MessageDeadLettered, Recorded, decode, encode
from shared.faults import Conflict, PoisonMessage, TransientFault, UnknownEvent
from shared.logs import logger

WRONG_LAST_SEQUENCE_CODES = (10071, 10164)
PUBLISH_TIMEOUT_SECONDS = 5.0
PUBLISH_ATTEMPTS = 10
DECIDE_ATTEMPTS = 10
FETCH_SECONDS = 3.0
RETRY_FIRST_SECONDS = 0.5
RETRY_MAX_SECONDS = 30.0
REPLAY_BATCH = 500
REPLAY_EXPIRES_SECONDS = 5.0

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

        Safe to repeat: when this very event is stored already, that one is returned.

        Raises:
            Conflict: another event was stored first.
            TransientFault: the server did not answer; whether it was stored is unknown, so ask again.
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
        for attempt in range(1, PUBLISH_ATTEMPTS + 1):
            try:
                ack = await self._js.publish(
                    subject, payload, timeout=PUBLISH_TIMEOUT_SECONDS, stream=streams.STREAM, headers=headers
                )
            except APIError as error:
                if error.err_code in WRONG_LAST_SEQUENCE_CODES:
                    return await self._already_stored(envelope, aggregate, after=expected)
                failure: Exception = error
            except (NatsError, TimeoutError) as error:
                failure = error
            else:
                if ack.duplicate:
                    return await self._already_stored(envelope, aggregate, after=0)
                return Recorded(sequence=ack.seq, subject=subject, envelope=envelope)
            # Not stored, or stored without our hearing of it. The same id and expectation make asking again safe.
            logger().warning("publish unanswered", subject=subject, attempt=attempt, error=repr(failure))
            await asyncio.sleep(retry_seconds(attempt))
        raise TransientFault(f"NATS did not store {subject} in {PUBLISH_ATTEMPTS} attempts")

    async def _already_stored(self, envelope: Envelope, aggregate: str, *, after: int) -> Recorded:
        for recorded in await self.load(aggregate, after=after):
            if recorded.envelope.id == envelope.id:
                return recorded
        raise Conflict(f"{aggregate} has moved past sequence {after}")

    async def load(self, aggregate: str, *, after: int = 0) -> list[Recorded]:
        """All events of an aggregate with a sequence above `after`, oldest first, read from the stream's leader.

        Raises:
            TransientFault: the server did not answer.
        """
        story: list[Recorded] = []
        sequence = after
        while True:
            try:
                raw = await self._js.get_msg(streams.STREAM, seq=sequence + 1, subject=aggregate, next=True)
            except NotFoundError:
                return story
            except (NatsError, TimeoutError) as error:
                raise TransientFault(f"NATS did not answer while loading {aggregate}: {error!r}") from error
            assert raw.seq is not None
            assert raw.subject is not None
            assert raw.data is not None
            sequence = raw.seq
            story.append(Recorded(sequence=sequence, subject=raw.subject, envelope=decode(raw.data)))

    async def last(self, aggregate: str) -> Recorded | None:
        """The latest event under a filter, or None.

        Raises:
            TransientFault: the server did not answer.
        """
        try:
            raw = await self._js.get_last_msg(streams.STREAM, aggregate)
        except NotFoundError:
            return None
        except (NatsError, TimeoutError) as error:
            raise TransientFault(f"NATS did not answer while loading {aggregate}: {error!r}") from error
        assert raw.seq is not None
        assert raw.subject is not None
        assert raw.data is not None
        return Recorded(sequence=raw.seq, subject=raw.subject, envelope=decode(raw.data))

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
        """Work on a durable queue until cancelled: one message per free slot, held by heartbeats while handled."""
        subscription = await self._bind(consumer)
        async with asyncio.TaskGroup() as group:
            for _ in range(slots):
                group.create_task(self._work(consumer, subscription, handler, give_up))

    async def _bind(self, consumer: streams.Consumer) -> JetStreamContext.PullSubscription:
        return await self._js.pull_subscribe_bind(consumer.name, stream=streams.STREAM)

    async def _work(
        self,
        consumer: streams.Consumer,
        subscription: JetStreamContext.PullSubscription,
        handler: Handler,
        give_up: GiveUp | None,
    ) -> None:
        failures = 0
        while True:
            try:
                messages = await subscription.fetch(1, timeout=FETCH_SECONDS)
            except TimeoutError:
                continue  # nothing to do, or the server restarted during the fetch
            except ConnectionClosedError:
                raise
            except NatsError as error:
                failures += 1
                logger().warning("fetch failed", consumer=consumer.name, error=repr(error))
                await asyncio.sleep(retry_seconds(failures))
                continue
            failures = 0
            for message in messages:
                await self._handle(consumer, message, handler, give_up)

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
            except TransientFault as error:
                logger().warning("transient fault, will be delivered again", error=str(error))
                await self._answer(lambda: message.nak(delay=retry_seconds(deliveries)))
            except Exception:  # noqa: BLE001 - the boundary where a bug becomes a redelivery, never silence
                logger().exception("bug, will be delivered again")
                await self._answer(lambda: message.nak(delay=retry_seconds(deliveries)))
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
            recorded = _recorded(message)
            if deliveries > consumer.max_deliveries:
                raise PoisonMessage(f"given up after {consumer.max_deliveries} deliveries")
            await handler(recorded, deliveries)
        except (PoisonMessage, UnknownEvent, msgspec.MsgspecError) as error:
            why = str(error)
        except Exception as error:
            # The last delivery is given up at once rather than after one more round trip.
            if deliveries < consumer.max_deliveries:
                raise
            why = f"delivery {deliveries} failed: {type(error).__name__}: {error}"
            logger().exception("last delivery failed")
        else:
            return
        if recorded is not None and give_up is not None:
            await give_up(recorded, deliveries, why)
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
        except (NatsError, TimeoutError) as error:
            logger().warning("answer lost", error=repr(error))

    async def follow(self, *, after: int) -> AsyncIterator[list[Recorded]]:
        """Every event of the stream above sequence `after`, in order, in batches, for ever; waits at the end.

        The server never redelivers to such a reader, so contiguity is checked here: on a gap, an error or a silence the
        reader starts again from its own position. A batch is yielded exactly once.

        Raises:
            UnknownEvent: a fact that this release cannot read. Skipping it would make every state after it wrong.
        """
        position, failures = after, 0
        while True:
            try:
                async for batch in self._replay(position):
                    yield batch
                    position, failures = batch[-1].sequence, 0
            except (NatsError, TimeoutError, NoRespondersError) as error:
                failures += 1
                logger().warning("replay interrupted", position=position, error=repr(error))
                await asyncio.sleep(retry_seconds(failures))

    async def _replay(self, position: int) -> AsyncIterator[list[Recorded]]:
        """One ephemeral consumer, two pipelined pulls. Raises a NATS error on any doubt."""
        info = await self._js.add_consumer(
            streams.STREAM,
            ConsumerConfig(
                filter_subject=subjects.ALL,
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=position + 1,
                ack_policy=AckPolicy.NONE,
                mem_storage=True,
                num_replicas=1,
                inactive_threshold=60.0,
            ),
        )
        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(inbox, pending_msgs_limit=0, pending_bytes_limit=0)
        pull_subject = f"$JS.API.CONSUMER.MSG.NEXT.{streams.STREAM}.{info.name}"
        pull = json.dumps({"batch": REPLAY_BATCH, "expires": int(REPLAY_EXPIRES_SECONDS * 1e9)}).encode()
        try:
            for _ in range(2):
                await self._client.publish(pull_subject, pull, reply=inbox)
            received = 0
            while True:
                batch: list[Recorded] = []
                for message in await _drain(subscription, limit=REPLAY_BATCH):
                    if message.headers and "Status" in message.headers:
                        _check_status(message)
                        await self._client.publish(pull_subject, pull, reply=inbox)
                        received = 0
                        continue
                    recorded = _recorded(message)
                    if recorded.sequence != position + 1:
                        raise NatsError(f"gap: expected {position + 1}, received {recorded.sequence}")
                    position = recorded.sequence
                    batch.append(recorded)
                    received += 1
                    if received == REPLAY_BATCH:
                        await self._client.publish(pull_subject, pull, reply=inbox)
                        received = 0
                if batch:
                    yield batch
        finally:
            with contextlib.suppress(NatsError):
                await subscription.unsubscribe()


@contextlib.asynccontextmanager
async def connect(url: str, *, producer: str, now: Now = utc_now) -> AsyncIterator[Bus]:
    """Connect, for ever if need be: a server that is away is waited for, and said so in the log."""

    async def on_error(error: Exception) -> None:
        logger().warning("nats", error=repr(error))

    async def on_disconnected() -> None:
        logger().warning("nats connection lost, reconnecting")

    async def on_reconnected() -> None:
        logger().info("nats connection back")

    attempt = 0
    while True:
        try:
            client = await nats.connect(
                url,
                name=producer,
                error_cb=on_error,
                disconnected_cb=on_disconnected,
                reconnected_cb=on_reconnected,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.25,
                connect_timeout=5,
                allow_reconnect=True,
            )
            break
        except (NatsError, OSError, TimeoutError) as error:
            attempt += 1
            logger().warning("nats is not reachable, trying again", error=repr(error))
            await asyncio.sleep(retry_seconds(attempt))
    try:
        yield Bus(client, producer=producer, now=now)
    finally:
        with contextlib.suppress(NatsError):
            await client.close()


def _recorded(message: Msg) -> Recorded:
    return Recorded(sequence=message.metadata.sequence.stream, subject=message.subject, envelope=decode(message.data))


async def _drain(subscription: Subscription, *, limit: int) -> list[Msg]:
    """Wait for one message, then take whatever else is already here."""
    messages = [await subscription.next_msg(timeout=REPLAY_EXPIRES_SECONDS + 3.0)]
    while len(messages) < limit and subscription.pending_msgs:
        messages.append(await subscription.next_msg(timeout=1.0))
    return messages


def _check_status(message: Msg) -> None:
    """404 and 408 end a pull that found nothing more; anything else means that the consumer is in doubt."""
    assert message.headers is not None
    status = message.headers["Status"]
    if status not in ("404", "408"):
        raise NatsError(f"pull ended with status {status} {message.headers.get('Description', '')}")


@contextlib.asynccontextmanager
async def _heartbeat(message: Msg, *, every_seconds: float) -> AsyncIterator[None]:
    """Extend the ack deadline while the body runs, so that long work stays with its worker while that lives."""

    async def beat() -> None:
        while True:
            await asyncio.sleep(every_seconds)
            try:
                await message.in_progress()
            except NatsError as error:
                logger().warning("heartbeat lost", error=repr(error))

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _covers(aggregate: str, subject: str) -> bool:
    """Whether a NATS filter (`*` one token, trailing `>` the rest) matches the subject."""
    pattern, tokens = aggregate.split("."), subject.split(".")
    for position, token in enumerate(pattern):
        if token == ">":
            return len(tokens) > position
        if position >= len(tokens) or token not in ("*", tokens[position]):
            return False
    return len(pattern) == len(tokens)
