"""What ingest records: given this story, when this was sent, paid, proven, refused or given up, then these events."""

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from services.ingest import decide
from services.ingest.payment import Proven, Refused
from services.ingest.settings import Paid, Settings, from_environment
from shared import request
from shared.environment import SettingsError
from shared.events import CreditGranted, EvaluationAbandoned, Event, Payment, PaymentClaimed, SubmissionPaid
from shared.faults import Refusal
from tests.support.stories import (
    ALICE,
    BEGIN,
    BOB,
    CODE,
    COMPETITION,
    TRANSFER,
    abandoned,
    claimed,
    completed,
    credited,
    finished,
    paid,
    refused,
    requested,
    signed,
    started,
    story,
    verified,
)

PAID = paid()
BEGUN: tuple[Event, ...] = (PAID, requested(), started())


def test_a_submission_is_recorded_once() -> None:
    assert decide.accept([], PAID) == [PAID]
    assert decide.accept(story(PAID), PAID) == []
    assert decide.accept(story(*BEGUN, *finished("s1", (1.0,), evaluation="e1")), PAID) == []


OTHER_CODE = msgspec.structs.replace(PAID, code_sha256="e" * 64)
OTHER_HOTKEY = msgspec.structs.replace(PAID, miner_hotkey=BOB)

PAYMENTS: list[tuple[str, tuple[Event, ...], SubmissionPaid | PaymentClaimed, str | None]] = [
    ("nothing was bought with it", (), PAID, None),
    ("it bought this very submission", (PAID,), PAID, None),
    ("it bought this one, which was evaluated since", BEGUN, PAID, None),
    ("it bought other code", (PAID,), OTHER_CODE, "has paid for other code, submission s1"),
    ("it bought another hotkey's", (PAID,), OTHER_HOTKEY, "has paid for a submission of another hotkey"),
    ("it bought what a claim wants", BEGUN, claimed(), None),
    ("it bought another hotkey's than a claim wants", (PAID,), claimed(hotkey=BOB), "of another hotkey"),
]


@pytest.mark.parametrize(("why", "given", "wanted", "detail"), PAYMENTS, ids=[row[0] for row in PAYMENTS])
def test_a_payment_buys_one_file_of_one_miner(
    why: str, given: tuple[Event, ...], wanted: SubmissionPaid | PaymentClaimed, detail: str | None
) -> None:
    taken = decide.already_used(story(*given), wanted)
    assert (taken is None) == (detail is None), why
    if taken is not None and detail is not None:
        assert (taken.refusal, taken.received) == (Refusal.ALREADY_USED, False)
        assert detail in taken.detail
    # What is refused is never recorded either.
    if isinstance(wanted, SubmissionPaid):
        assert decide.accept(story(*given), wanted) == ([] if given else [wanted])


def claim(*, hotkey: str = ALICE, code: str = CODE, reference: str = TRANSFER) -> PaymentClaimed:
    return decide.claim(
        miner_hotkey=hotkey, code_sha256=code, code_bytes=9, payment_reference=reference, request=signed()
    )


PROVEN = Proven(
    payment=Payment(reference=TRANSFER, amount_rao=100_000_001, payer=BOB, recipient=BOB, block_number=7),
    uid=12,
    overpaid_rao=1,
)


def test_a_claim_is_of_one_payment_for_one_code_of_one_hotkey() -> None:
    others = [claim(hotkey=BOB), claim(code="e" * 64), claim(reference=f"credit:{'a' * 32}")]
    assert len({claim().claim_id, *(other.claim_id for other in others)}) == 4
    assert claim().claim_id == claim().claim_id == request.claim_id(TRANSFER, miner_hotkey=ALICE, code_sha256=CODE)
    # The payment alone is the submission: whoever is proven first has it.
    assert [other.submission_id == claim().submission_id for other in others] == [True, True, False]
    for part in (claim().claim_id, claim().submission_id):
        assert part.isalnum(), "it is one token of a NATS subject"


def test_what_is_bought_says_who_paid_and_who_signed() -> None:
    bought = decide.bought(claim(), PROVEN)
    assert bought == SubmissionPaid(
        submission_id=request.submission_id(TRANSFER),
        miner_hotkey=ALICE,
        miner_uid=12,
        code_sha256=CODE,
        code_bytes=9,
        payment=PROVEN.payment,
        request=signed(),
    )
    assert decide.already_used(story(bought), claim()) is None


