"""Checks who sent a submission: the hotkey's sr25519 signature over `shared.request.message`. It holds no key."""

import json
import re
from http import HTTPStatus

from bittensor.sp_core import Keypair

from services.ingest.upload import Upload
from shared import request
from shared.events import SignedRequest
from shared.http import Problem
from shared.request import MAX_CLOCK_SKEW_SECONDS

_SIGNATURE = re.compile(r"0x[0-9a-f]{128}")
_TIME = re.compile(r"0|[1-9][0-9]{0,11}")


def check(upload: Upload, *, code_sha256: str, netuid: int, recipient: str, now_seconds: float) -> SignedRequest:
    """What the hotkey signed, once it is certain that it did, for this validator, just now.

    Raises:
        Problem: a field has another form, the request is too old or from the future, or somebody else signed, or the
            same hotkey something else.
    """
    signed = _parse(upload, netuid=netuid, recipient=recipient)
    off_seconds = signed.signed_at_seconds - now_seconds
    if abs(off_seconds) > MAX_CLOCK_SKEW_SECONDS:
        raise Problem(
            HTTPStatus.UNAUTHORIZED,
            "request_stale",
            f"signed_at is {signed.signed_at_seconds}, and the validator's clock says {int(now_seconds)}: that is more "
            f"than {MAX_CLOCK_SKEW_SECONDS} s apart; set the clock, and sign again just before sending",
        )
    message = request.message(
        signed,
        miner_hotkey=upload.miner_hotkey,
        code_sha256=code_sha256,
        payment_reference=upload.payment,
    )
    if not Keypair(ss58_address=upload.miner_hotkey).verify(message, bytes.fromhex(signed.signature[2:])):
        raise Problem(
            HTTPStatus.UNAUTHORIZED,
            "signature_invalid",
            f"the signature is not by hotkey {upload.miner_hotkey} over what this validator expects; sign exactly "
            f"these bytes with sr25519, where \\n is one newline: {json.dumps(message.decode())}",
        )
    return signed


def _parse(upload: Upload, *, netuid: int, recipient: str) -> SignedRequest:
    try:
        request.check_reference(upload.payment)
    except request.InvalidReference as error:
        raise _invalid(f"payment cannot be used: {error}") from None
    if not _TIME.fullmatch(upload.signed_at):
        raise _invalid("signed_at must be the Unix time in whole seconds, such as 1767323045")
    if not _SIGNATURE.fullmatch(upload.signature):
        raise _invalid("signature must be 0x and 128 hex digits, lower case: 64 bytes of sr25519")
    return SignedRequest(
        netuid=netuid,
        recipient=recipient,
        signed_at_seconds=int(upload.signed_at),
        signature=upload.signature,
    )


def _invalid(detail: str) -> Problem:
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", detail)
