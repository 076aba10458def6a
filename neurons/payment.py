"""One payment of a miner: what must be remembered of it, and what to do next. Pure: no clock, chain, files or key.

The signed transfer is remembered before it is sent. From then on every step can be taken again: the same bytes cannot
pay twice, because a nonce counts once, and they can pay at all only until their era ends.
"""

import hashlib
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from shared import request

ERA_BLOCKS = 64
"""How long a signed transfer can be included: about 13 minutes on the public chain."""
SLACK_BLOCKS = 8
"""The nodes behind one address may be some blocks apart, and the era is counted from what one of them said."""
BROADCAST_EVERY_SECONDS = 30.0
"""A node that is restarted may have forgotten it."""

Height = Annotated[int, Meta(ge=0)]


class Transfer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A signed transfer. Whoever has its bytes can send it, and nothing else."""

    extrinsic: bytes
    extrinsic_hash: str
    payer: str
    nonce: Annotated[int, Meta(ge=0)]
    first_block: Height
    """The finalized block when it was signed: no earlier one contains it."""
    last_block: Height
    """No later one contains it: its era has ended."""


class Wallet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the key is that signs the submission; never the key."""

    name: str
    hotkey: str
    path: str


class Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the payment has bought."""

    submission_id: str
    status_url: str


class PaymentRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that is needed to go on with a payment after a crash."""

    version: Literal[1] = 1
    created_at: str
    """UTC."""
    validator: str
    chain: str
    genesis_hash: str
    netuid: int
    recipient: str
    amount_rao: Annotated[int, Meta(ge=0)]
    """0 for a credit."""
    miner_hotkey: str
    wallet: Wallet
    file: str
    """Where the code was; what is submitted is `source`."""
    source: bytes
    transfer: Transfer | None = None
    """None for a credit."""
    reference: str | None = None
    """Known once the transfer is final."""
    answer: Answer | None = None
    refused: str | None = None
    """Why the validator will never take it."""

    def __post_init__(self) -> None:
        if self.transfer is None and self.reference is None:
            raise ValueError("neither a transfer nor a reference")
        if self.reference is not None:
            try:
                request.check_reference(self.reference)
            except request.InvalidReference as error:
                raise ValueError(str(error)) from None

    @property
    def code_sha256(self) -> str:
        """Of what is submitted."""
        return hashlib.sha256(self.source).hexdigest()

    @property
    def unfinished(self) -> bool:
        """Money may have moved, and nothing was bought for it."""
        return self.answer is None and self.refused is None


class InvalidRecord(Exception):
    """The bytes are no record of a payment. The message says why."""


def encode(record: PaymentRecord) -> bytes:
    """As it is stored: JSON that a person can read."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"


def decode(content: bytes) -> PaymentRecord:
    """The inverse of `encode`.

    Raises:
        InvalidRecord: not written by this release.
    """
    try:
        return msgspec.json.decode(content, type=PaymentRecord)
    except msgspec.MsgspecError as error:
        raise InvalidRecord(str(error)) from None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A final block that contains the transfer."""

    block_hash: str
    index: int
    succeeded: bool


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """What the chain shows of a transfer."""

    found: Found | None
    searched_to: int
    """The final block up to which all from `first_block` were read."""
    final_nonce: int
    """Of the payer, after that block."""
    next_nonce: int
    """Of the payer, with what waits in the node's pool."""


class Paid(msgspec.Struct, frozen=True, kw_only=True):
    """It is final and succeeded."""

    reference: str


class NotPaid(msgspec.Struct, frozen=True, kw_only=True):
    """The amount has not moved and cannot move by this transfer any more."""

    why: str


class Broadcast(msgspec.Struct, frozen=True):
    """Send the bytes, for the first time or again."""


class Wait(msgspec.Struct, frozen=True):
    """Look again at the next block."""


def next_step(
    transfer: Transfer, seen: Sighting, *, rejected: str | None, since_broadcast_seconds: float | None
) -> Paid | NotPaid | Broadcast | Wait:
    """What to do after looking at the chain. `rejected` is what the node said when it would not take
    bytes that no node had been sent before; `since_broadcast_seconds` is None when this process has not sent them.
    """
    if seen.found is not None:
        if seen.found.succeeded:
            return Paid(reference=request.transfer_reference(seen.found.block_hash, seen.found.index))
        return NotPaid(why="the transfer failed on the chain: the amount has not moved, only the chain's fee was taken")
    if seen.searched_to >= transfer.last_block:
        return NotPaid(why="no block contains the transfer, and its time is over: nothing was paid")
    if seen.final_nonce > transfer.nonce:
        return NotPaid(why="another transaction of this coldkey took the transfer's place: nothing was paid")
    if rejected is not None and seen.next_nonce <= transfer.nonce:
        return NotPaid(why=f"the chain does not take the transfer: {rejected}; nothing was paid")
    if since_broadcast_seconds is None or since_broadcast_seconds >= BROADCAST_EVERY_SECONDS:
        return Broadcast()
    return Wait()


def succeeded(events: list[dict[str, Any]], index: int) -> bool:
    """Whether an extrinsic of a block did what it says, by the block's events: exactly one success and no failure."""
    mine = [event for event in events if event.get("extrinsic_idx") == index and event.get("module_id") == "System"]
    names = [event.get("event_id") for event in mine]
    return names.count("ExtrinsicSuccess") == 1 and "ExtrinsicFailed" not in names


FINAL_REFUSALS = frozenset(
    {
        "payment_already_used",
        "payment_failed",
        "payment_not_a_transfer",
        "payment_too_old",
        "payment_too_small",
        "payment_wrong_payer",
        "payment_wrong_recipient",
        "credit_not_found",
    }
)
"""After these the same payment is refused again, whatever is done."""

_ADVICE = {
    "request_stale": "set this machine's clock, then go on",
    "signature_invalid": "check that --validator is the validator that was paid, then go on",
    "hotkey_not_registered": "register the hotkey on the subnet, then go on",
    "invalid_submission": "correct the file and name it when you go on",
    "body_too_large": "make the file smaller and name it when you go on",
}


def advice(code: str) -> str:
    """What to do after a refusal, in a few words."""
    if code in FINAL_REFUSALS:
        return "the validator will not take this payment"
    return _ADVICE.get(code, "the payment stays valid: correct what the detail says, then go on")


def rao_as_tao(amount_rao: int) -> str:
    """For people: 0.1 TAO."""
    whole, rest = divmod(amount_rao, 10**9)
    return f"{whole:,}" + (f".{rest:09d}".rstrip("0") if rest else "") + " TAO"
