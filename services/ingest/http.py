"""The ingest service's routes: what a miner sends and is answered. No rule of the tournament is here."""

import asyncio
import contextlib
import hashlib
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.types import Receive, Scope, Send

from services.ingest import decide, handlers, signature, upload
from services.ingest.check import SourceCheck
from services.ingest.handlers import CannotWait, NotPaid, Submitted, Till, Waiting
from shared.admission import InvalidSubmission
from shared.artifacts import ArtifactStore
from shared.bus import Bus, retry_seconds
from shared.clock import Now
from shared.events import PaymentClaimed
from shared.faults import Refusal, TransientFault
from shared.hparams import Hparams
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
    competition: Hparams
    api_url: str
    till: Till | None
    """None: unpaid local mode."""
    genesis_hash: asyncio.Future[str]
    """Done once the chain was reached."""
    now: Now


class Health(BaseModel):
    status: str = Field(examples=["ok"])


class Accepted(BaseModel):
    """A submission that was accepted, now or before."""

    submission_id: str = Field(description="Derived from its payment: the same request is the same submission.")
    status: Status = Field(description="Where it stands now.")
    status_url: str = Field(description="Where to watch it.")
    code_hash: str = Field(description="Of the file as it was received.", examples=["sha256:9f86d081884c7d65…"])
    created_at: datetime = Field(description="When it was first accepted, UTC.")


class Claimed(BaseModel):
    """A submission whose payment cannot be checked yet. Nothing more has to be sent."""

    claim_id: str = Field(description="Derived from payment, hotkey and code.")
    submission_id: str = Field(description="What it will be once the payment is proven.")
    status: Literal["waiting"] = Field(description="It goes on by itself.")
    status_url: str = Field(description="Where to watch it.")
    code_hash: str = Field(description="Of the file as it was received.", examples=["sha256:9f86d081884c7d65…"])
    detail: str = Field(description="Why it waits.")
    created_at: datetime = Field(description="When it was first claimed, UTC. The payment's age counts up to then.")


class Info(BaseModel):
    """What a miner has to know before paying."""

    netuid: int = Field(description="The subnet whose emission is paid out.")
    submission_cost_rao: int = Field(description="What a submission costs; more is accepted, and not given back.")
    payment_max_age_seconds: int = Field(description="How long after its block a payment can be used.")
    payment_recipient: str | None = Field(description="The coldkey to pay to; null: submissions are free.")
    genesis_hash: str | None = Field(
        description="Of the chain on which to pay; null: there is none, or it was not reached yet."
    )
    hparams: str = Field(description="Name of the competition.", examples=["demo"])
    hparams_sha256: str = Field(description="Its identity.")
    max_code_bytes: int = Field(description="The largest file.")
    api_url: str = Field(description="Where submissions are watched.")
    time_seconds: float = Field(description="The validator's clock, Unix time: `signed_at` is compared with it.")


def _problem(description: str, *codes: str) -> dict[str, Any]:
    """One error answer in OpenAPI."""
    return {"model": ProblemBody, "description": f"{description} Code: {' or '.join(f'`{code}`' for code in codes)}."}


