"""What a miner's command remembers of a payment, and what it does next."""

import os
import string
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurons import payment, payments_folder
from neurons.outcome import Unusable
from neurons.payment import Broadcast, Found, NotPaid, Paid, PaymentRecord, Sighting, Transfer, Wait, next_step
from shared.faults import Refusal

BLOCK = "0x" + "ab" * 32
TRANSFER = Transfer(
    extrinsic=b"\x45\x02", extrinsic_hash="0x" + "cd" * 32, payer="5Bob", nonce=7, first_block=100, last_block=164
)


def record(**changes: Any) -> PaymentRecord:
    fields: dict[str, Any] = {
        "created_at": "2026-01-02T03:04:05+00:00",
        "validator": "http://127.0.0.1:8001",
        "chain": "finney",
        "genesis_hash": BLOCK,
        "netuid": 3,
        "recipient": "5Alice",
        "amount_rao": 10**8,
        "miner_hotkey": "5Hot",
        "wallet": payment.Wallet(name="w", hotkey="h", path="~/.bittensor/wallets"),
        "file": "train.py",
        "source": b"code",
        "transfer": TRANSFER,
    }
    return PaymentRecord(**fields | changes)


def seen(**changes: Any) -> Sighting:
    return Sighting(**{"found": None, "searched_to": 120, "final_nonce": 7, "next_nonce": 8} | changes)


FOUND = Found(block_hash=BLOCK, index=2, succeeded=True)
FAILED = msgspec.structs.replace(FOUND, succeeded=False)


@pytest.mark.parametrize(
    ("sighting", "rejected", "since", "step"),
    [
        (seen(), None, None, Broadcast()),
        (seen(), None, 1.0, Wait()),
        (seen(), None, payment.BROADCAST_EVERY_SECONDS, Broadcast()),
        (seen(found=FOUND), None, None, Paid(reference=f"{BLOCK}-2")),
        (seen(found=FOUND, searched_to=164, final_nonce=8), "stale", 1.0, Paid(reference=f"{BLOCK}-2")),
        # In the node's pool or in a block that is not final yet: what it said does not count.
        (seen(next_nonce=8), "already imported", 1.0, Wait()),
        (seen(searched_to=163), None, 1.0, Wait()),
    ],
)
def test_the_next_step(sighting: Sighting, rejected: str | None, since: float | None, step: object) -> None:
    assert next_step(TRANSFER, sighting, rejected=rejected, since_broadcast_seconds=since) == step


@pytest.mark.parametrize(
    ("sighting", "rejected", "why"),
    [
        (seen(found=FAILED), None, "the transfer failed on the chain"),
        (seen(searched_to=164), None, "its time is over: nothing was paid"),
        (seen(final_nonce=8), None, "another transaction of this coldkey took the transfer's place"),
        (seen(next_nonce=7), "too poor", "the chain does not take the transfer: too poor; nothing was paid"),
    ],
)
def test_nothing_was_paid(sighting: Sighting, rejected: str | None, why: str) -> None:
    step = next_step(TRANSFER, sighting, rejected=rejected, since_broadcast_seconds=1.0)
    assert isinstance(step, NotPaid)
    assert why in step.why


@given(
    found=st.sampled_from([None, FOUND, FAILED]),
    searched_to=st.integers(99, 300),
    final_nonce=st.integers(0, 12),
    next_nonce=st.integers(0, 12),
    rejected=st.sampled_from([None, "no"]),
    since=st.none() | st.floats(0, 100),
)
def test_it_is_never_called_unpaid_while_it_could_still_be_included(
    *,
    found: Found | None,
    searched_to: int,
    final_nonce: int,
    next_nonce: int,
    rejected: str | None,
    since: float | None,
) -> None:
    sighting = Sighting(found=found, searched_to=searched_to, final_nonce=final_nonce, next_nonce=next_nonce)
    step = next_step(TRANSFER, sighting, rejected=rejected, since_broadcast_seconds=since)
    could = found is None and searched_to < TRANSFER.last_block and final_nonce <= TRANSFER.nonce
    if could and (rejected is None or next_nonce > TRANSFER.nonce):
        assert isinstance(step, Broadcast | Wait)
    else:
        assert isinstance(step, Paid if found == FOUND else NotPaid)


def event(name: str, index: int | None = 2, module: str = "System") -> dict[str, Any]:
    return {"extrinsic_idx": index, "module_id": module, "event_id": name}


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([event("ExtrinsicSuccess")], True),
        ([event("ExtrinsicSuccess"), event("Transfer", module="Balances")], True),
        ([event("ExtrinsicFailed")], False),
        ([event("ExtrinsicSuccess", index=1), event("ExtrinsicSuccess", index=None)], False),
        ([event("ExtrinsicSuccess", module="Other")], False),
        ([event("ExtrinsicSuccess"), event("ExtrinsicFailed")], False),
        ([], False),
    ],
)
def test_success_is_what_the_events_say(events: list[dict[str, Any]], expected: bool) -> None:
    assert payment.succeeded(events, 2) is expected


