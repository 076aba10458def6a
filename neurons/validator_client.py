"""A validator's two HTTP services as a miner meets them: asked, sent to, and answers read. No rule of money is here.

What they answer is not trusted: it may be endless, malformed, or meant for the person's terminal, and it repeats what
other miners made up.
"""

import re
import time
from collections.abc import Callable
from types import TracebackType
from typing import Annotated, Any, TypeVar

import httpx
import msgspec
from msgspec import Meta

from shared import request
from shared.events import SignedRequest

REQUEST_SECONDS = 60.0
"""Longer than ingest waits for its own parts before it says 503."""
PAUSE_SECONDS = 2.0
MOST_ANSWER_BYTES = 16 * 2**20
"""Several times the longest that a validator has to say: a thousand submissions with all their checks."""
MOST_DETAIL_CHARACTERS = 4000
_INVISIBLE = re.compile(r"[^\n\t\x20-\x7e\xa0-\U0010ffff]|[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls, which a terminal obeys, and what turns the direction of writing."""

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

    submission_id: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
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
    reference: Annotated[str, Meta(pattern=r"^credit:[0-9a-f]{32}\Z")]
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
        return None if answer.status == httpx.codes.ACCEPTED else _decode(answer, Accepted)

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

    def _post(self, source: bytes, fields: dict[str, str]) -> "_Answer":
        return self._checked(
            "POST", f"{self.url}/submissions", data=fields, files={"file": ("train.py", source, "text/x-python")}
        )

    def _checked(self, method: str, url: str, **parts: Any) -> "_Answer":
        try:
            with self._client.stream(method, url, **parts) as response:
                answer = _Answer(url=url, status=response.status_code, content=_content(response))
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:  # the last: no name of a host
            raise Away(f"{url} does not answer: {error or type(error).__name__}") from None
        if httpx.codes.is_success(answer.status):
            return answer
        code, detail = _problem(answer)
        if httpx.codes.is_server_error(answer.status) or answer.status in (408, 425, 429):
            raise Away(f"{url} answers {answer.status} {code}: {detail}")
        raise Refused(answer.status, code, detail)


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, whole."""

    url: str
    status: int
    content: bytes


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
    netuid: int, recipient: str, *, miner_hotkey: str, code_sha256: str, reference: str, key: Any
) -> SignedRequest:
    """The request, signed now with the hotkey."""
    unsigned = SignedRequest(recipient=recipient, netuid=netuid, signed_at_seconds=int(time.time()), signature="")
    signature = key.sign(
        request.message(unsigned, miner_hotkey=miner_hotkey, code_sha256=code_sha256, payment_reference=reference)
    )
    return msgspec.structs.replace(unsigned, signature=f"0x{bytes(signature).hex()}")


def _content(response: httpx.Response) -> bytes:
    """The body, unless it is too long or does not end: the client's own limit is for each part of it.

    Raises:
        Away: so it is.
    """
    deadline = time.monotonic() + REQUEST_SECONDS
    content = bytearray()
    for part in response.iter_bytes():
        content += part
        if len(content) > MOST_ANSWER_BYTES:
            raise Away(f"{response.url} answers with more than {MOST_ANSWER_BYTES:,} bytes")
        if time.monotonic() > deadline:
            raise Away(f"{response.url} answers, but did not end within {REQUEST_SECONDS:g} s")
    return bytes(content)


def _decode(answer: _Answer, kind: type[T]) -> T:
    try:
        return msgspec.convert(_legible(msgspec.json.decode(answer.content)), kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(
            answer.status, "unknown_answer", f"{answer.url} is no validator of this release: {error}"
        ) from None


def _problem(answer: _Answer) -> tuple[str, str]:
    try:
        body = _legible(msgspec.json.decode(answer.content))
        return str(body["code"])[:200], str(body["detail"])[:MOST_DETAIL_CHARACTERS]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
        said = _legible(answer.content[:200].decode(errors="replace"))
        return "unknown_answer", said or f"HTTP status {answer.status}"


def _legible(value: Any) -> Any:
    """The same with nothing in its texts that a terminal would obey."""
    match value:
        case str():
            return _INVISIBLE.sub("\N{REPLACEMENT CHARACTER}", value)
        case list():
            return [_legible(item) for item in value]
        case dict():
            return {name: _legible(item) for name, item in value.items()}
        case _:
            return value
