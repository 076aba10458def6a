"""Says whether a transfer on the chain pays for a submission, from what the chain says of it. Pure: no clock, no
randomness, no I/O. It records nothing: that a payment counts once is `decide`'s.
"""

import msgspec

from shared.events import Payment
from shared.faults import Refusal
from shared.hparams import Economy
from shared.request import parse_transfer

TRANSFERS = ("Balances.transfer_keep_alive", "Balances.transfer_allow_death")
"""The calls that pay, at the top level only: what is inside of a batch, a proxy or a sudo can fail, or be another's."""
UNKNOWN_SECONDS = 600.0
"""How much later than the request our node's final head must be, before a block that it does not know is none: what is
final it knows, and nobody can name a block before it is made. Clocks may differ by less than that.
"""


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """One Balances.Transfer event under the extrinsic: what really moved, whatever the call asked for."""

    payer: str
    recipient: str
    amount_rao: int


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the chain says of one reference and one hotkey. Of a block that is unknown, not final or not canonical,
    nothing is asked beyond that.
    """

    finalized_block: int
    finalized_time_seconds: float | None = None
    """Timestamp of the finalized head: how far our node's own knowledge goes."""
    block_number: int | None
    """None: the node knows no such block."""
    canonical: bool
    """The chain's block at that height has this hash."""
    block_time_seconds: float | None
    call: str | None
    """Such as "Balances.transfer_keep_alive". None: no extrinsic at that index."""
    signer: str | None
    successes: int
    """System.ExtrinsicSuccess events under that index."""
    failures: int
    transfers: tuple[Transfer, ...]
    owner: str | None
    """The coldkey that owned the hotkey at that block."""
    uid: int | None
    """The hotkey's on the subnet, at the finalized head."""


class Proven(msgspec.Struct, frozen=True, kw_only=True):
    """The payment buys a submission."""

    payment: Payment
    uid: int
    overpaid_rao: int


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """It does not, and never will; only the registration of the hotkey can still be made good."""

    refusal: Refusal
    detail: str
    """What was found and what to do, for the miner."""
    payer: str | None
    amount_rao: int | None
    received: bool
    """The money did reach the recipient, from the hotkey's owner."""


class Waits(msgspec.Struct, frozen=True, kw_only=True):
    """It cannot be said yet."""

    detail: str


def judge(
    facts: Facts,
    *,
    reference: str,
    miner_hotkey: str,
    recipient: str,
    economy: Economy,
    received_at_seconds: float,
) -> Proven | Refused | Waits:
    """The verdict on one payment. `received_at_seconds`: when the payment was first asked to count; waiting for the
    chain makes nothing too old.

    What is wrong with the payment itself comes first: who has to pay again need not register before. A hotkey that is
    not registered is told at once, even when the payment still waits.
    """
    verdict = _transfer(
        facts,
        reference=reference,
        miner_hotkey=miner_hotkey,
        recipient=recipient,
        economy=economy,
        received_at_seconds=received_at_seconds,
    )
    if isinstance(verdict, Refused):
        return verdict
    if facts.uid is None:
        return not_registered(miner_hotkey, economy=economy, paid=verdict if isinstance(verdict, Payment) else None)
    if isinstance(verdict, Waits):
        return verdict
    return Proven(payment=verdict, uid=facts.uid, overpaid_rao=verdict.amount_rao - economy.submission_cost_rao)


def not_registered(miner_hotkey: str, *, economy: Economy, paid: Payment | None) -> Refused:
    """The refusal of a hotkey that is not on the subnet. `paid`: as far as that is known."""
    return Refused(
        refusal=Refusal.HOTKEY_NOT_REGISTERED,
        detail=f"hotkey {miner_hotkey} is not registered on subnet {economy.netuid}; register it and send the same "
        "again: the payment stays valid until it is too old",
        payer=None if paid is None else paid.payer,
        amount_rao=None if paid is None else paid.amount_rao,
        received=paid is not None,
    )


def _transfer(
    facts: Facts,
    *,
    reference: str,
    miner_hotkey: str,
    recipient: str,
    economy: Economy,
    received_at_seconds: float,
) -> Payment | Refused | Waits:
    named = parse_transfer(reference)
    if named is None:
        return _refuse(
            Refusal.NOT_FOUND, f"{reference} names no transfer; a payment is <block hash>-<extrinsic index>, lower case"
        )
    _, index = named
    moved = _block(facts, reference=reference, received_at_seconds=received_at_seconds) or _extrinsic(
        facts, index=index
    )
    if isinstance(moved, Refused | Waits):
        return moved
    return (
        _parties(facts, moved, miner_hotkey=miner_hotkey, recipient=recipient)
        or _terms(facts, moved, economy=economy, received_at_seconds=received_at_seconds)
        or Payment(
            reference=reference,
            amount_rao=moved.amount_rao,
            payer=moved.payer,
            recipient=moved.recipient,
            block_number=facts.block_number,
        )
    )