def test_without_a_chain_each_file_of_each_miner_has_a_free_payment_of_its_own() -> None:
    first = decide.free(miner_hotkey=ALICE, code_sha256=CODE, code_bytes=9)
    assert first == decide.free(miner_hotkey=ALICE, code_sha256=CODE, code_bytes=9)
    assert (first.payment.amount_rao, first.payment.is_paid, first.request) == (0, False, None)
    assert first.payment.reference.startswith("unpaid:")
    assert first.submission_id == request.submission_id(first.payment.reference)
    with pytest.raises(request.InvalidReference):  # nobody can ask for it where payments are taken
        request.check_reference(first.payment.reference)
    others = [(BOB, CODE), (ALICE, "e" * 64)]
    ids = {decide.free(miner_hotkey=hotkey, code_sha256=code, code_bytes=9).submission_id for hotkey, code in others}
    assert len(ids | {first.submission_id}) == 3


CLAIM, REFUSED = claimed(), refused()

CLAIMS: list[tuple[str, tuple[Event, ...], bool, bool]] = [
    ("unknown", (), True, False),
    ("waits", (CLAIM,), False, True),
    ("refused after it waited", (CLAIM, REFUSED), False, False),
    ("refused at once", (REFUSED,), False, False),
]


@pytest.mark.parametrize(("why", "given", "recorded", "waits"), CLAIMS, ids=[row[0] for row in CLAIMS])
def test_a_claim_waits_once_and_never_after_its_refusal(
    why: str, given: tuple[Event, ...], recorded: bool, waits: bool
) -> None:
    assert decide.wait(story(*given), CLAIM) == ([CLAIM] if recorded else []), why
    assert decide.waits(story(*given)) == waits
    assert decide.refused_before(story(*given)) == (REFUSED if REFUSED in given else None)


def refusal(code: Refusal, *, received: bool) -> Refused:
    return Refused(refusal=code, detail="no", payer=BOB, amount_rao=5, received=received)


REFUSALS: list[tuple[str, tuple[Event, ...], Refused, bool]] = [
    ("nothing arrived", (), refusal(Refusal.NOT_FOUND, received=False), False),
    ("somebody else's payment", (), refusal(Refusal.ALREADY_USED, received=False), False),
    ("too little arrived", (), refusal(Refusal.TOO_SMALL, received=True), True),
    ("it arrived long ago", (), refusal(Refusal.TOO_OLD, received=True), True),
    ("it can still be used", (), refusal(Refusal.HOTKEY_NOT_REGISTERED, received=True), False),
    ("a claim of nothing waits", (CLAIM,), refusal(Refusal.NOT_FOUND, received=False), True),
    ("a claim of somebody else's waits", (CLAIM,), refusal(Refusal.ALREADY_USED, received=False), True),
    ("a claim of money waits", (CLAIM,), refusal(Refusal.TOO_SMALL, received=True), True),
    ("a claim of what can still be used waits", (CLAIM,), refusal(Refusal.HOTKEY_NOT_REGISTERED, received=True), True),
    ("it was refused before", (CLAIM, REFUSED), refusal(Refusal.TOO_SMALL, received=True), False),
    ("it was refused at once before", (REFUSED,), refusal(Refusal.TOO_OLD, received=True), False),
]


@pytest.mark.parametrize(("why", "given", "outcome", "recorded"), REFUSALS, ids=[row[0] for row in REFUSALS])
def test_a_refusal_is_recorded_where_somebody_lost_something(
    why: str, given: tuple[Event, ...], outcome: Refused, recorded: bool
) -> None:
    events = decide.refuse(story(*given), CLAIM, outcome)
    assert len(events) == recorded, why
    for event in events:
        assert (event.claim_id, event.submission_id, event.miner_hotkey) == ("k1", "s1", ALICE)
        assert (event.refusal, event.detail, event.payer, event.amount_rao) == (outcome.refusal, "no", BOB, 5)
        assert decide.refuse(story(*given, event), CLAIM, outcome) == []


def test_money_that_was_never_claimed_is_recorded_under_its_hotkey_alone() -> None:
    names = {decide.lost(claim()).claim_id, decide.lost(claim(code="e" * 64)).claim_id}
    assert len(names) == 1
    names |= {decide.lost(claim(hotkey=BOB)).claim_id, decide.lost(claim(reference=CREDIT)).claim_id, claim().claim_id}
    assert len(names) == 4


