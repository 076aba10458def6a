"""The one stream and its consumers, declared. A deploy step applies this; services only bind to it."""

from dataclasses import dataclass

from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)

from shared import subjects

STREAM = "TOURNAMENT"

DUPLICATE_WINDOW_SECONDS = 120.0
MAX_EVENT_BYTES = 512 * 1024
"""Of an encoded event. Well below the server's max_payload, beyond which it would close the connection for good."""
MAX_HEADERS_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Consumer:
    """A durable work queue over the stream, shared by all replicas of one service."""

    name: str
    filter_subject: str
    slots: int
    """max_ack_pending: how many messages may be in work at once, over all replicas."""
    ack_wait_seconds: float = 30.0
    """Without a heartbeat for this long the message goes to another replica."""
    max_deliveries: int = 10
    """Then the message is given up, visibly. Enforced by the bus, so that giving up can be recorded."""
    pauses_seconds: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
    """After each delivery that failed, before the next; the last one repeats."""

    def pause_seconds(self, deliveries: int) -> float:
        """How long to wait after so many failed deliveries."""
        return self.pauses_seconds[min(deliveries, len(self.pauses_seconds)) - 1]


REQUEST_EVALUATIONS = Consumer(
    name="ingest-request-evaluations", filter_subject="tournament.submission.*.paid", slots=64
)
CHECK_CLAIMS = Consumer(
    name="ingest-check-claims",
    filter_subject="tournament.claim.*.claimed",
    # One that waits for its next delivery occupies a slot, and must not keep another from its first.
    slots=10_000,
    # A claim waits for the chain as long as that takes: it is refused, or proven, and never given up.
    max_deliveries=1_000_000,
    pauses_seconds=(2.0, 4.0, 6.0, 12.0, 24.0, 60.0),
)
GRANT_CREDITS = Consumer(
    name="ingest-grant-credits", filter_subject="tournament.submission.*.evaluation_abandoned", slots=64
)
EVALUATE = Consumer(
    name="evaluator-evaluate",
    filter_subject="tournament.submission.*.eval_requested",
    slots=256,
    # A killed evaluator's work is taken over soon. It says so itself when it lives, however long a run takes.
    ack_wait_seconds=15.0,
    # Five minutes in all, so that an engine can be restarted and an image built without costing anybody a submission.
    max_deliveries=6,
    pauses_seconds=(10.0, 20.0, 40.0, 80.0, 160.0),
)
JUDGE = Consumer(name="verifier-judge", filter_subject="tournament.submission.*.run_completed", slots=64)

CONSUMERS = (REQUEST_EVALUATIONS, CHECK_CLAIMS, GRANT_CREDITS, EVALUATE, JUDGE)


def stream_config(*, replicas: int = 1) -> StreamConfig:
    """The stream: file storage, never purged, no deletes, total order."""
    return StreamConfig(
        name=STREAM,
        description="Every fact of the tournament, in order, for ever.",
        subjects=[subjects.ALL],
        storage=StorageType.FILE,
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.NEW,
        max_msg_size=MAX_EVENT_BYTES + MAX_HEADERS_BYTES,
        num_replicas=replicas,
        duplicate_window=DUPLICATE_WINDOW_SECONDS,
        allow_direct=True,
        deny_delete=True,
        deny_purge=True,
    )


def consumer_config(consumer: Consumer) -> ConsumerConfig:
    """A pull consumer with explicit acks. The server's own delivery bound stays off: see `max_deliveries`."""
    return ConsumerConfig(
        durable_name=consumer.name,
        filter_subject=consumer.filter_subject,
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=consumer.ack_wait_seconds,
        max_deliver=-1,
        max_ack_pending=consumer.slots,
    )
