"""What the API answers with, as documentation: the contract in /openapi.json. answers.py makes the bytes, a test
compares both; nothing is validated twice for each request.
"""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

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
        "passed and it is ranked. failed_validation: a run failed. error: given up for the validator's own fault."
    )
    created_at: datetime
    updated_at: datetime
    final_score: float | None = Field(description="Mean tokens per second of its runs, once all have passed.")
    error_message: str | None = Field(description="Why it failed, in one sentence; null while nothing went wrong.")
    reason: str | None = Field(description="The failure code; null unless a run failed.")
    failed_checks: list[Check] = Field(description="How far off the failed run was; empty when nothing was compared.")
    code_bytes: int
    competition: str | None = Field(description="sha256 of the hparams of its latest evaluation; null: none yet.")
    runs_required: int | None = Field(description="Runs that have to pass in that evaluation.")
    runs_completed: int = Field(description="Runs of it that have ended.")


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
    """What was sent to the chain in one interval, and what it answered."""

    netuid: int
    interval: int = Field(description="Number of the interval: unix time / interval_seconds, rounded down.")
    interval_seconds: int
    reason: str
    hotkey: str | None
    uid: int | None
    weight: float
    leader_submission_id: str | None
    outcome: str
    detail: str
    created_at: datetime
