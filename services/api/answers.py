"""Rows -> the JSON that people get. Pure. views.py documents every field of it."""

from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from services.api.project import decode_state
from shared import request
from shared.events import (
    Check,
    CreditGranted,
    PaymentClaimed,
    PaymentRefused,
    RunCompleted,
    SubmissionPaid,
    Verified,
    WeightsSet,
)

NANOSECONDS = 1_000_000_000

Answer = dict[str, object]

_completed = msgspec.json.Decoder(RunCompleted)
_verified = msgspec.json.Decoder(Verified)
_weights = msgspec.json.Decoder(WeightsSet)
_claimed = msgspec.json.Decoder(PaymentClaimed)
_refused = msgspec.json.Decoder(PaymentRefused)
_paid = msgspec.json.Decoder(SubmissionPaid)
_credit = msgspec.json.Decoder(CreditGranted)


class Row(Protocol):
    """One row, by the column names in queries.sql."""

    def __getitem__(self, column: str, /) -> Any: ...


def health(row: Row | None, *, fault: str | None, nats: bool, waits: str | None, stopped: str | None) -> Answer:
    """Of the row that the database gave, or the `fault` that it gave instead of one."""
    if fault is not None:
        status, code, detail = "unavailable", "try_again_later", fault
    elif stopped is not None:
        status, code, detail = "unavailable", "projection_stopped", stopped
    elif not nats:
        status, code, detail = "degraded", "nats_away", "NATS is away: the answers are as old as position says"
    elif waits is not None:
        status, code, detail = "degraded", "projection_waits", f"{waits}: the answers are as old as position says"
    else:
        status, code, detail = "ok", None, None
    waiting = fault is not None or not nats or waits is not None
    return {
        "status": status,
        "nats": "connected" if nats else "away",
        "postgres": "connected" if fault is None else "away",
        "projection": "stopped" if stopped is not None else "waiting" if waiting else "following",
        "position": None if row is None else row["sequence"],
        "dead_letters": None if row is None else row["dead_letters"],
        "detail": detail,
        "code": code,
    }


def leaderboard(rows: Iterable[Row]) -> list[Answer]:
    """Rows that are in the order of their ranks."""
    return [
        {
            "rank": rank,
            "submission_id": row["submission_id"],
            "miner_hotkey": row["miner_hotkey"],
            "miner_uid": row["miner_uid"],
            "final_score": row["score"],
            "num_evaluations": row["num_evaluations"],
            "created_at": row["created_at"],
        }
        for rank, row in enumerate(rows, start=1)
    ]


def submission(row: Row) -> Answer:
    state = decode_state(row["state"])
    failed, requested = state.failed, state.requested
    return {
        "submission_id": state.submission_id,
        "miner_hotkey": state.paid.miner_hotkey,
        "miner_uid": state.paid.miner_uid,
        "code_hash": f"sha256:{state.paid.code_sha256}",
        "status": state.status,
        "created_at": state.created_at,
        "updated_at": state.updated_at,
        "final_score": state.final_score,
        "error_message": state.error_message,
        "reason": None if failed is None else failed.failure,
        "failed_checks": [] if failed is None else [_check(check) for check in failed.checks if not check.passed],
        "code_bytes": state.paid.code_bytes,
        "competition": None if requested is None else requested.hparams_sha256,
        "runs_required": None if requested is None else requested.runs,
        "runs_completed": len(state.runs),
        "payment_reference": state.paid.payment.reference,
        "amount_rao": state.paid.payment.amount_rao,
        "credit_id": row["credit_id"],
    }


def payment(reference: str, rows: Iterable[Row]) -> Answer:
    """Rows of one payment, in the order in which they are to be shown."""
    return {
        "reference": reference,
        "submission_id": request.submission_id(reference),
        "claims": [_claim(row) for row in rows],
    }


def _claim(row: Row) -> Answer:
    """What has bought a submission is accepted, whatever was said before or meanwhile."""
    known: PaymentClaimed | PaymentRefused | SubmissionPaid
    status: str
    code: str | None = None
    detail: str | None = None
    amount_rao: int | None = None
    if row["paid"] is not None:
        known, status = _paid.decode(row["paid"]), "accepted"
        amount_rao = known.payment.amount_rao
    elif row["refused"] is not None:
        known, status = _refused.decode(row["refused"]), "refused"
        code, detail, amount_rao = known.refusal, known.detail, known.amount_rao
    else:
        known, status = _claimed.decode(row["claimed"]), "waiting"
        detail = known.detail
    return {
        "claim_id": row["claim_id"],
        "miner_hotkey": known.miner_hotkey,
        "code_hash": f"sha256:{known.code_sha256}",
        "status": status,
        "code": code,
        "detail": detail,
        "amount_rao": amount_rao,
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
    }


def credit(row: Row) -> Answer:
    event = _credit.decode(row["event"])
    return {
        "credit_id": event.credit_id,
        "reference": request.credit_reference(event.credit_id),
        "miner_hotkey": event.miner_hotkey,
        "submission_id": event.submission_id,
        "detail": event.detail,
        "created_at": row["created_at"],
        "spent_by": row["spent_by"],
    }


def evaluation(row: Row) -> Answer:
    completed = _completed.decode(row["completed"])
    verified = None if row["verified"] is None else _verified.decode(row["verified"])
    failure = None if verified is None else verified.failure
    phases, machine = completed.phases, completed.machine
    return {
        "evaluation_id": completed.run_id,
        "submission_id": completed.submission_id,
        "evaluator_hotkey": completed.evaluator,
        "tokens_per_second": completed.tokens_per_second,
        "total_tokens": completed.tokens,
        "wall_time_seconds": completed.elapsed_ns / NANOSECONDS,
        "success": None if verified is None else failure is None,
        "error": None if verified is None or failure is None else f"{failure}: {verified.detail}",
        "created_at": row["created_at"],
        "run_index": completed.run_index,
        "evaluation_request_id": completed.evaluation_id,
        "competition": completed.hparams_sha256,
        "attempt": completed.attempt,
        "reason": failure,
        "detail": None if verified is None else verified.detail,
        "checks": [] if verified is None else [_check(check) for check in verified.checks],
        "phases": {
            "start_seconds": phases.start_ns / NANOSECONDS,
            "prepare_seconds": phases.prepare_ns / NANOSECONDS,
            "train_seconds": phases.train_ns / NANOSECONDS,
            "evidence_seconds": phases.evidence_ns / NANOSECONDS,
        },
        "machine": {
            "accelerator": machine.accelerator,
            "cpus": machine.cpus,
            "sandbox": machine.sandbox,
            "image": machine.image,
            "runtime": machine.runtime or None,
            "gpu": None if machine.gpu is None else msgspec.structs.asdict(machine.gpu),
        },
    }


def weights(row: Row) -> Answer:
    event = _weights.decode(row["event"])
    return {
        "netuid": event.netuid,
        "interval": event.interval,
        "interval_seconds": event.interval_seconds,
        "reason": event.reason,
        "hotkey": event.hotkey,
        "uid": event.uid,
        "weight": event.weight,
        "leader_submission_id": event.leader_submission_id,
        "outcome": event.outcome,
        "detail": event.detail,
        "created_at": row["created_at"],
        "attempt": event.attempt,
        "validator_hotkey": event.validator_hotkey,
        "block_number": event.block_number,
        "extrinsic": event.extrinsic,
        "sequence": row["sequence"],
    }


def _check(check: Check) -> Answer:
    return {
        "name": check.name,
        "value": check.value,
        "threshold": check.threshold,
        "margin": check.margin,
        "passed": check.passed,
        "detail": check.detail,
    }
