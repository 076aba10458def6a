"""A validator's two HTTP services as a miner meets them: asked, sent to, and answers read. No rule of money is here."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

import httpx
import msgspec

from shared import request
from shared.events import SignedRequest

REQUEST_SECONDS = 60.0
"""Longer than ingest waits for its own parts before it says 503."""
PAUSE_SECONDS = 2.0

T = TypeVar("T")


class Away(Exception):
    """No answer, or one that says to try again. The message says what was asked."""


class Refused(Exception):
    """A 4xx answer: `code` for programs, the message for people."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """What ingest says about itself."""

    netuid: int
    submission_cost_rao: int
    payment_max_age_seconds: int
    payment_recipient: str | None
    """None: it takes no payments."""
    genesis_hash: str | None
    """None: it has not reached its chain yet."""
    hparams: str
    hparams_sha256: str
    max_code_bytes: int
    api_url: str
    time_seconds: float


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """A submission that is there."""

    submission_id: str
    status_url: str


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """What the API says of one."""

    submission_id: str
    miner_hotkey: str
    code_hash: str
    status: str
    created_at: str
    updated_at: str = ""
    final_score: float | None = None
    error_message: str | None = None
    reason: str | None = None
    runs_required: int | None = None
    runs_completed: int | None = None
    payment_reference: str | None = None

    @property
    def ended(self) -> bool:
        return self.status in ("finished", "failed_validation", "error")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the leaderboard."""

    rank: int
    submission_id: str
    miner_hotkey: str
    final_score: float
    num_evaluations: int
    created_at: str
    miner_uid: int | None = None


class Credit(msgspec.Struct, frozen=True, kw_only=True):
    """A submission that costs nothing, because the validator failed an earlier one."""

    credit_id: str
    reference: str
    miner_hotkey: str
    submission_id: str
    detail: str = ""
    spent_by: str | None = None


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a payment that was presented."""

    claim_id: str
    status: str
    """`waiting`, `accepted` or `refused`."""
    code: str | None = None
    detail: str | None = None


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    reference: str
    submission_id: str | None = None
    claims: tuple[Claim, ...] = ()


class Validator:
    """One validator. Use it in a `with` block."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._client = httpx.Client(timeout=REQUEST_SECONDS, follow_redirects=False)

    def __enter__(self) -> "Validator":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def info(self) -> Info:
        """Its price, recipient and competition.

        Raises:
            Away, Refused.
        """
        return self._get(f"{self.url}/info", Info)

    def submit_unpaid(self, source: bytes, *, miner_hotkey: str) -> Accepted:
        """Send a file to a validator that takes no payments.

        Raises:
            Away, Refused.
        """
        answer = self._post(source, {"miner_hotkey": miner_hotkey})
        return _decode(answer, Accepted)

    def submit(self, source: bytes, signed: SignedRequest, *, miner_hotkey: str, reference: str) -> Accepted | None:
        """Send a file and what pays for it; None: accepted for checking, which the validator does by itself.

        Raises:
            Away, Refused.
        """
        answer = self._post(
            source,
            {
                "miner_hotkey": miner_hotkey,
                "payment": reference,
                "signed_at": str(signed.signed_at_seconds),
                "signature": signed.signature,
            },
        )
        return None if answer.status_code == httpx.codes.ACCEPTED else _decode(answer, Accepted)

    def submission(self, api_url: str, submission_id: str) -> Submission:
        """One submission.

        Raises:
            Away, Refused.
        """
        return self._get(f"{api_url}/submissions/{submission_id}", Submission)

    def submissions(self, api_url: str, *, miner_hotkey: str, code_sha256: str | None = None) -> list[Submission]:
        """Of one hotkey, the newest first.

        Raises:
            Away, Refused.
        """
        wanted = {"miner_hotkey": miner_hotkey}
        if code_sha256 is not None:
            wanted["code_hash"] = f"sha256:{code_sha256}"
        return self._get(f"{api_url}/submissions", list[Submission], wanted)

    def leaderboard(self, api_url: str, *, limit: int = 100) -> list[Row]:
        """The ranked submissions.

        Raises:
            Away, Refused.
        """
        return self._get(f"{api_url}/leaderboard", list[Row], {"limit": str(limit)})

    def credits(self, api_url: str, *, miner_hotkey: str) -> list[Credit]:
        """Of one hotkey, spent ones too.

        Raises:
            Away, Refused.
        """
        return self._get(f"{api_url}/credits", list[Credit], {"miner_hotkey": miner_hotkey})

    def claim(self, api_url: str, reference: str, claim_id: str) -> Claim | None:
        """What became of one claim on a payment; None: not known there yet.

        Raises:
            Away, Refused.
        """
        try:
            known = self._get(f"{api_url}/payments/{reference}", Claims)
        except Refused as refusal:
            if refusal.status == httpx.codes.NOT_FOUND:
                return None
            raise
        return next((claim for claim in known.claims if claim.claim_id == claim_id), None)

    def _get(self, url: str, kind: type[T], params: dict[str, str] | None = None) -> T:
        return _decode(self._checked("GET", url, params=params), kind)

    def _post(self, source: bytes, fields: dict[str, str]) -> httpx.Response:
        return self._checked(
            "POST", f"{self.url}/submissions", data=fields, files={"file": ("train.py", source, "text/x-python")}
        )

    def _checked(self, method: str, url: str, **parts: Any) -> httpx.Response:
        try:
            answer = self._client.request(method, url, **parts)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Away(f"{url} does not answer: {error or type(error).__name__}") from None
        if answer.is_success:
            return answer
        code, detail = _problem(answer)
        if answer.is_server_error or answer.status_code in (408, 425, 429):
            raise Away(f"{url} answers {answer.status_code} {code}: {detail}")
        raise Refused(answer.status_code, code, detail)


def patiently(ask: Callable[[], T], *, timeout_seconds: float, report: Callable[[str], None]) -> T:
    """Ask again, with pauses, while there is no answer.

    Raises:
        Away: there was none in time.
        Refused: there was one.
    """
    deadline = time.monotonic() + timeout_seconds
    pause = PAUSE_SECONDS
    while True:
        try:
            return ask()
        except Away as error:
            if time.monotonic() + pause > deadline:
                raise
            report(f"{error}; again in {pause:.0f} s")
        time.sleep(pause)
        pause = min(2 * pause, 30.0)


def sign(
    info_netuid: int, recipient: str, *, miner_hotkey: str, code_sha256: str, reference: str, key: Any
) -> SignedRequest:
    """The request, signed now with the hotkey."""
    unsigned = SignedRequest(recipient=recipient, netuid=info_netuid, signed_at_seconds=int(time.time()), signature="")
    signature = key.sign(
        request.message(unsigned, miner_hotkey=miner_hotkey, code_sha256=code_sha256, payment_reference=reference)
    )
    return msgspec.structs.replace(unsigned, signature=f"0x{bytes(signature).hex()}")


def _decode(answer: httpx.Response, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.content, type=kind)
    except msgspec.MsgspecError as error:
        raise Refused(
            answer.status_code, "unknown_answer", f"{answer.url} is no validator of this release: {error}"
        ) from None


def _problem(answer: httpx.Response) -> tuple[str, str]:
    try:
        body = msgspec.json.decode(answer.content)
        return str(body["code"]), str(body["detail"])
    except (msgspec.MsgspecError, KeyError, TypeError):
        return "unknown_answer", answer.text[:200] or answer.reason_phrase
