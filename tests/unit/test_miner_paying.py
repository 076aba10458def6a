"""The miner's paid command against a validator that a test makes up: checks, refusals, claims, outages, watching."""

import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bittensor
import pytest
import structlog
from bittensor.sp_core import Keypair

from neurons import (
    competition,
    local,
    miner,
    payment,
    payments_folder,
    preflight,
    submitting,
    transfer,
    validator_client,
)
from neurons.outcome import Unusable
from neurons.payment import PaymentRecord
from neurons.transfer import Standing
from neurons.validator_client import Info, Submission
from shared import hparams, request
from shared.faults import Failure, TransientFault
from tests.support.evidence import EXPECTED
from tests.support.imitation import Asked, Imitation, imitation

GENESIS = f"0x{'9' * 64}"
COLDKEY, HOTKEY = Keypair.create_from_uri("//Bob"), Keypair.create_from_uri("//Bob//hot")
RECIPIENT = str(Keypair.create_from_uri("//Alice").ss58_address)
MINER = str(HOTKEY.ss58_address)
SOURCE = b"def inner_steps(model, data_iterator, optimizer, num_steps, device): ...\n"
CODE = hashlib.sha256(SOURCE).hexdigest()
REFERENCE = f"0x{'a' * 64}-2"
BOUGHT = request.submission_id(REFERENCE)
DEMO = hparams.load(competition.HPARAMS / "demo.json")
STANDING = Standing(genesis_hash=GENESIS, owner=str(COLDKEY.ss58_address), uid=7, free_rao=10**9, fee_rao=10**5)

