"""The message that a miner's hotkey signs for a submission: what it binds, and its exact bytes. No keys are here."""

import re

from shared.events import SignedRequest
from shared.ids import derive_id

VERSION = "templar-tournament submission v1"
MAX_CLOCK_SKEW_SECONDS = 300
"""How far the time in a request may be from the validator's."""

_TRANSFER = re.compile(r"(0x[0-9a-f]{64})-(0|[1-9][0-9]{0,5})")
_CREDIT = re.compile(r"credit:([0-9a-f]{32})")


class InvalidReference(Exception):
    """The text names neither a transfer nor a credit. The message says what it must look like."""


def message(request: SignedRequest, *, miner_hotkey: str, code_sha256: str, payment_reference: str) -> bytes:
    """The bytes to sign with sr25519: ASCII lines in this order, each ended by a newline, so that no two requests have
    the same message. docs/api.md has test vectors.
    """
    return (
        f"{VERSION}\n"
        f"netuid: {request.netuid}\n"
        f"recipient: {request.recipient}\n"
        f"hotkey: {miner_hotkey}\n"
        f"code_sha256: {code_sha256}\n"
        f"payment: {payment_reference}\n"
        f"time: {request.signed_at_seconds}\n"
    ).encode("ascii")


def transfer_reference(block_hash: str, extrinsic_index: int) -> str:
    """The one spelling of a transfer's reference."""
    return f"{block_hash}-{extrinsic_index}"


def credit_reference(credit_id: str) -> str:
    """The one spelling of a credit's reference."""
    return f"credit:{credit_id}"


def check_reference(reference: str) -> None:
    """Accept the one spelling of each reference: a second one would make one payment two.

    Raises:
        InvalidReference: it is neither.
    """
    if not (_TRANSFER.fullmatch(reference) or _CREDIT.fullmatch(reference)):
        raise InvalidReference(
            "a payment is <block hash>-<extrinsic index>, such as 0x (64 hex digits, lower case)-2, or credit:<id>"
        )


def parse_transfer(reference: str) -> tuple[str, int] | None:
    """Block hash and extrinsic index of a transfer; None for anything else."""
    match = _TRANSFER.fullmatch(reference)
    return None if match is None else (match[1], int(match[2]))


def parse_credit(reference: str) -> str | None:
    """Credit id; None for anything else."""
    match = _CREDIT.fullmatch(reference)
    return None if match is None else match[1]


def submission_id(payment_reference: str) -> str:
    """Of the submission that a payment buys: derived from the payment alone, so it can be one only."""
    return derive_id("submission", payment_reference)


def claim_id(payment_reference: str, *, miner_hotkey: str, code_sha256: str) -> str:
    """Of one miner's wish to have one payment for one code."""
    return derive_id("claim", payment_reference, miner_hotkey, code_sha256)