TEXT = st.text(string.printable, max_size=20)
HASHES = st.binary(min_size=32, max_size=32).map(lambda raw: f"0x{raw.hex()}")
RECORDS = st.builds(
    PaymentRecord,
    created_at=TEXT,
    validator=TEXT,
    chain=TEXT,
    genesis_hash=HASHES,
    netuid=st.integers(0, 65_535),
    recipient=TEXT,
    amount_rao=st.integers(0, 10**15),
    miner_hotkey=TEXT,
    wallet=st.builds(payment.Wallet, name=TEXT, hotkey=TEXT, path=TEXT),
    file=TEXT,
    source=st.binary(max_size=200),
    transfer=st.builds(
        Transfer,
        extrinsic=st.binary(max_size=200),
        extrinsic_hash=HASHES,
        payer=TEXT,
        nonce=st.integers(0, 2**32 - 1),
        first_block=st.integers(0, 2**32 - 1),
        last_block=st.integers(0, 2**32 - 1),
    ),
    reference=st.none() | st.builds("{}-{}".format, HASHES, st.integers(0, 999_999)),
    answer=st.none() | st.builds(payment.Answer, submission_id=TEXT, status_url=TEXT),
    refused=st.none() | TEXT,
)


@given(RECORDS)
def test_a_record_survives_its_file(made: PaymentRecord) -> None:
    assert payment.decode(payment.encode(made)) == made


@given(st.binary(max_size=200))
def test_what_is_no_record_is_told(content: bytes) -> None:
    with pytest.raises(payment.InvalidRecord):
        payment.decode(content)


@pytest.mark.parametrize("changes", [{"transfer": None}, {"reference": "2-1"}, {"reference": "credit:x"}])
def test_a_record_has_a_transfer_or_a_right_reference(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"reference|payment is"):
        record(**changes)
    content = msgspec.json.decode(payment.encode(record())) | changes
    with pytest.raises(payment.InvalidRecord):
        payment.decode(msgspec.json.encode(content))


def test_a_payment_is_kept_privately_until_it_has_bought_something(tmp_path: Path) -> None:
    made = record()
    path = payments_folder.path_of(tmp_path / "a" / "b", made)
    payments_folder.save(path, made)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert payments_folder.unfinished(path.parent) == [(path, made)]
    paid = msgspec.structs.replace(made, reference=f"{BLOCK}-2")
    assert payments_folder.path_of(path.parent, paid) == path, "it keeps its name"
    payments_folder.save(path, paid)
    assert payments_folder.find(path.parent, "") == (path, paid)
    assert payments_folder.find(path.parent, f"{BLOCK}-2") == (path, paid)
    assert payments_folder.find(path.parent, str(path)) == (path, paid)
    bought = msgspec.structs.replace(paid, answer=payment.Answer(submission_id="s", status_url="u"))
    payments_folder.save(path, bought)
    assert payments_folder.unfinished(path.parent) == []
    assert payments_folder.find(path.parent, f"{BLOCK}-2") == (path, bought)
    assert os.listdir(path.parent) == [path.name]


def test_which_payment_is_meant_must_be_clear(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="there is no unfinished payment"):
        payments_folder.find(tmp_path / "never", "")
    for number in (1, 2):
        transfer = msgspec.structs.replace(TRANSFER, extrinsic_hash=f"0x{number:064x}")
        made = record(transfer=transfer)
        payments_folder.save(payments_folder.path_of(tmp_path, made), made)
    with pytest.raises(Unusable, match="there are 2 unfinished payments; name one"):
        payments_folder.find(tmp_path, "")
    with pytest.raises(Unusable, match="no payment 0x"):
        payments_folder.find(tmp_path, f"{BLOCK}-2")
    with pytest.raises(Unusable, match=r"neither a file of .* nor a reference"):
        payments_folder.find(tmp_path, "train.py")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(Unusable, match="is no record of a payment"):
        payments_folder.find(tmp_path, "")


def test_a_record_that_cannot_be_written_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = record()
    path = payments_folder.path_of(tmp_path, made)
    payments_folder.save(path, made)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        payments_folder.save(path, msgspec.structs.replace(made, reference=f"{BLOCK}-2"))
    assert payments_folder.load(path) == made
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"XDG_STATE_HOME": "/state"}, Path("/state/templar-tournament/payments")),
        ({}, Path.home() / ".local/state/templar-tournament/payments"),
        ({"XDG_STATE_HOME": "relative"}, Path.home() / ".local/state/templar-tournament/payments"),
    ],
)
def test_where_payments_are(environ: dict[str, str], expected: Path) -> None:
    assert payments_folder.folder(environ) == expected


def test_every_refusal_has_advice() -> None:
    for refusal in Refusal:
        final = refusal.value in payment.FINAL_REFUSALS
        assert ("will not take" in payment.advice(refusal)) is final
    assert {"payment_not_found", "payment_orphaned", "hotkey_not_registered"}.isdisjoint(payment.FINAL_REFUSALS)
    assert "register the hotkey" in payment.advice("hotkey_not_registered")
    assert "the payment stays valid" in payment.advice("something_new")


@pytest.mark.parametrize(
    ("rao", "tao"), [(10**8, "0.1 TAO"), (0, "0 TAO"), (1, "0.000000001 TAO"), (1234 * 10**9, "1,234 TAO")]
)
def test_amounts_are_exact(rao: int, tao: str) -> None:
    assert payment.rao_as_tao(rao) == tao
