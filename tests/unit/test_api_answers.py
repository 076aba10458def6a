"""What people are answered: every field as views.py documents it, the failure with how far off it was, no secret."""

import json
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from services.api import answers, views
from services.api.project import project
from shared import request
from shared.events import Check, Event, Payment, WeightsSet
from tests.support.stories import (
    ALICE,
    BEGIN,
    BOB,
    CODE,
    COMPETITION,
    GPU,
    TRANSFER,
    abandoned,
    claimed,
    completed,
    credited,
    disqualified,
    finished,
    paid,
    refused,
    requested,
    started,
    story,
    verified,
)

FAR = Check(name="update", value=0.9, threshold=0.2, margin=-0.7, passed=False, detail="0.9 from the reference")
NEAR = Check(name="loss", value=0.001, threshold=0.01, margin=0.009, passed=True)
NOT_A_NUMBER = Check(name="loss", value=None, threshold=0.01, margin=None, passed=False)
RUN = completed(seed=123_456_789, nonce="ab" * 32, tps=5120.0)
VERDICT = msgspec.structs.replace(verified(failure="training_mismatch"), checks=(NEAR, FAR, NOT_A_NUMBER))
CLAIM = request.claim_id(TRANSFER, miner_hotkey=ALICE, code_sha256=CODE)
BOUGHT = msgspec.structs.replace(
    paid(), payment=Payment(reference=TRANSFER, amount_rao=100_000_000, payer=BOB, recipient=BOB, block_number=7)
)
BEGUN: tuple[Event, ...] = (paid(uid=7), requested(), started())


def sent(answer: object) -> Any:
    """As it arrives."""
    return json.loads(msgspec.json.encode(answer))


def submission(*events: Event) -> Any:
    row = project({}, story(*events)).submissions["s1"]
    return sent(answers.submission({"state": row.state, "credit_id": None}))


def evaluations(*events: Event) -> list[Any]:
    rows = project({}, story(*events))
    return [
        sent(
            answers.evaluation(
                {
                    "created_at": run.created_at,
                    "completed": run.completed,
                    "verified": run.verified,
                }
            )
        )
        for run in rows.runs.values()
    ]


def same(answer: object, view: type[BaseModel]) -> bool:
    """Whether the view takes the answer strictly and would say exactly the same: no field more, none less."""
    return view.model_validate_json(json.dumps(answer), strict=True).model_dump(mode="json") == answer


def test_a_submission_that_waits() -> None:
    answer = submission(*BEGUN[:1])
    assert same(answer, views.Submission)
    assert answer == {
        "submission_id": "s1",
        "miner_hotkey": ALICE,
        "miner_uid": 7,
        "code_hash": f"sha256:{CODE}",
        "status": "pending",
        "created_at": "2026-01-02T03:04:06Z",
        "updated_at": "2026-01-02T03:04:06Z",
        "final_score": None,
        "error_message": None,
        "reason": None,
        "failed_checks": [],
        "code_bytes": 1234,
        "competition": None,
        "runs_required": None,
        "runs_completed": 0,
        "payment_reference": "unpaid:s1",
        "amount_rao": 0,
        "credit_id": None,
    }


def test_a_submission_that_passed() -> None:
    answer = submission(paid(), *finished("s1", (100.0, 300.0)))
    assert same(answer, views.Submission)
    assert (answer["status"], answer["final_score"], answer["runs_required"], answer["runs_completed"]) == (
        "finished",
        200.0,
        2,
        2,
    )
    assert answer["competition"] == COMPETITION
    assert answer["updated_at"] > answer["created_at"]


def test_a_submission_that_failed_says_why_and_by_how_much() -> None:
    answer = submission(*BEGUN, RUN, VERDICT)
    assert same(answer, views.Submission)
    assert (answer["status"], answer["reason"], answer["error_message"]) == (
        "failed_validation",
        "training_mismatch",
        "training_mismatch: it broke",
    )
    assert [check["name"] for check in answer["failed_checks"]] == ["update", "loss"]
    assert answer["failed_checks"][0] == {
        "name": "update",
        "value": 0.9,
        "threshold": 0.2,
        "margin": -0.7,
        "passed": False,
        "detail": "0.9 from the reference",
    }