Run = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(submitting, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(submitting, "CHAIN_REACHED_SECONDS", 0.1)
    monkeypatch.setattr(validator_client, "PAUSE_SECONDS", 0.01)
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def validator() -> Iterator[Imitation]:
    with imitation() as made:
        made.on("GET", "/info", lambda _: (200, info(made)))
        made.on("GET", "/submissions", (200, []))
        made.on("GET", "/submissions/", (200, submission()))
        made.on("GET", "/credits", (200, []))
        made.on("GET", "/leaderboard", (200, [row(1, "other"), row(2, BOUGHT)]))
        made.on("POST", "/submissions", (201, accepted(made)))
        yield made


def info(made: Imitation, **changes: Any) -> dict[str, Any]:
    return {
        "netuid": DEMO.economy.netuid,
        "submission_cost_rao": DEMO.economy.submission_cost_rao,
        "payment_max_age_seconds": 86_400,
        "payment_recipient": RECIPIENT,
        "genesis_hash": GENESIS,
        "hparams": DEMO.name,
        "hparams_sha256": DEMO.sha256,
        "max_code_bytes": DEMO.max_code_bytes,
        "api_url": made.url,
        "time_seconds": time.time(),
    } | changes


def accepted(made: Imitation) -> dict[str, Any]:
    return {"submission_id": BOUGHT, "status_url": f"{made.url}/submissions/{BOUGHT}", "status": "pending"}


def submission(**changes: Any) -> dict[str, Any]:
    return {
        "submission_id": BOUGHT,
        "miner_hotkey": MINER,
        "code_hash": f"sha256:{'0' * 64}",
        "status": "finished",
        "created_at": "2026-01-02T03:04:05Z",
        "final_score": 8012.5,
    } | changes


def row(rank: int, submission_id: str) -> dict[str, Any]:
    return {
        "rank": rank,
        "submission_id": submission_id,
        "miner_hotkey": MINER,
        "final_score": 8012.5,
        "num_evaluations": 3,
        "created_at": "2026-01-02T03:04:05Z",
    }


@pytest.fixture
def wallet_flags(tmp_path: Path) -> list[str]:
    kept = bittensor.Wallet("w", "h", str(tmp_path / "wallets"))
    kept.coldkey_file.set_keypair(COLDKEY, encrypt=False)
    kept.hotkey_file.set_keypair(HOTKEY, encrypt=False)
    return ["--wallet.name", "w", "--wallet.hotkey", "h", "--wallet.path", str(tmp_path / "wallets")]


@pytest.fixture
def train(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_bytes(SOURCE)
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def go(*arguments: object) -> tuple[int, dict[str, Any], str]:
        code = miner.main([*map(str, arguments), "--json"])
        captured = capsys.readouterr()
        assert captured.out.count("\n") == 1, captured
        return code, json.loads(captured.out), captured.err

    return go


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch) -> list[Standing | Exception]:
    """In place of a chain: what it says of the miner. It never takes a payment."""
    says: list[Standing | Exception] = [STANDING]

    async def ask(*_: Any, **__: Any) -> Standing:
        if isinstance(says[-1], Exception):
            raise says[-1]
        return says[-1]

    async def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing is signed here")

    monkeypatch.setattr(transfer, "standing", ask)
    monkeypatch.setattr(transfer, "sign", never)
    return says


@pytest.fixture
def kept(tmp_path: Path, validator: Imitation, train: Path) -> tuple[Path, PaymentRecord]:
    """A payment that is final and has bought nothing yet."""
    record = PaymentRecord(
        created_at="2026-01-02T03:04:05+00:00",
        validator=validator.url,
        chain="finney",
        genesis_hash=GENESIS,
        netuid=3,
        recipient=RECIPIENT,
        amount_rao=10**8,
        miner_hotkey=MINER,
        wallet=payment.Wallet(name="w", hotkey="h", path=str(tmp_path / "wallets")),
        file=str(train),
        source=SOURCE,
        reference=REFERENCE,
    )
    path = payments_folder.path_of(payments_folder.folder(os.environ), record)
    payments_folder.save(path, record)
    return path, record


Kept = tuple[Path, PaymentRecord]


@pytest.mark.usefixtures("wallet_flags")
def test_a_kept_payment_is_submitted_with_a_signature(run: Run, validator: Imitation, kept: Kept) -> None:
    code, answer, _ = run("--resume")
    assert code == 0
    assert answer["verdict"] == "passed"
    assert (answer["tps"], answer["rank"], answer["payment"], answer["paid_rao"]) == (8012.5, 2, REFERENCE, 10**8)
    [post] = [asked for asked in validator.asked if asked.method == "POST"]
    assert SOURCE in post.body
    for text in (REFERENCE, MINER, 'name="signed_at"', 'name="signature"'):
        assert text.encode() in post.body
    assert payments_folder.load(kept[0]).answer == payment.Answer(
        submission_id=BOUGHT, status_url=f"{validator.url}/submissions/{BOUGHT}"
    )
    assert run("--resume", REFERENCE)[0] == 0
    assert validator.posts() == 1, "what is submitted is only watched"


@pytest.mark.usefixtures("wallet_flags")
def test_the_signature_is_over_the_documented_message() -> None:
    signed = validator_client.sign(
        3, RECIPIENT, miner_hotkey=MINER, code_sha256="c" * 64, reference=REFERENCE, key=HOTKEY
    )
    text = request.message(signed, miner_hotkey=MINER, code_sha256="c" * 64, payment_reference=REFERENCE)
    assert Keypair(ss58_address=MINER).verify(text, bytes.fromhex(signed.signature[2:]))
    assert abs(signed.signed_at_seconds - time.time()) < 5


@pytest.mark.usefixtures("wallet_flags", "kept")
def test_a_claim_is_followed_until_it_is_accepted(run: Run, validator: Imitation) -> None:
    mine = request.claim_id(REFERENCE, miner_hotkey=MINER, code_sha256=CODE)
    states = iter(["", "waiting", "accepted"])

    def claims(_: Asked) -> tuple[int, Any]:
        status = next(states)
        others = [{"claim_id": "other", "status": "refused", "code": "payment_already_used", "detail": "x"}]
        ours = [{"claim_id": mine, "status": status}] if status else []
        return 200, {"reference": REFERENCE, "submission_id": None, "claims": others + ours}

    validator.on("POST", "/submissions", (202, {"status": "waiting"}))
    validator.on("GET", "/payments/", claims)
    code, answer, said = run("--resume")
    assert (code, answer["submission_id"]) == (0, BOUGHT)
    assert "waits until it can check the payment" in said


@pytest.mark.parametrize(
    ("refusal", "ends", "what"),
    [
        ("hotkey_not_registered", 3, "register the hotkey on the subnet, then go on"),
        ("payment_already_used", 2, "will not take this payment"),
    ],
)
@pytest.mark.usefixtures("wallet_flags")
def test_a_claim_that_is_refused(
    *, refusal: str, ends: int, what: str, run: Run, validator: Imitation, kept: Kept
) -> None:
    mine = request.claim_id(REFERENCE, miner_hotkey=MINER, code_sha256=CODE)
    claim = {"claim_id": mine, "status": "refused", "code": refusal, "detail": "because"}
    validator.on("POST", "/submissions", (202, {}))
    validator.on("GET", "/payments/", (200, {"reference": REFERENCE, "claims": [claim]}))
    code, answer, _ = run("--resume")
    assert (code, answer["code"]) == (ends, refusal)
    assert what in answer["error"]
    assert "because" in answer["error"]
    assert payments_folder.load(kept[0]).unfinished is (ends == 3)


@pytest.mark.parametrize(
    ("status", "refusal", "ends"),
    [
        (401, "request_stale", 3),
        (401, "signature_invalid", 3),
        (402, "hotkey_not_registered", 3),
        (402, "payment_not_found", 3),
        (402, "payment_too_old", 2),
        (402, "payment_wrong_recipient", 2),
        (409, "payment_already_used", 2),
        (422, "invalid_submission", 3),
        (418, "new_in_a_later_release", 3),
    ],
)
@pytest.mark.usefixtures("wallet_flags")
def test_a_refused_upload_keeps_what_can_still_buy(
    *, status: int, refusal: str, ends: int, run: Run, validator: Imitation, kept: Kept
) -> None:
    validator.on("POST", "/submissions", (status, {"detail": "look here", "code": refusal}))
    code, answer, _ = run("--resume")
    assert (code, answer["code"]) == (ends, refusal)
    assert "look here" in answer["error"]
    assert str(kept[0]) in answer["error"]
    assert ("--resume" in answer["error"]) is (ends == 3)
    assert payments_folder.load(kept[0]).unfinished is (ends == 3)
    validator.on("POST", "/submissions", (201, accepted(validator)))
    assert run("--resume", REFERENCE)[0] == 0, "who names it may always try again"


@pytest.mark.usefixtures("wallet_flags")
def test_outages_are_waited_for_and_then_left_to_a_later_resume(run: Run, validator: Imitation, kept: Kept) -> None:
    answers = iter([(503, {"detail": "busy", "code": "try_again_later"}), (500, "?"), (201, accepted(validator))])
    validator.on("POST", "/submissions", lambda _: next(answers))
    assert run("--resume")[0] == 0
    payments_folder.save(*kept)
    validator.on("POST", "/submissions", (503, {"detail": "busy", "code": "try_again_later"}))
    code, answer, said = run("--resume", "--timeout", "0.1")
    assert (code, answer["code"]) == (3, "try_again_later")
    assert "busy; again in" in said
    assert payments_folder.load(kept[0]) == kept[1]


@pytest.mark.usefixtures("wallet_flags", "kept")
def test_another_file_can_be_named_for_a_kept_payment(run: Run, validator: Imitation, tmp_path: Path) -> None:
    corrected = tmp_path / "corrected.py"
    corrected.write_bytes(SOURCE + b"# corrected\n")
    assert run(corrected, "--resume")[0] == 0
    assert b"# corrected" in next(asked for asked in validator.asked if asked.method == "POST").body


@pytest.mark.usefixtures("kept")
def test_a_kept_payment_needs_its_hotkey(run: Run, validator: Imitation, tmp_path: Path) -> None:
    code, answer, _ = run("--resume")
    assert code == 2
    assert f"there is no {tmp_path}/wallets/w/hotkeys/h" in answer["error"]
    other = bittensor.Wallet("w", "other", str(tmp_path / "wallets"))
    other.hotkey_file.set_keypair(COLDKEY, encrypt=False)
    code, answer, _ = run(
        "--resume", "--wallet.name", "w", "--wallet.hotkey", "other", "--wallet.path", tmp_path / "wallets"
    )
    assert code == 2
    assert f"the payment is for hotkey {MINER}" in answer["error"]
    assert validator.posts() == 0


def paying(validator: Imitation, train: Path, wallet_flags: list[str], *more: str) -> list[object]:
    return [
        *(train, *wallet_flags, "--validator", validator.url, "--payment-recipient", RECIPIENT),
        *("--chain", "ws://127.0.0.1:1", *more),
    ]


INFO_FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"payment_recipient": MINER}, f"takes payments at {MINER}"),
    ({"submission_cost_rao": 2 * 10**8}, "the validator asks 0.2 TAO, but hparams demo-cpu here say 0.1 TAO"),
    ({"netuid": 4}, "the validator is on subnet 4"),
    ({"time_seconds": time.time() - 10**6}, "clock is"),
    ({"genesis_hash": None}, "has not reached its chain yet"),
    ({"genesis_hash": "0x1"}, "is not the validator's chain"),
    ({"max_code_bytes": 10}, "at most 10 are accepted; nothing was paid"),
    ({"hparams_sha256": "f" * 64, "submission_cost_rao": 1}, "the validator asks 0.000000001 TAO"),
]


