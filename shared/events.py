"""The event catalogue: every fact the system records, and the envelope it travels in.

Events are frozen. Only add fields, each with a default; a break takes a new `version` and an upcaster in
`shared/upcasters.py`. tests/golden keeps one encoded file of every version that was ever written.
"""

from datetime import datetime
from typing import Any, ClassVar, Literal

import msgspec

from shared.faults import UnknownEvent
from shared.ids import derive_id
from shared.upcasters import upcast


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all facts. `version` is the schema version that this code writes; `key` names the fields that tell one
    such fact from another, from which the event id is derived.
    """

    version: ClassVar[int] = 1
    key: ClassVar[tuple[str, ...]]

    @property
    def id(self) -> str:
        """Derived: the same fact always has the same id, whoever writes it and however often."""
        return derive_id(type(self).__name__, *(getattr(self, field) for field in self.key))


class Payment(msgspec.Struct, frozen=True, kw_only=True):
    """What was paid for a submission: a transfer on the chain, a credit, or nothing in unpaid local mode."""

    reference: str
    """`<block hash>-<extrinsic index>` of a transfer, `credit:<credit id>`, or `unpaid:<derived>`."""
    amount_rao: int
    """What the chain's Transfer event moved; it may be more than the cost. 0 for a credit and without a chain."""
    payer: str | None = None
    """The coldkey that paid, and owned the miner's hotkey at that block."""
    recipient: str | None = None
    block_number: int | None = None

    @property
    def is_paid(self) -> bool:
        """Whether somebody gave something for it: a transfer, or a credit."""
        return not self.reference.startswith("unpaid:")


class SignedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a miner's hotkey signed. Together with hotkey, code and payment it makes the message of
    `shared/request.py`, so that everybody can check the signature again.
    """

    netuid: int
    recipient: str
    signed_at_seconds: int
    """Unix time, by the miner's clock."""
    signature: str
    """sr25519, 0x and 128 hex digits."""


class PaymentClaimed(Event, frozen=True, kw_only=True):
    """A signed submission whose payment cannot be checked yet: it waits for the chain. Its code is in the artifact
    store. It reserves nothing: anybody can claim anybody's payment, and only a proven one becomes SubmissionPaid.
    """

    key: ClassVar[tuple[str, ...]] = ("claim_id",)
    claim_id: str
    """Derived from payment, hotkey and code."""
    submission_id: str
    """That the payment will buy."""
    miner_hotkey: str
    code_sha256: str
    code_bytes: int
    payment_reference: str
    request: SignedRequest
    detail: str
    """Why it waits."""


class PaymentRefused(Event, frozen=True, kw_only=True):
    """A payment that bought nothing: a claim that was refused in the end, or money that did reach the validator."""

    key: ClassVar[tuple[str, ...]] = ("claim_id",)
    claim_id: str
    submission_id: str
    miner_hotkey: str
    code_sha256: str
    payment_reference: str
    refusal: str
    """A `Refusal` code."""
    detail: str
    payer: str | None
    amount_rao: int | None
    """What was paid; None when there is no such transfer."""


class CreditGranted(Event, frozen=True, kw_only=True):
    """The validator could not evaluate a paid submission, by its own fault: its hotkey's next one is paid for.

    It is spent by the submission whose payment reference is `credit:<credit_id>`; there can be one only.
    """

    key: ClassVar[tuple[str, ...]] = ("credit_id",)
    credit_id: str
    """Derived from the evaluation."""
    miner_hotkey: str
    submission_id: str
    """That could not be evaluated."""
    evaluation_id: str
    detail: str
    """Why not."""


class SubmissionPaid(Event, frozen=True, kw_only=True):
    """A miner's code was accepted and paid for. The code itself is in the artifact store."""

    key: ClassVar[tuple[str, ...]] = ("submission_id",)
    submission_id: str
    miner_hotkey: str
    miner_uid: int | None
    code_sha256: str
    code_bytes: int
    payment: Payment
    request: SignedRequest | None = None
    """None in unpaid local mode, where nothing is signed."""


class EvalRequested(Event, frozen=True, kw_only=True):
    """Evaluate this submission under these hparams (an artifact, by its sha256)."""

    key: ClassVar[tuple[str, ...]] = ("evaluation_id",)
    submission_id: str
    evaluation_id: str
    code_sha256: str
    hparams_sha256: str
    runs: int
    """How many runs must pass before the submission is ranked."""
    reason: Literal["submitted", "retest"] = "submitted"


class EvaluationStarted(Event, frozen=True, kw_only=True):
    """An evaluator took the evaluation. `attempt` is its fencing token: only the latest attempt may report."""

    key: ClassVar[tuple[str, ...]] = ("evaluation_id", "attempt", "instance")
    submission_id: str
    evaluation_id: str
    attempt: int
    evaluator: str
    """Hotkey of the validator that measures it; "local" without a wallet."""
    instance: str
    """Unique to one process life. Part of the id: two evaluators that claim the same attempt are two facts."""
    sandbox: Literal["docker", "process"]