def test_waiting_makes_no_payment_too_old() -> None:
    now = BEGIN.timestamp() + 1000.0
    claimed_at = (BEGIN + timedelta(seconds=1)).timestamp()  # the first of a story
    assert decide.received_at_seconds([], now_seconds=now) == now
    assert decide.received_at_seconds(story(CLAIM), now_seconds=now) == claimed_at
    assert decide.received_at_seconds(story(CLAIM, REFUSED), now_seconds=now) == claimed_at
    assert decide.received_at_seconds(story(REFUSED), now_seconds=now) == now


CREDIT = f"credit:{'a' * 32}"


@pytest.mark.parametrize(
    ("why", "given", "detail"),
    [
        ("granted", (credited(),), None),
        ("never granted", (), "there is no such credit"),
        ("granted to another hotkey", (credited(hotkey=BOB),), "it is another hotkey's credit"),
    ],
)
def test_a_credit_is_its_hotkeys(why: str, given: tuple[Event, ...], detail: str | None) -> None:
    outcome = decide.credit_refused(story(*given), claim(reference=CREDIT))
    assert (outcome is None) == (detail is None), why
    if outcome is not None and detail is not None:
        assert (outcome.refusal, outcome.received) == (Refusal.NO_SUCH_CREDIT, False)
        assert detail in outcome.detail


def test_a_credit_is_spent_by_a_hotkey_on_the_subnet() -> None:
    spent = decide.spend(claim(reference=CREDIT), uid=0)
    assert spent == Proven(payment=Payment(reference=CREDIT, amount_rao=0), uid=0, overpaid_rao=0)
    assert isinstance(spent, Proven)
    assert spent.payment.is_paid
    gone = decide.spend(claim(reference=CREDIT), uid=None)
    assert isinstance(gone, Refused)
    assert gone.refusal is Refusal.HOTKEY_NOT_REGISTERED
    assert "the credit stays valid" in gone.detail


BOUGHT = msgspec.structs.replace(decide.bought(claim(), PROVEN), submission_id="s1")
BY_CREDIT = msgspec.structs.replace(BOUGHT, payment=Payment(reference=CREDIT, amount_rao=0))
FAILED = (completed(0, failure="crashed"), verified(0, failure="crashed"))
RETEST = requested(evaluation="e2")

GRANTS: list[tuple[str, tuple[Event, ...], EvaluationAbandoned, bool]] = [
    ("a paid one was given up", (BOUGHT, requested(), abandoned()), abandoned(), True),
    ("one that a credit paid for", (BY_CREDIT, requested(), abandoned()), abandoned(), True),
    ("an unpaid one", (PAID, requested(), abandoned()), abandoned(), False),
    (
        "another attempt got further",
        (BOUGHT, requested(), started(), abandoned(), started(attempt=2), *FAILED),
        abandoned(),
        True,
    ),
    (
        "its re-test was given up",
        (BOUGHT, requested(), started(), *FAILED, RETEST, abandoned(evaluation="e2")),
        abandoned(evaluation="e2"),
        True,
    ),
    (
        "its re-test was given up too",
        (BOUGHT, requested(), abandoned(), RETEST, abandoned(evaluation="e2")),
        abandoned(evaluation="e2"),
        False,
    ),
    (
        "the first of two",
        (BOUGHT, requested(), abandoned(), RETEST, abandoned(evaluation="e2")),
        abandoned(),
        True,
    ),
]


@pytest.mark.parametrize(("why", "given", "given_up", "expected"), GRANTS, ids=[row[0] for row in GRANTS])
def test_one_credit_for_what_was_paid_for_and_not_evaluated(
    why: str, given: tuple[Event, ...], given_up: EvaluationAbandoned, expected: bool
) -> None:
    granted = decide.grant(story(*given), given_up)
    assert (granted is not None) == expected, why
    if granted is not None:
        assert (granted.miner_hotkey, granted.submission_id) == (ALICE, "s1")
        assert (granted.evaluation_id, granted.detail) == (given_up.evaluation_id, given_up.detail)
        assert request.parse_credit(request.credit_reference(granted.credit_id)) == granted.credit_id
        assert decide.credit([], granted) == [granted]
        assert decide.credit(story(granted), granted) == []


