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


REQUEST_EVALUATIONS = Consumer(
    name="ingest-request-evaluations", filter_subject="tournament.submission.*.paid", slots=64
)
EVALUATE = Consumer(
    name="evaluator-evaluate",
    filter_subject="tournament.submission.*.eval_requested",
    slots=256,
    max_deliveries=5,
)
JUDGE = Consumer(name="verifier-judge", filter_subject="tournament.submission.*.run_completed", slots=64)

CONSUMERS = (REQUEST_EVALUATIONS, EVALUATE, JUDGE)


def stream_config(*, replicas: int = 1) -> StreamConfig:
    """The stream: file storage, never purged, no deletes, total order."""
    return StreamConfig(
        name=STREAM,
        description="Every fact of the tournament, in order, for ever.",
        subjects=[subjects.ALL],
        storage=StorageType.FILE,
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.NEW,
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