class Phases(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time of one run went, by the controller's clock, nanoseconds. Train and evidence are what is scored."""

    start_ns: int = 0
    """From asking for the sandbox until the runner connected."""
    prepare_ns: int = 0
    """Import, model, warm-up. Capped, not scored."""
    train_ns: int = 0
    """First byte of fresh data sent until the runner said that the submission returned."""
    evidence_ns: int = 0
    """Nonce sent until the last byte of evidence arrived. Part of the scored time."""


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """What the driver said of the GPU around the timed part of one run. None is what this one does not tell."""

    uuid: str
    driver: str
    """Version of the driver."""
    samples: int
    """How often it was asked."""
    sm_clock_mhz_min: int | None
    sm_clock_mhz_max: int | None
    memory_clock_mhz_min: int | None
    temperature_celsius_max: int | None
    power_watts_max: float | None
    memory_used_bytes_max: int | None
    limits: tuple[str, ...]
    """What held the clocks down in the ordinary way, such as `sw_power_cap`."""
    slowdowns: tuple[str, ...]
    """What must not happen, such as `hw_thermal_slowdown`: a run that passed in spite of it is done again."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What a run was measured on."""

    hostname: str
    accelerator: str
    cpus: tuple[int, ...]
    """Host CPU numbers that the sandbox was pinned to; empty when it was not pinned."""
    sandbox: Literal["docker", "process"]
    image: str
    """Image digest, or the Python and torch versions of a `process` sandbox."""
    runtime: str = ""
    """What started the container: `runc` or `runsc` (gVisor). Empty without one, and in events of older releases."""
    gpu: Gpu | None = None


class RunCompleted(Event, frozen=True, kw_only=True):
    """One run of a submission ended: measured (`failure` is None), or failed by the miner's own fault."""

    key: ClassVar[tuple[str, ...]] = ("run_id", "attempt")
    submission_id: str
    evaluation_id: str
    run_id: str
    run_index: int
    attempt: int
    hparams_sha256: str
    failure: str | None
    """A `Failure` code, or None when the run produced evidence to judge."""
    detail: str
    evaluator: str
    """Hotkey of the validator that measured it; "local" without a wallet."""
    tokens: int
    """Tokens that the controller handed out."""
    elapsed_ns: int
    tokens_per_second: float
    phases: Phases
    seed: int
    """Of the fresh data. Drawn by the controller, never sent to the sandbox."""
    nonce: str
    """Hex. Revealed to the sandbox only after the submission had returned."""
    evidence_sha256: str | None
    reference_sha256: str | None
    log_tail: str
    machine: Machine


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One measured distance against its threshold; `margin` is threshold - value, negative when it failed."""

    name: str
    value: float | None
    """None when the value was not finite: NaN never passes a comparison here."""
    threshold: float
    margin: float | None
    passed: bool
    detail: str = ""


class Verified(Event, frozen=True, kw_only=True):
    """The verdict on one run, with every check."""

    key: ClassVar[tuple[str, ...]] = ("run_id",)
    submission_id: str
    evaluation_id: str
    run_id: str
    run_index: int
    failure: str | None
    """None when the run passed."""
    detail: str
    checks: tuple[Check, ...]
    tokens_per_second: float


class EvaluationAbandoned(Event, frozen=True, kw_only=True):
    """Given up for the validator's own fault, after retries. Never blamed on the miner."""

    key: ClassVar[tuple[str, ...]] = ("evaluation_id",)
    submission_id: str
    evaluation_id: str
    detail: str
    deliveries: int


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One ranked submission. `score` is the mean tokens per second of its passed runs."""

    rank: int
    submission_id: str
    miner_hotkey: str
    miner_uid: int | None
    score: float
    submitted_sequence: int
    """Stream sequence of its SubmissionPaid: the earlier wins a tie."""


class LeaderboardChanged(Event, frozen=True, kw_only=True):
    """A submission was ranked, or left the ranking. The whole standing is the fold of all verdicts; this carries its
    head.
    """

    key: ClassVar[tuple[str, ...]] = ("competition", "cause_sequence")
    competition: str
    """The hparams' sha256: scores under different hparams are never compared."""
    cause_sequence: int
    """Stream sequence of the event that changed it: the Verified that completed the entry, Disqualified, Reinstated."""
    entry: Standing | None
    """None when a submission left."""
    ranked: int
    """How many submissions are ranked now."""
    top: tuple[Standing, ...]
    """The first `TOP_ROWS` rows, leader first."""
    removed_submission_id: str | None = None
    """The submission that left."""


class Disqualified(Event, frozen=True, kw_only=True):
    """An operator took a submission out of the ranking, and says why."""

    key: ClassVar[tuple[str, ...]] = ("submission_id", "after_sequence")
    submission_id: str
    after_sequence: int
    """The last of the submission's story that the operator knew."""
    reason: str
    operator: str


class Reinstated(Event, frozen=True, kw_only=True):
    """An operator took a disqualification back."""

    key: ClassVar[tuple[str, ...]] = ("submission_id", "after_sequence")
    submission_id: str
    after_sequence: int
    reason: str
    operator: str


class BurnSwitched(Event, frozen=True, kw_only=True):
    """An operator turned the burn switch: while it is on, the burn hotkey gets the emission whoever leads."""

    key: ClassVar[tuple[str, ...]] = ("netuid", "after_sequence")
    netuid: int
    after_sequence: int
    """The last switch that the operator knew; 0 for the first."""
    on: bool
    reason: str
    operator: str


WeightsReason = Literal["leader", "burn_no_leader", "burn_leader_deregistered", "burn_switched", "nothing_to_set"]


class WeightsDecided(Event, frozen=True, kw_only=True):
    """What one replica is about to send to the chain. Whoever comes after it asks the chain before sending anything."""

    key: ClassVar[tuple[str, ...]] = ("netuid", "interval_seconds", "interval", "attempt")
    netuid: int
    interval: int
    interval_seconds: int
    attempt: int
    """From 1; the fencing token: only the latest attempt may report."""
    instance: str
    """Unique to one process life."""
    reason: WeightsReason
    hotkey: str
    uid: int
    leader_submission_id: str | None
    chain_block: int
    """Height of the chain when this was decided. Weights set above it are this attempt's."""


class WeightsSet(Event, frozen=True, kw_only=True):
    """What was sent to the chain in one interval, why, and what the chain answered."""

    key: ClassVar[tuple[str, ...]] = ("netuid", "interval_seconds", "interval", "attempt")
    netuid: int
    interval: int
    """Number of the interval: floor(unix time / interval length)."""
    interval_seconds: int
    reason: WeightsReason
    hotkey: str | None
    uid: int | None
    weight: float
    leader_submission_id: str | None
    outcome: Literal["no_chain", "set", "committed", "failed", "not_sent"]
    """`set`: read back from the chain. `committed`: the chain reveals it later. `failed`: the chain refused it or it is
    not in force. `not_sent`: there was nothing to send, or no way to.
    """
    detail: str
    """What the chain answered, or why it was not asked."""
    attempt: int = 1
    validator_hotkey: str | None = None
    """Whose weights they are. None without a chain."""
    block_number: int | None = None
    extrinsic: str | None = None
    """`<block hash>-<extrinsic index>`, as far as it is known."""


class MessageDeadLettered(Event, frozen=True, kw_only=True):
    """A message that a consumer gave up on: it was poison, or it failed on every delivery."""

    key: ClassVar[tuple[str, ...]] = ("consumer", "sequence")
    consumer: str
    sequence: int
    subject: str
    deliveries: int
    error: str


CATALOGUE: dict[str, type[Event]] = {
    kind.__name__: kind
    for kind in (
        PaymentClaimed,
        PaymentRefused,
        CreditGranted,
        SubmissionPaid,
        EvalRequested,
        EvaluationStarted,
        RunCompleted,
        Verified,
        EvaluationAbandoned,
        LeaderboardChanged,
        Disqualified,
        Reinstated,
        BurnSwitched,
        WeightsDecided,
        WeightsSet,
        MessageDeadLettered,
    )
}

TOP_ROWS = 10


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What every event carries besides its own data."""

    id: str
    """Derived from cause and type; also the Nats-Msg-Id, so a repeated publish is recognised."""
    type: str
    version: int
    time: datetime
    producer: str
    causation_id: str | None
    """The event that led to this one; None for what came from outside."""
    correlation_id: str
    """The submission (or other aggregate) whose story this belongs to."""
    data: Event


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """An envelope with its place in the stream."""

    sequence: int
    subject: str
    envelope: Envelope

    @property
    def event(self) -> Event:
        return self.envelope.data


class _Wire(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    type: str
    version: int
    time: datetime
    producer: str
    causation_id: str | None
    correlation_id: str
    data: msgspec.Raw


_wire = msgspec.json.Decoder(_Wire)
_decoders = {name: msgspec.json.Decoder(kind) for name, kind in CATALOGUE.items()}
_encoder = msgspec.json.Encoder()


def encode(envelope: Envelope) -> bytes:
    """JSON bytes, field order fixed by the declarations above."""
    return _encoder.encode(envelope)


def decode(raw: bytes) -> Envelope:
    """Decode and upcast to the current version.

    Raises:
        UnknownEvent: no such type, or a version above ours, or one below it without an upcaster.
        msgspec.MsgspecError: the bytes are not such an envelope.
    """
    try:
        return _decode(raw)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error


def _decode(raw: bytes) -> Envelope:
    wire = _wire.decode(raw)
    kind = CATALOGUE.get(wire.type)
    if kind is None:
        raise UnknownEvent(f"unknown event type {wire.type!r} (version {wire.version})")
    if wire.version == kind.version:
        data = _decoders[wire.type].decode(wire.data)
    else:
        fields: dict[str, Any] = msgspec.json.decode(wire.data)
        data = msgspec.convert(upcast(wire.type, wire.version, fields, to=kind.version), kind)
    return Envelope(
        id=wire.id,
        type=wire.type,
        version=kind.version,
        time=wire.time,
        producer=wire.producer,
        causation_id=wire.causation_id,
        correlation_id=wire.correlation_id,
        data=data,
    )
