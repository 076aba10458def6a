"""The API's routes: each reads, makes an answer, and nothing else. None of them writes."""

import re
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse

from services.api import answers, database, views
from services.api.database import Pool
from services.api.handlers import Progress
from shared import request as signed
from shared.faults import TransientFault
from shared.http import Problem, ProblemBody, answer_problems

MOST_ROWS = 1000
MOST_CLAIMS = 1000
"""Of one payment: anybody can claim it. The one that was accepted is always among them."""
MOST_RUNS = 1000
"""Of one submission: ten evaluations of the most runs that hparams allow."""
RETRY_AFTER_SECONDS = 5

Limit = Annotated[int, Query(ge=1, le=MOST_ROWS, description="At most this many rows.")]
MinerHotkey = Annotated[
    str | None, Query(pattern="^[1-9A-HJ-NP-Za-km-z]{1,64}$", description="Only those of this SS58 address.")
]
CodeHash = Annotated[str | None, Query(pattern="^sha256:[0-9a-f]{64}$", description="Only those of this file.")]

DESCRIPTION = """
Who is fastest, and what became of a submission. Everything here is read from the event log, a moment after it was
written there. Every error is `{"detail": …, "code": …}`: the detail for people, the code for programs.
"""


def _problem(description: str, code: str) -> dict[str, Any]:
    """One error answer in OpenAPI."""
    return {"model": ProblemBody, "description": f"{description} Code: `{code}`."}


UNAVAILABLE = _problem("The database does not answer. The same request is worth sending again.", "try_again_later")
NOT_FOUND = _problem("No such submission.", "submission_not_found")
NO_PAYMENT = _problem("Nobody has presented this payment here.", "payment_not_found")
INVALID = _problem("A parameter is not in its form.", "invalid_request")
OTHER = {"model": ProblemBody, "description": "Any other error."}
OF_ONE: dict[int | str, dict[str, Any]] = {404: NOT_FOUND, 503: UNAVAILABLE, "default": OTHER}
OF_A_PAYMENT: dict[int | str, dict[str, Any]] = {404: NO_PAYMENT, 503: UNAVAILABLE, "default": OTHER}
OF_MANY: dict[int | str, dict[str, Any]] = {422: INVALID, 503: UNAVAILABLE, "default": OTHER}
UNHEALTHY: dict[int | str, dict[str, Any]] = {503: {"model": views.Health, "description": "status is unavailable."}}


def create(pool: Pool, progress: Progress, *, competition: str) -> FastAPI:
    """The app. `competition` is the sha256 of the hparams whose leaderboard is shown."""
    app = FastAPI(title="Templar Tournament: reading", description=DESCRIPTION, redirect_slashes=False)
    answer_problems(app)

    @app.exception_handler(TransientFault)
    async def _away(request: Request, fault: TransientFault) -> JSONResponse:
        body = {"detail": f"{fault}; try again in a few seconds", "code": "try_again_later"}
        return JSONResponse(
            body, status_code=HTTPStatus.SERVICE_UNAVAILABLE, headers={"Retry-After": str(RETRY_AFTER_SECONDS)}
        )

    @app.get("/health", response_model=views.Health, responses=UNHEALTHY)
    async def health() -> Response:
        """Whether this server's answers are good: 503 when it has none, or will learn nothing new by itself."""
        row, fault = None, None
        try:
            row = next(iter(await database.read(pool, "health")), None)
        except TransientFault as error:
            fault = str(error)
        if row is None and fault is None:
            fault = database.NO_SCHEMA
        nats = progress.bus is not None and progress.bus.connected
        answer = answers.health(row, fault=fault, nats=nats, waits=progress.waits, stopped=progress.stopped)
        good = answer["status"] != "unavailable"
        return _json(answer, HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE)

    @app.get("/leaderboard", response_model=list[views.LeaderboardRow], responses=OF_MANY)
    async def leaderboard(limit: Limit = 100) -> Response:
        """The ranked submissions of the current competition, the leader first."""
        return _json(answers.leaderboard(await database.read(pool, "leaderboard", competition, limit)))

    @app.get("/submissions", response_model=list[views.Submission], responses=OF_MANY)
    async def submissions(miner_hotkey: MinerHotkey = None, code_hash: CodeHash = None, limit: Limit = 100) -> Response:
        """Submissions of everybody, or of one hotkey, or of one file; the newest first."""
        code_sha256 = None if code_hash is None else code_hash.removeprefix("sha256:")
        rows = await database.read(pool, "submissions", miner_hotkey, code_sha256, limit)
        return _json([answers.submission(row) for row in rows])

    @app.get("/submissions/{submission_id}", response_model=views.Submission, responses=OF_ONE)
    async def submission(submission_id: str) -> Response:
        """One submission, and how far it is."""
        rows = await database.read(pool, "submission", _well_formed(submission_id))
        if not rows:
            raise _not_found(submission_id)
        return _json(answers.submission(rows[0]))

    @app.get("/submissions/{submission_id}/evaluations", response_model=list[views.Evaluation], responses=OF_ONE)
    async def evaluations(submission_id: str) -> Response:
        """Every run of a submission that counted when it ended, in that order."""
        rows = await database.read(pool, "evaluations", _well_formed(submission_id), MOST_RUNS)
        if not rows:
            raise _not_found(submission_id)
        return _json([answers.evaluation(row) for row in rows if row["completed"] is not None])

    @app.get("/payments/{reference}", response_model=views.Payment, responses=OF_A_PAYMENT)
    async def payment(reference: str) -> Response:
        """What became of a payment: whether it waits for the chain, has bought a submission, or was refused."""
        try:
            signed.check_reference(reference)
        except signed.InvalidReference as error:
            raise Problem(HTTPStatus.NOT_FOUND, "payment_not_found", str(error)) from None
        rows = await database.read(pool, "payment", reference, MOST_CLAIMS)
        if not rows:
            raise Problem(
                HTTPStatus.NOT_FOUND,
                "payment_not_found",
                "this payment is not known here: it was not sent yet, or refused at once with nothing received, or it "
                "takes a moment to appear",
            )
        return _json(answers.payment(reference, rows))

    @app.get("/credits", response_model=list[views.Credit], responses=OF_MANY)
    async def granted_credits(miner_hotkey: MinerHotkey = None, limit: Limit = 100) -> Response:
        """Credits for submissions that could not be evaluated, spent ones too; the newest first."""
        return _json([answers.credit(row) for row in await database.read(pool, "credits", miner_hotkey, limit)])

    @app.get("/weights", response_model=list[views.Weights], responses=OF_MANY)
    async def weights(limit: Limit = 100) -> Response:
        """What was sent to the chain, the newest first."""
        return _json([answers.weights(row) for row in await database.read(pool, "weights", limit)])

    return app


_SUBMISSION_ID = re.compile(r"[0-9a-f]{32}")


def _well_formed(submission_id: str) -> str:
    if _SUBMISSION_ID.fullmatch(submission_id) is None:
        raise Problem(
            HTTPStatus.NOT_FOUND,
            "submission_not_found",
            "a submission's id is 32 lower-case hex digits, as they were given when it was submitted",
        )
    return submission_id


def _not_found(submission_id: str) -> Problem:
    detail = f"no submission {submission_id} is known here; one that was accepted just now takes a moment to appear"
    return Problem(HTTPStatus.NOT_FOUND, "submission_not_found", detail)


def _json(answer: object, status: int = HTTPStatus.OK) -> Response:
    """Bytes at once: FastAPI's own way validates and encodes 100 rows seven times slower."""
    return Response(msgspec.json.encode(answer), status_code=status, media_type="application/json")