@pytest.mark.parametrize(("changes", "why"), INFO_FAULTS)
@pytest.mark.usefixtures("chain")
def test_what_is_wrong_with_the_validator_is_told_before_paying(
    *, changes: dict[str, Any], why: str, run: Run, validator: Imitation, train: Path, wallet_flags: list[str]
) -> None:
    validator.on("GET", "/info", lambda _: (200, info(validator, **changes)))
    code, answer, _ = run(*paying(validator, train, wallet_flags, "--yes", "--skip-test"))
    assert code == 2
    assert why in answer["error"]
    assert payments_folder.unfinished(payments_folder.folder(os.environ)) == []


CHAIN_FAULTS: list[tuple[Standing | Exception, str]] = [
    (TransientFault("cannot reach the chain at ws://127.0.0.1:1: refused"), "cannot reach the chain"),
    (Standing(genesis_hash=GENESIS, owner=None, uid=None, free_rao=0, fee_rao=0), "is not registered on subnet 3"),
    (Standing(genesis_hash=GENESIS, owner="5Other", uid=7, free_rao=0, fee_rao=0), "belongs to coldkey 5Other"),
    (
        Standing(genesis_hash=GENESIS, owner=STANDING.owner, uid=7, free_rao=10**8, fee_rao=1),
        "can spend 0.1 TAO; 0.100000001 TAO are needed (0.1 TAO and a fee of 0.000000001 TAO)",
    ),
]