def _block(facts: Facts, *, reference: str, received_at_seconds: float) -> Refused | Waits | None:
    """What is wrong with the block: it must be known, final and the chain's."""
    if facts.block_number is None:
        # By the chain's clock, as our node knows it: one that is behind may still find the block.
        known_until_seconds = facts.finalized_time_seconds
        if known_until_seconds is None or known_until_seconds - received_at_seconds <= UNKNOWN_SECONDS:
            return Waits(detail="the validator's node of the chain does not know the block of this payment yet")
        return _refuse(
            Refusal.NOT_FOUND,
            f"no block of {reference} appeared on the chain within {UNKNOWN_SECONDS:.0f} s; check the reference and "
            "the network, and send the right one",
        )
    if facts.block_number > facts.finalized_block:
        return Waits(
            detail=f"block {facts.block_number} of this payment is not final yet; the chain is final up to "
            f"{facts.finalized_block}"
        )
    if not facts.canonical:
        return _refuse(
            Refusal.ORPHANED,
            f"the chain left block {facts.block_number} of this payment for another; look for the transfer in the "
            "block where it is now and send that reference, or pay again",
        )
    return None


def _extrinsic(facts: Facts, *, index: int) -> Transfer | Refused | Waits:
    """The one transfer that was made, if it was made in the one way that counts."""
    where = f"extrinsic {index} of block {facts.block_number}"
    if facts.call is None:
        return _refuse(
            Refusal.NOT_FOUND,
            f"block {facts.block_number} has no extrinsic {index}; check the reference and send the right one",
        )
    if facts.call not in TRANSFERS:
        return _refuse(
            Refusal.NOT_A_TRANSFER,
            f"{where} is {facts.call}; only {' or '.join(TRANSFERS)} pays, at the top level and not inside of another "
            "call: pay with that",
        )
    if facts.signer is None:
        return _refuse(Refusal.NOT_A_TRANSFER, f"{where} is not signed; pay with a transfer that the coldkey signed")
    if facts.failures or facts.successes != 1:
        return _refuse(
            Refusal.FAILED,
            f"the transfer in {where} failed on the chain and moved nothing; see that the coldkey has the amount, the "
            "fee and the existential deposit, and pay again",
        )
    if len(facts.transfers) != 1:
        return _refuse(
            Refusal.NOT_A_TRANSFER,
            f"{where} made {len(facts.transfers)} transfers where one is asked for; pay with a single transfer to the "
            "validator",
        )
    return facts.transfers[0]


def _parties(facts: Facts, moved: Transfer, *, miner_hotkey: str, recipient: str) -> Refused | None:
    """Who was paid, and whose money it was."""
    if moved.recipient != recipient:
        return _refuse(
            Refusal.WRONG_RECIPIENT,
            f"the transfer went to {moved.recipient}, but this validator is paid at {recipient}; pay there",
            moved,
        )
    if facts.owner is None:
        return _refuse(
            Refusal.WRONG_PAYER,
            f"no coldkey owned hotkey {miner_hotkey} at block {facts.block_number}, before it was registered; use a "
            f"hotkey that {moved.payer} owned then, or pay again",
            moved,
        )
    if not facts.signer == moved.payer == facts.owner:
        payer = moved.payer if facts.signer == moved.payer else f"{facts.signer} for {moved.payer}"
        return _refuse(
            Refusal.WRONG_PAYER,
            f"{payer} paid, but coldkey {facts.owner} owned hotkey {miner_hotkey} at block {facts.block_number}; pay "
            "from the coldkey that owns the hotkey",
            moved,
        )
    return None


def _terms(facts: Facts, moved: Transfer, *, economy: Economy, received_at_seconds: float) -> Refused | Waits | None:
    """How much, and how long ago."""
    if moved.amount_rao < economy.submission_cost_rao:
        return _refuse(
            Refusal.TOO_SMALL,
            f"{moved.amount_rao} RAO arrived, but a submission costs {economy.submission_cost_rao} RAO; pay the whole "
            "amount in one transfer: nothing can be added to this one",
            moved,
            received=True,
        )
    if facts.block_time_seconds is None:
        return Waits(detail=f"the time of block {facts.block_number} of this payment is not known")
    age_seconds = received_at_seconds - facts.block_time_seconds
    if age_seconds > economy.payment_max_age_seconds:
        return _refuse(
            Refusal.TOO_OLD,
            f"the payment was {age_seconds:.0f} s old when it was sent in, and can be used for "
            f"{economy.payment_max_age_seconds} s; pay again and submit at once",
            moved,
            received=True,
        )
    return None


def _refuse(refusal: Refusal, detail: str, moved: Transfer | None = None, *, received: bool = False) -> Refused:
    return Refused(
        refusal=refusal,
        detail=detail,
        payer=None if moved is None else moved.payer,
        amount_rao=None if moved is None else moved.amount_rao,
        received=received,
    )