def test_a_submission_that_was_given_up_is_not_blamed() -> None:
    answer = submission(*BEGUN, abandoned())
    assert same(answer, views.Submission)
    assert (answer["status"], answer["reason"]) == ("error", None)
    assert answer["error_message"] == "given up for the validator's own fault: the engine is away"


def test_a_submission_that_was_disqualified_says_why() -> None:
    answer = submission(paid(), *finished("s1", (100.0,)), disqualified())
    assert same(answer, views.Submission)
    assert (answer["status"], answer["final_score"], answer["error_message"]) == (
        "failed_validation",
        None,
        "disqualified: it reads the clock",
    )


CLAIMS: list[tuple[tuple[Event, ...], tuple[str, str | None, str | None, int | None]]] = [
    ((claimed(CLAIM),), ("waiting", None, "the block is not final yet", None)),
    ((refused(CLAIM),), ("refused", "payment_too_small", "it moved 0.05 TAO, a submission costs 0.1", 50_000_000)),
    (
        (claimed(CLAIM), refused(CLAIM)),
        ("refused", "payment_too_small", "it moved 0.05 TAO, a submission costs 0.1", 50_000_000),
    ),
    ((BOUGHT,), ("accepted", None, None, 100_000_000)),
    ((claimed(CLAIM), BOUGHT), ("accepted", None, None, 100_000_000)),
    # Two replicas, of which one could not check it; and what was refused once for a hotkey that was not registered yet.
    ((BOUGHT, claimed(CLAIM)), ("accepted", None, None, 100_000_000)),
    ((refused(CLAIM), BOUGHT), ("accepted", None, None, 100_000_000)),
    ((BOUGHT, refused(CLAIM)), ("accepted", None, None, 100_000_000)),
]


@pytest.mark.parametrize(("events", "expected"), CLAIMS)
def test_a_payment(events: tuple[Event, ...], expected: tuple[str, str | None, str | None, int | None]) -> None:
    rows = project({}, story(*events)).claims.values()
    answer = sent(answers.payment(TRANSFER, [row._asdict() for row in rows]))
    assert same(answer, views.Payment)
    assert (answer["reference"], answer["submission_id"]) == (TRANSFER, request.submission_id(TRANSFER))
    (claim,) = answer["claims"]
    assert (claim["claim_id"], claim["miner_hotkey"], claim["code_hash"]) == (CLAIM, ALICE, f"sha256:{CODE}")
    assert (claim["status"], claim["code"], claim["detail"], claim["amount_rao"]) == expected


def test_a_credit() -> None:
    (row,) = project({}, story(credited("c" * 32))).credits.values()
    answer = sent(answers.credit({**row._asdict(), "spent_by": None}))
    assert same(answer, views.Credit)
    assert answer == {
        "credit_id": "c" * 32,
        "reference": f"credit:{'c' * 32}",
        "miner_hotkey": ALICE,
        "submission_id": "s1",
        "detail": "the engine is away",
        "created_at": "2026-01-02T03:04:06Z",
        "spent_by": None,
    }


def test_a_run_before_its_verdict() -> None:
    for run in (RUN, completed(failure="timeout")):
        (answer,) = evaluations(*BEGUN, run)
        assert same(answer, views.Evaluation)
        assert (answer["success"], answer["error"], answer["reason"], answer["checks"]) == (None, None, None, [])


def test_a_run_that_passed() -> None:
    (answer,) = evaluations(*BEGUN, RUN, verified())
    assert same(answer, views.Evaluation)
    assert answer | {"phases": None} == {
        "evaluation_id": "e1-0",
        "submission_id": "s1",
        "evaluator_hotkey": "local",
        "tokens_per_second": 5120.0,
        "total_tokens": 10_240,
        "wall_time_seconds": 2.0,
        "success": True,
        "error": None,
        "created_at": "2026-01-02T03:04:09Z",
        "run_index": 0,
        "evaluation_request_id": "e1",
        "competition": COMPETITION,
        "attempt": 1,
        "reason": None,
        "detail": "every check passed",
        "checks": [],
        "phases": None,
        "machine": {
            "accelerator": "NVIDIA H100",
            "cpus": [1],
            "sandbox": "docker",
            "image": "sha256:1",
            "runtime": "runc",
            "gpu": msgspec.json.decode(msgspec.json.encode(GPU)),
        },
    }
    assert answer["phases"] == {
        "start_seconds": 1e-9,
        "prepare_seconds": 2e-9,
        "train_seconds": 3e-9,
        "evidence_seconds": 4e-9,
    }