@pytest.mark.parametrize(("says", "why"), CHAIN_FAULTS)
def test_what_is_wrong_on_the_chain_is_told_before_paying(
    *,
    says: Standing | Exception,
    why: str,
    run: Run,
    validator: Imitation,
    train: Path,
    wallet_flags: list[str],
    chain: list[Standing | Exception],
) -> None:
    chain.append(says)
    code, answer, _ = run(*paying(validator, train, wallet_flags, "--yes", "--skip-test"))
    assert code == 2
    assert why in answer["error"]


@pytest.mark.usefixtures("chain")
def test_the_same_code_is_not_paid_for_twice(
    run: Run, validator: Imitation, train: Path, wallet_flags: list[str]
) -> None:
    validator.on("GET", "/submissions", (200, [submission(status="evaluating")]))
    code, answer, _ = run(*paying(validator, train, wallet_flags, "--yes", "--skip-test"))
    assert code == 2
    assert f"has submitted this code already: {BOUGHT} (evaluating)" in answer["error"]
    asked = next(asked for asked in validator.asked if asked.path == "/submissions")
    assert asked.query == {"miner_hotkey": MINER, "code_hash": f"sha256:{CODE}"}


@pytest.mark.usefixtures("chain")
def test_a_credit_pays_first(run: Run, validator: Imitation, train: Path, wallet_flags: list[str]) -> None:
    def credit(number: int, spent_by: str | None) -> dict[str, Any]:
        return {
            "credit_id": f"{number:032x}",
            "reference": f"credit:{number:032x}",
            "miner_hotkey": MINER,
            "submission_id": f"s{number}",
            "detail": "the disk was full",
            "spent_by": spent_by,
        }

    validator.on("GET", "/credits", (200, [credit(1, "s0"), credit(2, None)]))
    validator.on("GET", "/submissions", (200, [submission(status="error")]))
    code, answer, said = run(*paying(validator, train, wallet_flags, "--yes", "--skip-test"))
    assert code == 0
    assert (answer["payment"], answer["paid_rao"]) == (f"credit:{2:032x}", 0)
    assert "a credit pays: submission s2 could not be evaluated (the disk was full)" in said


