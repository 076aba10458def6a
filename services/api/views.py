"""What the API answers with, as documentation: the contract in /openapi.json. answers.py makes the bytes, a test
compares both; nothing is validated twice for each request.
"""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from shared.events import WeightsReason
from shared.submission import Status


class Health(BaseModel):
    """Whether the answers of this server are good and up to date."""

    status: Literal["ok", "degraded", "unavailable"] = Field(
        description="degraded: it answers, and learns nothing new for the moment. unavailable: HTTP status 503."
    )
    nats: Literal["connected", "away"]
    postgres: Literal["connected", "away"] = Field(description="away: or without its schema, as detail says.")
    projection: Literal["following", "waiting", "stopped"] = Field(
        description="The copying of the stream into the database. stopped: a person has to look at it."
    )
    position: int | None = Field(description="Last stream sequence that the answers know; null: not known now.")
    dead_letters: int | None = Field(description="Messages that a service gave up on; counted up to 1000.")
    detail: str | None = Field(description="What is wrong and what to do; null when nothing is.")
    code: str | None = Field(description="nats_away, projection_waits, projection_stopped or try_again_later; or null.")


class LeaderboardRow(BaseModel):
    """One ranked submission of the current competition."""

    rank: int = Field(description="From 1. On equal scores the earlier submission is ahead.")
    submission_id: str
    miner_hotkey: str
    miner_uid: int | None
    final_score: float = Field(description="Mean tokens per second of its runs.")
    num_evaluations: int = Field(description="How many runs that is the mean of.")
    created_at: datetime = Field(description="When it was submitted.")


class Check(BaseModel):
    """One measured distance against its threshold."""

    name: str
    value: float | None = Field(description="null: it was not finite, which never passes.")
    threshold: float
    margin: float | None = Field(description="threshold - value: negative says by how much it failed.")
    passed: bool
    detail: str


class Submission(BaseModel):
    """One submission and how far it is."""

    submission_id: str
    miner_hotkey: str
    miner_uid: int | None
    code_hash: str = Field(description="sha256:… of the submitted file.", pattern="^sha256:[0-9a-f]{64}$")
    status: Status = Field(
        description="pending: waits for an evaluator. evaluating: is run. validating: is judged. finished: all runs "
        "passed and it is ranked. failed_validation: a run failed, or an operator disqualified it. error: given up for "
        "the validator's own fault."
    )
    created_at: datetime
    updated_at: datetime
    final_score: float | None = Field(
        description="Mean tokens per second of its runs, once all have passed and it counts."
    )
    error_message: str | None = Field(description="Why it failed, in one sentence; null while nothing went wrong.")
    reason: str | None = Field(description="The failure code; null unless a run failed.")
    failed_checks: list[Check] = Field(description="How far off the failed run was; empty when nothing was compared.")
    code_bytes: int
    competition: str | None = Field(description="sha256 of the hparams of its latest evaluation; null: none yet.")
    runs_required: int | None = Field(description="Runs that have to pass in that evaluation.")
    runs_completed: int = Field(description="Runs of it that have ended.")
    payment_reference: str = Field(description="What paid for it: a transfer, credit:…, or unpaid:… for nothing.")
    amount_rao: int = Field(description="What that transfer moved; 0 for a credit and for nothing.")
    credit_id: str | None = Field(description="The credit that was granted because it could not be evaluated.")


class Claim(BaseModel):
    """One miner's wish to have a payment for one code, and what became of it."""

    claim_id: str
    miner_hotkey: str
    code_hash: str = Field(description="sha256:… of the file.", pattern="^sha256:[0-9a-f]{64}$")
    status: Literal["waiting", "accepted", "refused"] = Field(
        description="waiting: for the chain. accepted: it has bought the submission. refused: code says why."
    )
    code: str | None = Field(description="Of the refusal; null unless it was refused.")
    detail: str | None = Field(description="Why it waits or was refused; null when it was accepted.")
    amount_rao: int | None = Field(description="What was paid; null: not known, or no such transfer.")
    created_at: datetime = Field(description="When it was first known.")
    updated_at: datetime


class Payment(BaseModel):
    """One payment, and everybody who wanted to have it."""

    reference: str
    submission_id: str = Field(description="The one submission that it buys; there once a claim is accepted.")
    claims: list[Claim] = Field(description="The accepted one first, then as they came; at most 1000.")