def test_each_evaluation_has_a_credit_of_its_own() -> None:
    granted: list[CreditGranted | None] = [
        decide.grant(story(BOUGHT, requested(evaluation=name), abandoned(evaluation=name)), abandoned(evaluation=name))
        for name in ("e1", "e1", "e2")
    ]
    assert len({one.credit_id for one in granted if one is not None}) == 2


REQUESTS: list[tuple[str, tuple[Event, ...], bool]] = [
    ("paid", (PAID,), True),
    ("asked for already", (PAID, requested()), False),
    ("asked for under other hparams", (PAID, requested(competition="e" * 64)), False),
    ("under way", BEGUN, False),
    ("given up", (PAID, requested(), abandoned()), False),
    ("finished", (PAID, *finished("s1", (1.0,))), False),
    ("unknown", (), False),
]


@pytest.mark.parametrize(("why", "given", "expected"), REQUESTS, ids=[row[0] for row in REQUESTS])
def test_an_evaluation_is_requested_once(why: str, given: tuple[Event, ...], expected: bool) -> None:
    events = decide.request(story(*given), hparams_sha256=COMPETITION, runs=3)
    assert [(event.submission_id, event.code_sha256, event.hparams_sha256, event.runs) for event in events] == (
        [("s1", CODE, COMPETITION, 3)] if expected else []
    ), why
    for event in events:
        assert event.reason == "submitted"
        assert decide.request(story(*given, event), hparams_sha256="e" * 64, runs=1) == []


def test_the_evaluation_is_of_one_submission_under_one_competition() -> None:
    asked = [
        decide.request(story(paid(submission)), hparams_sha256=competition, runs=3)[0].evaluation_id
        for submission, competition in [("s1", COMPETITION), ("s1", COMPETITION), ("s2", COMPETITION), ("s1", "e" * 64)]
    ]
    assert [evaluation == asked[0] for evaluation in asked] == [True, True, False, False]


ENVIRON = {
    "TOURNAMENT_NATS_URL": "nats://a",
    "TOURNAMENT_ARTIFACTS_DIR": "/data/artifacts",
    "TOURNAMENT_HPARAMS": "/data/hparams.json",
}


def test_settings() -> None:
    assert from_environment(ENVIRON) == Settings(
        nats_url="nats://a",
        artifacts=Path("/data/artifacts"),
        hparams=Path("/data/hparams.json"),
        host="127.0.0.1",
        port=8001,
        api_url="http://127.0.0.1:8000",
        paid=None,
    )
    chosen = {
        "TOURNAMENT_INGEST_HOST": "::",
        "TOURNAMENT_INGEST_PORT": "80",
        "TOURNAMENT_API_URL": "https://t.example/",
    }
    settings = from_environment(ENVIRON | chosen)
    assert (settings.host, settings.port, settings.api_url) == ("::", 80, "https://t.example")


@pytest.mark.parametrize("missing", list(ENVIRON))
def test_a_missing_setting_is_named(missing: str) -> None:
    with pytest.raises(SettingsError, match=f"{missing} is not set"):
        from_environment({name: value for name, value in ENVIRON.items() if name != missing})


@pytest.mark.parametrize(
    ("name", "value"), [("TOURNAMENT_API_URL", "t.example:8000"), ("TOURNAMENT_INGEST_PORT", "65536")]
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is .*{value}.*; it must"):
        from_environment(ENVIRON | {name: value})


CHAIN = {"TOURNAMENT_CHAIN_ENDPOINT": "ws://node", "TOURNAMENT_PAYMENT_RECIPIENT": ALICE}


def test_with_a_chain_submissions_are_paid() -> None:
    assert from_environment(ENVIRON | CHAIN).paid == Paid(chain_endpoint="ws://node", recipient=ALICE)
    assert from_environment(ENVIRON | dict.fromkeys(CHAIN, "")).paid is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"TOURNAMENT_PAYMENT_RECIPIENT": ""}, "TOURNAMENT_PAYMENT_RECIPIENT is not set; with TOURNAMENT_CHAIN"),
        ({"TOURNAMENT_PAYMENT_RECIPIENT": ALICE[:-1]}, "TOURNAMENT_PAYMENT_RECIPIENT is .*; it must be a Bittensor"),
        ({"TOURNAMENT_CHAIN_ENDPOINT": ""}, "TOURNAMENT_PAYMENT_RECIPIENT is set without TOURNAMENT_CHAIN_ENDPOINT"),
    ],
)
def test_half_a_way_to_be_paid_is_none(changes: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        from_environment(ENVIRON | CHAIN | changes)
