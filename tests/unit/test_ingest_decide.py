"""What ingest records: given this story, when this was sent or paid, then these events."""

from pathlib import Path

import msgspec
import pytest

from services.ingest import decide, payment
from services.ingest.settings import Settings, from_environment
from shared.environment import SettingsError
from shared.events import Event, Payment, SubmissionPaid
from tests.support.stories import ALICE, CODE, COMPETITION, abandoned, finished, paid, requested, started, story

BOB = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty"
PAID = paid()
BEGUN: tuple[Event, ...] = (PAID, requested(), started())


def test_a_submission_is_recorded_once() -> None:
    assert decide.accept([], PAID) == [PAID]
    assert decide.accept(story(PAID), PAID) == []
    assert decide.accept(story(*BEGUN, *finished("s1", (1.0,), evaluation="e1")), PAID) == []


OTHER_CODE = msgspec.structs.replace(PAID, code_sha256="e" * 64)
OTHER_HOTKEY = msgspec.structs.replace(PAID, miner_hotkey=BOB)

PAYMENTS: list[tuple[str, tuple[Event, ...], SubmissionPaid, str | None]] = [
    ("nothing was bought with it", (), PAID, None),
    ("it bought this very submission", (PAID,), PAID, None),
    ("it bought this one, which was evaluated since", BEGUN, PAID, None),
    ("it bought other code", (PAID,), OTHER_CODE, "has paid for other code, submission s1"),
    ("it bought another hotkey's", (PAID,), OTHER_HOTKEY, "has paid for a submission of another hotkey"),
]


@pytest.mark.parametrize(("why", "given", "sent", "refusal"), PAYMENTS, ids=[row[0] for row in PAYMENTS])
def test_a_payment_buys_one_file_of_one_miner(
    why: str, given: tuple[Event, ...], sent: SubmissionPaid, refusal: str | None
) -> None:
    said = decide.refuses_payment(story(*given), sent)
    assert (said is None) == (refusal is None), why
    assert refusal is None or refusal in str(said)
    # What is refused is never recorded either.
    assert decide.accept(story(*given), sent) == ([] if given else [sent])


def test_the_submission_is_its_payment() -> None:
    bought = [
        decide.submission(
            miner_hotkey=hotkey, code_sha256=code, code_bytes=9, payment=Payment(reference=r, amount_rao=0)
        )
        for hotkey, code, r in [(ALICE, CODE, "a"), (BOB, CODE, "a"), (ALICE, "e" * 64, "a"), (ALICE, CODE, "b")]
    ]
    assert [paid.submission_id == bought[0].submission_id for paid in bought] == [True, True, True, False]
    assert [paid.id == bought[0].id for paid in bought] == [True, True, True, False]
    assert bought[0].submission_id.isalnum(), "it is one token of a NATS subject"


async def test_without_a_chain_each_file_of_each_miner_has_a_free_payment_of_its_own() -> None:
    first = await payment.confirm(miner_hotkey=ALICE, code_sha256=CODE)
    assert first == await payment.confirm(miner_hotkey=ALICE, code_sha256=CODE)
    assert first.amount_rao == 0
    assert first.reference.startswith("unpaid:")
    others = [(BOB, CODE), (ALICE, "e" * 64)]
    references = {(await payment.confirm(miner_hotkey=hotkey, code_sha256=code)).reference for hotkey, code in others}
    assert len(references | {first.reference}) == 3


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