@pytest.mark.usefixtures("chain")
def test_nothing_is_paid_without_a_yes(run: Run, validator: Imitation, train: Path, wallet_flags: list[str]) -> None:
    code, answer, _ = run(*paying(validator, train, wallet_flags, "--skip-test"))
    assert code == 2
    assert "Pay 0.1 TAO (and a fee of about 0.0001 TAO)" in answer["error"]
    assert "add --yes" in answer["error"]
    assert payments_folder.unfinished(payments_folder.folder(os.environ)) == []


@pytest.mark.parametrize("typed", ["n\n", "\n", "", "yes please\n"])
@pytest.mark.usefixtures("chain")
def test_who_is_asked_must_say_yes(
    *,
    typed: str,
    run: Run,
    validator: Imitation,
    train: Path,
    wallet_flags: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal(typed))
    code, answer, said = run(*paying(validator, train, wallet_flags, "--skip-test"))
    assert (code, answer) == (2, {"error": "not submitted; nothing was paid"})
    assert "A payment is not given back. [y/N] " in said


@pytest.mark.usefixtures("wallet_flags", "kept")
def test_a_verdict_is_told_without_its_rank(run: Run, validator: Imitation) -> None:
    validator.on("GET", "/leaderboard", (503, {"detail": "busy", "code": "try_again_later"}))
    code, answer, _ = run("--resume")
    assert (code, answer["verdict"], answer["rank"]) == (0, "passed", None)


@pytest.mark.usefixtures("chain")
def test_a_file_is_not_paid_for_twice_by_a_command_that_is_repeated(
    run: Run, validator: Imitation, kept: Kept, train: Path, wallet_flags: list[str]
) -> None:
    code, answer, _ = run(*paying(validator, train, wallet_flags, "--skip-test", "--yes"))
    assert code == 2
    assert "this file has a payment already" in answer["error"]
    assert f"--resume {kept[0]}" in answer["error"]
    assert validator.posts() == 0


@pytest.mark.usefixtures("chain", "kept")
def test_an_unfinished_payment_is_not_forgotten(
    run: Run, validator: Imitation, train: Path, wallet_flags: list[str]
) -> None:
    train.write_bytes(SOURCE + b"# another\n")
    code, answer, _ = run(*paying(validator, train, wallet_flags, "--skip-test"))
    assert code == 2
    assert "There is an unfinished payment of 0.1 TAO from 2026-01-02T03:04:05+00:00" in answer["error"]
    assert "--resume goes on with it" in answer["error"]