UNAVAILABLE = _problem("NATS or the disk does not answer. The same request again is safe.", "try_again_later")
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"model": Accepted, "description": "It was there already."},
    201: {"description": "Accepted and stored."},
    202: {"model": Claimed, "description": "Stored; its payment cannot be checked yet, and is by itself when it can."},
    401: _problem("Not signed by the hotkey, for this validator, just now.", "request_stale", "signature_invalid"),
    402: _problem(
        "The payment does not buy this submission.",
        *(refusal for refusal in Refusal if refusal is not Refusal.ALREADY_USED),
    ),
    408: _problem("The body did not arrive in time.", "request_timeout"),
    409: _problem("The payment has bought another submission.", Refusal.ALREADY_USED),
    413: _problem("More bytes than a submission may have.", "body_too_large"),
    422: _problem(
        "Not exactly one of each field in its form, or the file cannot be a submission.",
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

    @app.get("/info", tags=["miners"])
    async def info() -> Info:
        """What to pay, to whom, and for what."""
        competition, economy = ingest.competition, ingest.competition.economy
        return Info(
            netuid=economy.netuid,
            submission_cost_rao=economy.submission_cost_rao,
            payment_max_age_seconds=economy.payment_max_age_seconds,
            payment_recipient=None if ingest.till is None else ingest.till.recipient,
            genesis_hash=ingest.genesis_hash.result() if ingest.genesis_hash.done() else None,
            hparams=competition.name,
            hparams_sha256=competition.sha256,
            max_code_bytes=competition.max_code_bytes,
            api_url=ingest.api_url,
            time_seconds=ingest.now().timestamp(),
        )

    @app.post(
        "/submissions",
        status_code=HTTPStatus.CREATED,
        response_model=Accepted,
        responses=ANSWERS,
        openapi_extra=upload.SCHEMA,
        tags=["miners"],
    )
    async def submit(request: Request, response: Response) -> Accepted | JSONResponse:
        """Submit a train.py. Safe to repeat: the same payment, hotkey and file is the same submission."""
        received = await upload.read(
            request, max_code_bytes=ingest.competition.max_code_bytes, paid=ingest.till is not None
        )
        received_at_seconds = ingest.now().timestamp()
        claim = None if ingest.till is None else _claim(ingest.till, received, now_seconds=received_at_seconds)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                outcome = await _until_stored(ingest, received, claim, received_at_seconds=received_at_seconds)
        except TimeoutError:
            logger().warning("gave up on a request", miner_hotkey=received.miner_hotkey)
            raise _try_again_later("the submission could not be stored now") from None
        except InvalidSubmission as error:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_submission", str(error)) from None
        except CannotWait as error:
            raise _try_again_later(str(error)) from None
        except NotPaid as error:
            used = error.refusal is Refusal.ALREADY_USED
            status = HTTPStatus.CONFLICT if used else HTTPStatus.PAYMENT_REQUIRED
            raise Problem(status, error.refusal, str(error)) from None
        if isinstance(outcome, Waiting):
            body = _claimed(ingest, outcome).model_dump(mode="json")
            return JSONResponse(body, status_code=HTTPStatus.ACCEPTED)
        if not outcome.created:
            response.status_code = HTTPStatus.OK
        submission = outcome.submission
        return Accepted(
            submission_id=submission.submission_id,
            status=submission.status,
            status_url=f"{ingest.api_url}/submissions/{submission.submission_id}",
            code_hash=f"sha256:{submission.paid.code_sha256}",
            created_at=submission.created_at,
        )

    return app


def _claim(till: Till, received: upload.Upload, *, now_seconds: float) -> PaymentClaimed:
    """What a request asks for, once its signature was checked."""
    code_sha256 = hashlib.sha256(received.source).hexdigest()
    signed = signature.check(
        received,
        code_sha256=code_sha256,
        netuid=till.economy.netuid,
        recipient=till.recipient,
        now_seconds=now_seconds,
    )
    return decide.claim(
        miner_hotkey=received.miner_hotkey,
        code_sha256=code_sha256,
        code_bytes=len(received.source),
        payment_reference=received.payment,
        request=signed,
    )


def _claimed(ingest: Ingest, waiting: Waiting) -> Claimed:
    claim = waiting.recorded.event
    assert isinstance(claim, PaymentClaimed)
    return Claimed(
        claim_id=claim.claim_id,
        submission_id=claim.submission_id,
        status="waiting",
        status_url=f"{ingest.api_url}/payments/{claim.payment_reference}",
        code_hash=f"sha256:{claim.code_sha256}",
        detail=claim.detail,
        created_at=waiting.recorded.envelope.time,
    )


async def _until_stored(
    ingest: Ingest, received: upload.Upload, claim: PaymentClaimed | None, *, received_at_seconds: float
) -> Submitted | Waiting:
    """Check and store, again and again while something of ours does not answer. The caller bounds it."""
    attempt = 0
    while True:
        try:
            if ingest.till is None or claim is None:
                await ingest.check(received.source)
                bus = await asyncio.shield(ingest.bus)
                return await handlers.submit(bus, ingest.artifacts, received.source, miner_hotkey=received.miner_hotkey)
            return await handlers.buy(
                await asyncio.shield(ingest.bus),
                ingest.artifacts,
                ingest.till,
                received.source,
                claim,
                check=ingest.check,
                received_at_seconds=received_at_seconds,
            )
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
