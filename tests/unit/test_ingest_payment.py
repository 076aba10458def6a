"""The judgement on a payment: given these facts, then this verdict. And how the chain's answers become facts."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest import chain
from services.ingest.payment import TRANSFERS, Facts, Proven, Refused, Transfer, Waits, judge
from shared.events import Payment
from shared.faults import Refusal, TransientFault
from shared.hparams import Economy

MINER = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty"
HOTKEY = "5CorbW1vxaFCVQvNd6GcR4uKYLX1n6ZYDzgEyx1DsZDnSnRo"
RECIPIENT = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
OTHER = "5FLSigC9HGRKVhB9FiEo4Y3koPsNmBmLJbpXg2mp1hXcS59Y"
PUBLIC_KEY = "8eaf04151687736326c9fea17e25fc5287613693c912909cb226aa4794f26a48"
REFERENCE = f"0x{'ab' * 32}-2"
COST_RAO = 100_000_000
ECONOMY = Economy(netuid=3, submission_cost_rao=COST_RAO, payment_max_age_seconds=3600, weights_interval_seconds=600)
PAID_AT = 1_790_000_000.0

MOVED = Transfer(payer=MINER, recipient=RECIPIENT, amount_rao=COST_RAO)
GOOD = Facts(
    finalized_block=120,
    finalized_time_seconds=PAID_AT + 240,
    block_number=100,
    canonical=True,
    block_time_seconds=PAID_AT,
    call="Balances.transfer_keep_alive",
    signer=MINER,
    successes=1,
    failures=0,
    transfers=(MOVED,),
    owner=MINER,
    uid=7,
)


def verdict(facts: Facts, *, received: float = PAID_AT + 60, reference: str = REFERENCE) -> Proven | Refused | Waits:
    return judge(
        facts,
        reference=reference,
        miner_hotkey=HOTKEY,
        recipient=RECIPIENT,
        economy=ECONOMY,
        received_at_seconds=received,
    )


def but(**changes: Any) -> Facts:
    """The good payment, but for this."""
    return msgspec.structs.replace(GOOD, **changes)


def moved(**changes: Any) -> tuple[Transfer, ...]:
    return (msgspec.structs.replace(MOVED, **changes),)


def test_a_payment_by_every_rule_is_proven() -> None:
    payment = Payment(reference=REFERENCE, amount_rao=COST_RAO, payer=MINER, recipient=RECIPIENT, block_number=100)
    assert verdict(GOOD) == Proven(payment=payment, uid=7, overpaid_rao=0)


@pytest.mark.parametrize("call", TRANSFERS)
def test_both_plain_transfers_pay(call: str) -> None:
    assert isinstance(verdict(but(call=call)), Proven)


def test_what_is_paid_beyond_the_cost_is_accepted_and_noted() -> None:
    proven = verdict(but(transfers=moved(amount_rao=COST_RAO * 3)))
    assert isinstance(proven, Proven)
    assert proven.overpaid_rao == COST_RAO * 2
    assert proven.payment.amount_rao == COST_RAO * 3


def test_uid_zero_is_a_registration() -> None:
    assert isinstance(verdict(but(uid=0)), Proven)


REFUSALS: list[tuple[str, Facts, Refusal, str]] = [
    ("the chain took another block", but(canonical=False), Refusal.ORPHANED, "left block 100"),
    ("no such extrinsic", but(call=None), Refusal.NOT_FOUND, "block 100 has no extrinsic 2"),
    ("batch", but(call="Utility.batch"), Refusal.NOT_A_TRANSFER, "is Utility.batch;"),
    ("batch_all of two", but(call="Utility.batch_all", transfers=(MOVED, MOVED)), Refusal.NOT_A_TRANSFER, "batch_all"),
    ("proxy", but(call="Proxy.proxy", signer=OTHER), Refusal.NOT_A_TRANSFER, "is Proxy.proxy;"),
    ("force_transfer", but(call="Balances.force_transfer"), Refusal.NOT_A_TRANSFER, "force_transfer"),
    ("transfer_all", but(call="Balances.transfer_all"), Refusal.NOT_A_TRANSFER, "transfer_all"),
    ("unsigned", but(signer=None), Refusal.NOT_A_TRANSFER, "is not signed"),
    ("failed", but(successes=0, failures=1, transfers=()), Refusal.FAILED, "moved nothing"),
    ("neither succeeded nor failed", but(successes=0), Refusal.FAILED, "moved nothing"),
    ("succeeded twice", but(successes=2), Refusal.FAILED, "moved nothing"),
    ("succeeded and failed", but(failures=1), Refusal.FAILED, "moved nothing"),
    ("no transfer", but(transfers=()), Refusal.NOT_A_TRANSFER, "made 0 transfers"),
    ("two transfers", but(transfers=(MOVED, MOVED)), Refusal.NOT_A_TRANSFER, "made 2 transfers"),
    ("another recipient", but(transfers=moved(recipient=OTHER)), Refusal.WRONG_RECIPIENT, f"went to {OTHER}"),
    ("the owner did not sign", but(signer=OTHER), Refusal.WRONG_PAYER, f"{OTHER} for {MINER} paid"),
    ("the owner's money did not move", but(transfers=moved(payer=OTHER)), Refusal.WRONG_PAYER, f"{MINER} for {OTHER}"),
    ("another coldkey paid", but(signer=OTHER, transfers=moved(payer=OTHER)), Refusal.WRONG_PAYER, f"{OTHER} paid"),
    ("another coldkey owned the hotkey", but(owner=OTHER), Refusal.WRONG_PAYER, f"coldkey {OTHER} owned"),
    ("nobody owned the hotkey", but(owner=None), Refusal.WRONG_PAYER, "no coldkey owned"),
    ("too little", but(transfers=moved(amount_rao=COST_RAO - 1)), Refusal.TOO_SMALL, "99999999 RAO arrived"),
    ("not on the subnet", but(uid=None), Refusal.HOTKEY_NOT_REGISTERED, "not registered on subnet 3"),
]


@pytest.mark.parametrize(
    ("facts", "refusal", "said"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS]
)
def test_refused(facts: Facts, refusal: Refusal, said: str) -> None:
    refused = verdict(facts)
    assert isinstance(refused, Refused)
    assert refused.refusal is refusal
    assert said in refused.detail


@pytest.mark.parametrize(
    ("facts", "received"),
    [
        (but(transfers=moved(amount_rao=COST_RAO - 1)), True),
        (but(uid=None), True),
        (but(owner=OTHER), False),
        (but(transfers=moved(recipient=OTHER)), False),
        (but(uid=None, block_number=None), False),
    ],
)
def test_received_says_whether_the_owners_money_arrived(facts: Facts, received: bool) -> None:
    refused = verdict(facts)
    assert isinstance(refused, Refused)
    assert refused.received is received
    if received:
        assert refused.payer == MINER
        assert refused.amount_rao == facts.transfers[0].amount_rao


def test_a_payment_can_be_used_until_it_is_too_old() -> None:
    assert isinstance(verdict(GOOD, received=PAID_AT + 3600), Proven)
    refused = verdict(GOOD, received=PAID_AT + 3601)
    assert isinstance(refused, Refused)
    assert refused.refusal is Refusal.TOO_OLD
    assert "was 3601 s old" in refused.detail
    assert refused.received


def test_a_clock_of_ours_that_is_behind_the_chains_makes_nothing_too_old() -> None:
    assert isinstance(verdict(GOOD, received=PAID_AT - 30), Proven)


def test_a_block_that_is_not_final_waits_canonical_or_not() -> None:
    for canonical in (True, False):
        waits = verdict(but(block_number=121, canonical=canonical))
        assert isinstance(waits, Waits)
        assert "block 121" in waits.detail
    assert isinstance(verdict(but(block_number=120)), Proven)


def test_a_block_whose_time_is_not_known_waits() -> None:
    assert isinstance(verdict(but(block_time_seconds=None)), Waits)


def test_an_unknown_block_waits_until_the_chain_is_past_its_time() -> None:
    """And not for as long as a payment may be old, for a day: who makes blocks up would have the node asked all day."""
    received = PAID_AT
    for now in (None, PAID_AT - 900, PAID_AT + 600):
        assert isinstance(verdict(but(block_number=None, finalized_time_seconds=now), received=received), Waits)
    refused = verdict(but(block_number=None, finalized_time_seconds=PAID_AT + 601), received=received)
    assert isinstance(refused, Refused)
    assert refused.refusal is Refusal.NOT_FOUND


def test_a_hotkey_that_is_not_registered_is_told_so_while_its_payment_waits() -> None:
    refused = verdict(but(block_number=121, uid=None))
    assert isinstance(refused, Refused)
    assert refused.refusal is Refusal.HOTKEY_NOT_REGISTERED


def test_who_must_pay_again_is_not_told_to_register_first() -> None:
    refused = verdict(but(transfers=moved(amount_rao=1), uid=None))
    assert isinstance(refused, Refused)
    assert refused.refusal is Refusal.TOO_SMALL


@pytest.mark.parametrize("reference", ["credit:" + "0" * 32, f"0x{'AB' * 32}-2", "nonsense", ""])
def test_what_names_no_transfer_is_not_found(reference: str) -> None:
    refused = verdict(GOOD, reference=reference)
    assert isinstance(refused, Refused)
    assert refused.refusal is Refusal.NOT_FOUND


PEOPLE = st.sampled_from([MINER, RECIPIENT, OTHER])
AMOUNTS = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([COST_RAO - 1, COST_RAO, COST_RAO + 1]))
# Mostly what a good payment has, so that some are proven.
FACTS = st.builds(
    Facts,
    finalized_block=st.integers(0, 200),
    finalized_time_seconds=st.one_of(st.none(), st.floats(PAID_AT - 9000, PAID_AT + 9000)),
    block_number=st.one_of(st.none(), st.integers(0, 200), st.just(1)),
    canonical=st.sampled_from([True, True, True, False]),
    block_time_seconds=st.one_of(st.none(), st.floats(PAID_AT - 9000, PAID_AT + 9000), st.just(PAID_AT)),
    call=st.sampled_from([*TRANSFERS, *TRANSFERS, "Utility.batch", None]),
    signer=st.sampled_from([MINER, MINER, OTHER, None]),
    successes=st.sampled_from([1, 1, 1, 0, 2]),
    failures=st.sampled_from([0, 0, 0, 1]),
    transfers=st.lists(
        st.builds(Transfer, payer=st.one_of(st.just(MINER), PEOPLE), recipient=PEOPLE, amount_rao=AMOUNTS),
        min_size=0,
        max_size=2,
    ).map(tuple),
    owner=st.sampled_from([MINER, MINER, OTHER, None]),
    uid=st.one_of(st.integers(0, 255), st.none()),
)
TIMES = st.floats(PAID_AT - 9000, PAID_AT + 9000)


@given(facts=FACTS, received=TIMES)
def test_proven_means_every_rule(facts: Facts, received: float) -> None:
    said = verdict(facts, received=received)
    if not isinstance(said, Proven):
        assert said.detail
        assert "\n" not in said.detail
        return
    assert facts.block_number is not None
    assert facts.block_number <= facts.finalized_block
    assert facts.canonical
    assert facts.call in TRANSFERS
    assert (facts.successes, facts.failures) == (1, 0)
    (only,) = facts.transfers
    assert only.recipient == RECIPIENT
    assert only.payer == facts.signer == facts.owner
    assert only.amount_rao == COST_RAO + said.overpaid_rao
    assert said.overpaid_rao >= 0
    assert facts.block_time_seconds is not None
    assert received - facts.block_time_seconds <= ECONOMY.payment_max_age_seconds
    assert said.uid == facts.uid
    assert said.payment == Payment(
        reference=REFERENCE,
        amount_rao=only.amount_rao,
        payer=only.payer,
        recipient=RECIPIENT,
        block_number=facts.block_number,
    )


@given(facts=FACTS, received=TIMES)
def test_received_means_that_the_owner_paid_the_recipient(facts: Facts, received: float) -> None:
    said = verdict(facts, received=received)
    if isinstance(said, Refused) and said.received:
        (only,) = facts.transfers
        assert (only.recipient, only.payer, only.amount_rao) == (RECIPIENT, facts.owner, said.amount_rao)
        assert said.payer == facts.owner
        assert facts.canonical
        assert facts.successes == 1


@given(reference=st.text(max_size=80))
def test_no_text_is_a_reference_by_accident(reference: str) -> None:
    said = verdict(GOOD, reference=reference)
    assert isinstance(said, Refused)
    assert said.refusal is Refusal.NOT_FOUND


@given(amount=AMOUNTS)
def test_the_amount_alone_decides(amount: int) -> None:
    assert isinstance(verdict(but(transfers=moved(amount_rao=amount))), Proven) == (amount >= COST_RAO)


@pytest.mark.parametrize(
    "said",
    [
        MINER,
        f"0x{PUBLIC_KEY}",
        bytes.fromhex(PUBLIC_KEY),
        bytearray.fromhex(PUBLIC_KEY),
        list(bytes.fromhex(PUBLIC_KEY)),
        tuple(bytes.fromhex(PUBLIC_KEY)),
        (tuple(bytes.fromhex(PUBLIC_KEY)),),
        {"Id": MINER},
        {"Id": f"0x{PUBLIC_KEY}"},
        {"Id": bytes.fromhex(PUBLIC_KEY)},
        {"Address32": f"0x{PUBLIC_KEY}"},
        "14E5nqKAp3oAJcmzgZhUD2RcptBeUBScxKHgJKU4HPNcKVf3",  # the same key as Polkadot writes it
    ],
    ids=lambda said: type(said).__name__,
)
def test_an_account_is_the_same_in_every_shape(said: Any) -> None:
    assert chain.address(said) == MINER


@pytest.mark.parametrize("said", [None, 7, "", "0x12", "5F", b"short", {"Index": 4}, {"Id": None}, {}, [], [300], [[]]])
def test_an_account_in_a_shape_that_is_unknown_is_no_refusal(said: Any) -> None:
    with pytest.raises(TransientFault, match="cannot read the chain's account"):
        chain.address(said)


@given(
    said=st.recursive(
        st.one_of(st.none(), st.integers(), st.text(max_size=70), st.binary(max_size=40)),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["Id", "Raw"]), inner)),
    )
)
def test_whatever_is_said_for_an_account_is_one_or_a_fault(said: Any) -> None:
    try:
        address = chain.address(said)
    except TransientFault:
        return
    assert chain.address(address) == address


@pytest.mark.parametrize(
    "attributes",
    [
        {"from": MINER, "to": RECIPIENT, "amount": COST_RAO},
        {
            "from": {"Id": MINER},
            "to": f"0x{'d43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d'}",
            "amount": str(COST_RAO),
        },
        (MINER, RECIPIENT, COST_RAO),
        [bytes.fromhex(PUBLIC_KEY), RECIPIENT, COST_RAO],
    ],
)
def test_a_transfer_event_by_name_or_in_order(attributes: Any) -> None:
    assert chain.transfer(attributes) == MOVED


@pytest.mark.parametrize("attributes", [None, {}, (MINER, RECIPIENT), {"from": MINER, "to": RECIPIENT, "amount": "x"}])
def test_a_transfer_event_in_another_shape_is_no_refusal(attributes: Any) -> None:
    with pytest.raises(TransientFault):
        chain.transfer(attributes)