@pytest.mark.usefixtures("chain")
def test_a_file_that_fails_here_is_not_paid_for(
    run: Run, validator: Imitation, train: Path, wallet_flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tested: list[str] = []

    def evaluate(source: bytes, parameters: Any, sandbox: str, report: Any) -> local.Verdict:
        tested.append(parameters.name)
        refused = local.refuse("it crashed", EXPECTED)
        return local.Verdict(
            **{name: getattr(refused, name) for name in refused.__struct_fields__} | {"reason": Failure.CRASHED}
        )

    monkeypatch.setattr(miner, "_evaluate", evaluate)
    code, answer, said = run(*paying(validator, train, wallet_flags, "--yes"))
    assert (code, answer["verdict"], answer["reason"]) == (1, "failed", "crashed")
    assert tested == [DEMO.name], "under the validator's competition"
    assert "so nothing was paid" in said


@pytest.mark.usefixtures("chain")
def test_a_competition_that_is_not_here_cannot_be_tested(
    run: Run, validator: Imitation, train: Path, wallet_flags: list[str]
) -> None:
    validator.on("GET", "/info", lambda _: (200, info(validator, hparams="new", hparams_sha256="f" * 64)))
    code, answer, _ = run(*paying(validator, train, wallet_flags, "--yes"))
    assert code == 2
    assert "the validator runs hparams new (sha256 ffffffffffff…)" in answer["error"]
    assert "add --skip-test" in answer["error"]


def test_without_a_chain_it_submits_for_free(
    run: Run, validator: Imitation, train: Path, wallet_flags: list[str]
) -> None:
    validator.on("GET", "/info", lambda _: (200, info(validator, payment_recipient=None, genesis_hash=None)))
    code, answer, said = run(train, *wallet_flags, "--validator", validator.url, "--skip-test")
    assert (code, answer["verdict"], answer["payment"], answer["state_file"]) == (0, "passed", None, None)
    assert "takes no payments: this submission is free" in said
    [post] = [asked for asked in validator.asked if asked.method == "POST"]
    assert b"signature" not in post.body
    assert b'name="payment"' not in post.body


@pytest.mark.parametrize(
    ("changes", "code", "verdict"),
    [
        ({}, 0, "passed"),
        ({"status": "failed_validation", "reason": "crashed", "error_message": "boom"}, 1, "failed"),
        ({"status": "error", "error_message": "the validator's own fault"}, 2, None),
    ],
)
@pytest.mark.usefixtures("wallet_flags", "kept")
def test_it_follows_until_the_verdict(
    *, changes: dict[str, Any], code: int, verdict: str | None, run: Run, validator: Imitation
) -> None:
    states = iter(
        [
            (404, {"detail": "no such submission", "code": "submission_not_found"}),
            (200, submission(status="pending")),
            (503, {"detail": "busy", "code": "try_again_later"}),
            (200, submission(status="evaluating", runs_required=3, runs_completed=1)),
            (200, submission(**changes)),
        ]
    )
    validator.on("GET", "/submissions/", lambda _: next(states))
    ended, answer, said = run("--resume")
    assert (ended, answer["verdict"]) == (code, verdict)
    assert answer["reason"] == changes.get("reason")
    assert "is evaluating, 1 of 3 runs completed" in said


@pytest.mark.usefixtures("wallet_flags", "kept")
def test_who_stops_watching_is_told_how_to_go_on(
    run: Run, validator: Imitation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(submitting, "watch", stop)
    code, answer, _ = run("--resume")
    assert (code, answer["submission_id"]) == (130, BOUGHT)
    assert f"status {BOUGHT} --validator {validator.url}" in answer["error"]


def test_subcommands_answer_with_one_object(run: Run, validator: Imitation, wallet_flags: list[str]) -> None:
    at = ("--validator", validator.url)
    code, answer, _ = run("status", BOUGHT, *at)
    assert (code, answer["verdict"], answer["rank"]) == (0, "passed", 2)
    code, answer, _ = run("leaderboard", *at)
    assert (code, [one["rank"] for one in answer["leaderboard"]]) == (0, [1, 2])
    validator.on("GET", "/submissions", (200, [submission()]))
    for whose in (["--hotkey", MINER], wallet_flags):
        code, answer, _ = run("submissions", *at, *whose)
        assert (code, answer["miner_hotkey"]) == (0, MINER)
        assert answer["submissions"][0]["submission_id"] == BOUGHT


def test_subcommands_tell_what_is_wrong(run: Run, validator: Imitation, tmp_path: Path) -> None:
    at = ("--validator", validator.url)
    code, answer, _ = run("submissions", "--hotkey", MINER[:-1], *at)
    assert code == 2
    assert "--hotkey" in answer["error"]
    validator.on("GET", "/submissions/", (404, {"detail": "no such submission", "code": "submission_not_found"}))
    code, answer, _ = run("status", "x", *at)
    assert (code, answer["code"]) == (2, "submission_not_found")
    code, answer, _ = run("leaderboard", "--validator", "http://127.0.0.1:1")
    assert code == 2
    assert "does not answer" in answer["error"]


def test_what_people_read(validator: Imitation, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--validator", validator.url]
    assert miner.main(["status", BOUGHT, *at]) == 0
    assert "PASSED  8,012 tokens per second, rank 2" in capsys.readouterr().out
    assert miner.main(["leaderboard", *at]) == 0
    out = capsys.readouterr().out
    assert BOUGHT in out
    assert MINER in out, "not cut off"
    validator.on("GET", "/submissions", (200, [submission(status="failed_validation", error_message="[red]boom")]))
    assert miner.main(["submissions", "--hotkey", MINER, *at]) == 0
    assert "[red]boom" in capsys.readouterr().out


def test_the_recipient_must_be_named(run: Run, validator: Imitation, train: Path, wallet_flags: list[str]) -> None:
    code, answer, _ = run(train, *wallet_flags, "--validator", validator.url)
    assert code == 2
    assert "add --payment-recipient ADDRESS" in answer["error"]


def test_a_password_that_nobody_can_type_is_told(run: Run, validator: Imitation, train: Path, tmp_path: Path) -> None:
    kept = bittensor.Wallet("locked", "h", str(tmp_path / "wallets"))
    kept.coldkey_file.set_keypair(COLDKEY, encrypt=True, password="a long passphrase")
    kept.hotkey_file.set_keypair(HOTKEY, encrypt=False)
    flags = ["--wallet.name", "locked", "--wallet.hotkey", "h", "--wallet.path", str(tmp_path / "wallets")]
    code, answer, _ = run(*paying(validator, train, flags, "--yes", "--skip-test"))
    assert code == 2
    assert "has a password, and there is no terminal" in answer["error"]
    assert kept.coldkey_file.env_var_name() in answer["error"]


def test_a_password_can_come_from_the_environment(
    *,
    run: Run,
    validator: Imitation,
    train: Path,
    tmp_path: Path,
    chain: list[Standing | Exception],
) -> None:
    kept = bittensor.Wallet("locked", "h", str(tmp_path / "wallets"))
    kept.coldkey_file.set_keypair(COLDKEY, encrypt=True, password="a long passphrase")
    kept.hotkey_file.set_keypair(HOTKEY, encrypt=False)
    kept.coldkey_file.save_password_to_env("a long passphrase")
    flags = ["--wallet.name", "locked", "--wallet.hotkey", "h", "--wallet.path", str(tmp_path / "wallets")]
    try:
        code, answer, said = run(*paying(validator, train, flags, "--skip-test"))
    finally:
        # The SDK sets it below Python's own copy of the environment.
        os.unsetenv(kept.coldkey_file.env_var_name())
    assert code == 2
    assert "Pay 0.1 TAO" in answer["error"]
    assert "wallet locked/h is unlocked" in said
    assert "passphrase" not in said
    assert chain


def test_a_submission_that_the_validator_gave_up_may_be_submitted_again() -> None:
    given_up = Submission(
        submission_id="s", miner_hotkey="h", code_hash="c", status="error", created_at="2026-01-02T03:04:05Z"
    )
    assert preflight.check_new([given_up]) == "this code is new for this hotkey"
    with pytest.raises(Unusable, match="clock is 301 s ahead"):
        preflight.check_clock(Info(**{**INFO_FIELDS, "time_seconds": 1000.0}), 1301.0)


INFO_FIELDS: dict[str, Any] = {
    "netuid": 3,
    "submission_cost_rao": 1,
    "payment_max_age_seconds": 1,
    "payment_recipient": None,
    "genesis_hash": None,
    "hparams": "h",
    "hparams_sha256": "f" * 64,
    "max_code_bytes": 1024,
    "api_url": "http://x",
    "time_seconds": 0.0,
}


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        (REFERENCE, "it broke. A credit pays for the next submission of this hotkey"),
        (f"credit:{'c' * 32}", "it broke. A credit pays for the next submission of this hotkey"),
        ("unpaid:1", "it broke"),
    ],
)
def test_whoever_paid_for_what_the_validator_broke_is_told_of_the_credit(reference: str, said: str) -> None:
    found = validator_client.Submission(
        submission_id="s1",
        miner_hotkey=MINER,
        code_hash="sha256:1",
        status="error",
        created_at="",
        error_message="it broke",
        payment_reference=reference,
    )
    assert submitting._detail(found) == said
