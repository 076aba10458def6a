"""The ingest service's routes: what a miner sends and is answered. No rule of the tournament is here."""

import asyncio
import contextlib
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.types import Receive, Scope, Send

from services.ingest import handlers, upload
from services.ingest.check import SourceCheck
from services.ingest.handlers import PaymentAlreadyUsed, Submitted
from shared.admission import InvalidSubmission
from shared.artifacts import ArtifactStore
from shared.bus import Bus, retry_seconds
from shared.faults import TransientFault
from shared.http import Problem, ProblemBody, answer_problems
from shared.logs import logger
from shared.submission import Status

PATIENCE_SECONDS = 10.0
"""How long a request waits for NATS or the disk; enough for a restart, or the election of a new leader."""
RETRY_AFTER_SECONDS = 5
LINGER_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Ingest:
    """What the routes work with."""

    bus: asyncio.Future[Bus]
    """Done once NATS was reached. The routes answer before: with "try again later"."""
    artifacts: ArtifactStore
    check: SourceCheck
    max_code_bytes: int
    api_url: str


class Health(BaseModel):
    status: str = Field(examples=["ok"])


class Accepted(BaseModel):
    """A submission that was accepted, now or before."""

    submission_id: str = Field(description="Derived from its payment: the same request is the same submission.")
    status: Status = Field(description="Where it stands now.")
    status_url: str = Field(description="Where to watch it.")
    code_hash: str = Field(description="Of the file as it was received.", examples=["sha256:9f86d081884c7d65…"])
    created_at: datetime = Field(description="When it was first accepted, UTC.")


def _problem(description: str, *codes: str) -> dict[str, Any]:
    """One error answer in OpenAPI."""
    return {"model": ProblemBody, "description": f"{description} Code: {' or '.join(f'`{code}`' for code in codes)}."}


UNAVAILABLE = _problem("NATS or the disk does not answer. The same request again is safe.", "try_again_later")
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"model": Accepted, "description": "It was there already."},
    201: {"description": "Accepted and stored."},
    408: _problem("The body did not arrive in time.", "request_timeout"),
    409: _problem("The payment has bought another submission.", "payment_already_used"),
    413: _problem("More bytes than a submission may have.", "body_too_large"),
    422: _problem(
        "Not exactly one file and one address, or the file cannot be a submission.",
        "invalid_request",
        "invalid_submission",
    ),
    503: UNAVAILABLE,
}


def create(ingest: Ingest) -> FastAPI:
    """The app."""
    app = FastAPI(
        title="Templar Tournament: submitting",
        description='Every error is `{"detail": …, "code": …}`: the detail for people, the code for programs.',
    )
    answer_problems(app)

    @app.exception_handler(upload.BodyTooLarge)
    async def _too_large(request: Request, problem: upload.BodyTooLarge) -> JSONResponse:
        return _LastAnswer({"detail": problem.detail, "code": problem.code}, status_code=problem.status)

    @app.get("/health", responses={503: UNAVAILABLE})
    async def health() -> Health:
        """Whether submissions can be accepted now."""
        if not (ingest.bus.done() and ingest.bus.result().connected):
            raise _try_again_later("NATS is not connected")
        return Health(status="ok")

    @app.post(
        "/submissions", status_code=HTTPStatus.CREATED, responses=ANSWERS, openapi_extra=upload.SCHEMA, tags=["miners"]
    )
    async def submit(request: Request, response: Response) -> Accepted:
        """Submit a train.py. Safe to repeat: the same file of the same hotkey is the same submission."""
        received = await upload.read(request, max_code_bytes=ingest.max_code_bytes)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                submitted = await _until_stored(ingest, received)
        except TimeoutError:
            logger().warning("gave up on a request", miner_hotkey=received.miner_hotkey)
            raise _try_again_later("the submission could not be stored now") from None
        except InvalidSubmission as error:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_submission", str(error)) from None
        except PaymentAlreadyUsed as error:
            raise Problem(HTTPStatus.CONFLICT, "payment_already_used", str(error)) from None
        if not submitted.created:
            response.status_code = HTTPStatus.OK
        submission = submitted.submission
        return Accepted(
            submission_id=submission.submission_id,
            status=submission.status,
            status_url=f"{ingest.api_url}/submissions/{submission.submission_id}",
            code_hash=f"sha256:{submission.paid.code_sha256}",
            created_at=submission.created_at,
        )

    return app


async def _until_stored(ingest: Ingest, received: upload.Upload) -> Submitted:
    """Check and store, again and again while something of ours does not answer. The caller bounds it."""
    attempt = 0
    while True:
        try:
            await ingest.check(received.source)
            bus = await asyncio.shield(ingest.bus)
            return await handlers.submit(bus, ingest.artifacts, received.source, miner_hotkey=received.miner_hotkey)
        except TransientFault as fault:
            attempt += 1
            logger().warning("not stored yet", error=str(fault), attempt=attempt)
            await asyncio.sleep(retry_seconds(attempt))


def _try_again_later(what: str) -> Problem:
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "try_again_later",
        f"{what}; send the same request again in a few seconds: it counts once, however often it is sent",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


class _LastAnswer(JSONResponse):
    """An answer to a request that is still arriving. What follows is thrown away for a moment before the connection is
    closed: a client whose bytes hit a closed connection may never see why.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers["Connection"] = "close"
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while (await receive()).get("more_body"):
                    pass
        await send({"type": "http.response.body", "body": b""})