def test_a_run_that_failed() -> None:
    (answer,) = evaluations(*BEGUN, RUN, VERDICT)
    assert same(answer, views.Evaluation)
    assert (answer["success"], answer["reason"], answer["error"]) == (
        False,
        "training_mismatch",
        "training_mismatch: it broke",
    )
    assert [(check["name"], check["value"], check["passed"]) for check in answer["checks"]] == [
        ("loss", 0.001, True),
        ("update", 0.9, False),
        ("loss", None, False),
    ]


def test_what_would_help_to_guess_the_data_is_never_told() -> None:
    told = json.dumps([submission(*BEGUN, RUN, VERDICT), *evaluations(*BEGUN, RUN, VERDICT)])
    assert str(RUN.seed) not in told
    assert RUN.nonce not in told


def test_ranks_are_the_order() -> None:
    rows = [
        {
            "submission_id": name,
            "miner_hotkey": ALICE,
            "miner_uid": None,
            "score": 2.0,
            "num_evaluations": 3,
            "created_at": BEGIN,
        }
        for name in ("s1", "s2")
    ]
    answer = sent(answers.leaderboard(rows))
    assert [(row["rank"], row["submission_id"]) for row in answer] == [(1, "s1"), (2, "s2")]
    assert all(same(row, views.LeaderboardRow) for row in answer)


def test_weights() -> None:
    event = WeightsSet(
        netuid=3,
        interval=5,
        interval_seconds=600,
        reason="leader",
        hotkey=ALICE,
        uid=7,
        weight=1.0,
        leader_submission_id="s1",
        outcome="set",
        detail="read back",
        attempt=2,
        validator_hotkey=BOB,
        block_number=12,
        extrinsic=TRANSFER,
    )
    row = {"event": msgspec.json.encode(event).decode(), "created_at": BEGIN, "sequence": 9}
    answer = sent(answers.weights(row))
    assert same(answer, views.Weights)
    assert answer == msgspec.to_builtins(event) | {"created_at": "2026-01-02T03:04:05Z", "sequence": 9}


ROW = {"sequence": 9, "dead_letters": 2}
HEALTH: list[tuple[str, answers.Row | None, dict[str, Any], tuple[str, str, str, str, str | None]]] = [
    ("all is well", ROW, {}, ("ok", "connected", "connected", "following", None)),
    ("NATS is away", ROW, {"nats": False}, ("degraded", "away", "connected", "waiting", "nats_away")),
    (
        "it reads and cannot write",
        ROW,
        {"waits": "PostgreSQL does not answer (DiskFullError)"},
        ("degraded", "connected", "connected", "waiting", "projection_waits"),
    ),
    (
        "a newer release wrote",
        ROW,
        {"stopped": "unknown event"},
        ("unavailable", "connected", "connected", "stopped", "projection_stopped"),
    ),
    (
        "PostgreSQL is away",
        None,
        {"fault": "PostgreSQL does not answer"},
        ("unavailable", "connected", "away", "waiting", "try_again_later"),
    ),
    (
        "everything at once",
        None,
        {"fault": "PostgreSQL does not answer", "nats": False, "waits": "for it", "stopped": "unknown event"},
        ("unavailable", "away", "away", "stopped", "try_again_later"),
    ),
]


@pytest.mark.parametrize(("why", "row", "given", "expected"), HEALTH, ids=[row[0] for row in HEALTH])
def test_health(
    why: str, row: answers.Row | None, given: dict[str, Any], expected: tuple[str, str, str, str, str | None]
) -> None:
    answer = answers.health(row, **{"fault": None, "nats": True, "waits": None, "stopped": None} | given)
    assert same(sent(answer), views.Health)
    assert (answer["status"], answer["nats"], answer["postgres"], answer["projection"], answer["code"]) == expected, why
    assert (answer["position"], answer["dead_letters"]) == ((9, 2) if row else (None, None))
    assert (answer["detail"] is None) == (answer["code"] is None)