class Credit(BaseModel):
    """What a hotkey has instead of a submission that could not be evaluated: its next one is paid for."""

    credit_id: str
    reference: str = Field(description="To be sent as the payment.")
    miner_hotkey: str
    submission_id: str = Field(description="That could not be evaluated.")
    detail: str = Field(description="Why not.")
    created_at: datetime
    spent_by: str | None = Field(description="The submission that it paid for; null: it is to be had.")


class Phases(BaseModel):
    """Where the time of a run went, by the validator's clock. Train and evidence are what is scored."""

    start_seconds: float = Field(description="Until the sandbox was up.")
    prepare_seconds: float = Field(description="Import, model and warm-up; not scored.")
    train_seconds: float = Field(description="Until the submission returned.")
    evidence_seconds: float = Field(description="Until the last byte of evidence had arrived.")


class Gpu(BaseModel):
    """What the driver said around the scored part of a run; null is what this GPU does not tell."""

    uuid: str
    driver: str
    samples: int = Field(description="How often it was asked.")
    sm_clock_mhz_min: int | None
    sm_clock_mhz_max: int | None
    memory_clock_mhz_min: int | None
    temperature_celsius_max: int | None
    power_watts_max: float | None
    memory_used_bytes_max: int | None
    limits: list[str] = Field(description="What held the clocks down in the ordinary way, such as sw_power_cap.")
    slowdowns: list[str] = Field(description="Heat or a failing supply; a run that passed in spite of it is repeated.")


class Machine(BaseModel):
    """What a run was measured on."""

    accelerator: str
    cpus: list[int] = Field(description="CPU numbers that it was pinned to; empty: it was not pinned.")
    sandbox: Literal["docker", "process"]
    image: str
    runtime: str | None = Field(description="What started the container: runc or runsc (gVisor).")
    gpu: Gpu | None


class Evaluation(BaseModel):
    """One run of a submission."""

    evaluation_id: str = Field(description="Of this run.")
    submission_id: str
    evaluator_hotkey: str = Field(description='"local": a validator without a wallet.')
    tokens_per_second: float
    total_tokens: int = Field(description="Tokens that the validator handed out.")
    wall_time_seconds: float = Field(description="The scored time.")
    success: bool | None = Field(description="null until it is judged.")
    error: str | None = Field(description="Why it failed, in one sentence.")
    created_at: datetime = Field(description="When the run had ended.")
    run_index: int = Field(description="From 0, within its evaluation request.")
    evaluation_request_id: str = Field(description="The same for the runs of one evaluation; a re-test has another.")
    competition: str = Field(description="sha256 of the hparams it ran under.")
    attempt: int = Field(description="Above 1: an evaluator was lost and another went on.")
    reason: str | None = Field(description="The failure code; null unless it failed.")
    detail: str | None = Field(description="The verdict in one sentence, of passed runs too; null until it is judged.")
    checks: list[Check] = Field(description="Every check; empty until it is judged, or when nothing could be compared.")
    phases: Phases
    machine: Machine


class Weights(BaseModel):
    """What was sent to the chain in one attempt of one interval, and what it answered."""

    netuid: int
    interval: int = Field(description="Number of the interval: unix time / interval_seconds, rounded down.")
    interval_seconds: int
    reason: WeightsReason = Field(
        description="leader: the first of the leaderboard. burn_no_leader: there is none. burn_leader_deregistered: "
        "its hotkey is not on the subnet. burn_switched: an operator's decision. nothing_to_set: no burn hotkey either."
    )
    hotkey: str | None = Field(description="Who gets the emission; null: nobody was named.")
    uid: int | None
    weight: float
    leader_submission_id: str | None
    outcome: Literal["no_chain", "set", "committed", "failed", "not_sent"] = Field(
        description="set: read back from the chain. committed: the chain reveals it later. failed: refused, or not in "
        "force. not_sent: there was nothing to send, or no way to. no_chain: none is configured."
    )
    detail: str = Field(description="What the chain answered, or why it was not asked.")
    created_at: datetime
    attempt: int = Field(description="From 1, within its interval.")
    validator_hotkey: str | None = Field(description="Whose weights they are; null without a chain.")
    block_number: int | None
    extrinsic: str | None = Field(description="<block hash>-<extrinsic index>, as far as it is known.")
    sequence: int = Field(description="Its place in the event log.")
