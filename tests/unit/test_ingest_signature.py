"""Who sent a submission: only the hotkey's own signature over exactly this request, for this validator, just now."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bittensor.sp_core import Keypair
from hypothesis import given
from hypothesis import strategies as st

from services.ingest import signature
from services.ingest.upload import Upload
from shared import request
from shared.events import SignedRequest
from shared.http import Problem
from shared.request import MAX_CLOCK_SKEW_SECONDS, message
from tests.support.stories import ALICE, BOB, CODE, TRANSFER

PROJECT = Path(__file__).parents[2]
VECTORS: list[dict[str, Any]] = json.loads((PROJECT / "tests" / "golden" / "requests.json").read_bytes())
NOW = 1_767_323_045
KEY = Keypair.create_from_uri("//Alice//hot")


def signed(
    *,
    by: Keypair = KEY,
    hotkey: str = KEY.ss58_address,
    netuid: int = 3,
    recipient: str = BOB,
    code: str = CODE,
    payment: str = TRANSFER,
    at: int = NOW,
) -> Upload:
    """What a miner sends who signed these values."""
    said = SignedRequest(netuid=netuid, recipient=recipient, signed_at_seconds=at, signature="")
    text = message(said, miner_hotkey=hotkey, code_sha256=code, payment_reference=payment)
    return Upload(
        source=b"", miner_hotkey=hotkey, payment=payment, signed_at=str(at), signature=f"0x{by.sign(text).hex()}"
    )


def check(upload: Upload, *, now: float = NOW) -> SignedRequest:
    """As the validator of subnet 3 that takes payments at Bob's, of a file whose sha256 is CODE."""
    return signature.check(upload, code_sha256=CODE, netuid=3, recipient=BOB, now_seconds=now)


def refusal(upload: Upload, *, now: float = NOW) -> Problem:
    with pytest.raises(Problem) as caught:
        check(upload, now=now)
    return caught.value


def test_the_hotkeys_own_signature_is_accepted_and_kept() -> None:
    upload = signed()
    assert check(upload) == SignedRequest(netuid=3, recipient=BOB, signed_at_seconds=NOW, signature=upload.signature)


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["uri"] for vector in VECTORS])
def test_vectors(vector: dict[str, Any]) -> None:
    said = SignedRequest(
        netuid=vector["netuid"],
        recipient=vector["recipient"],
        signed_at_seconds=vector["signed_at"],
        signature=vector["signature"],
    )
    text = message(
        said,
        miner_hotkey=vector["hotkey"],
        code_sha256=vector["code_sha256"],
        payment_reference=vector["payment"],
    )
    assert text == vector["message"].encode()
    assert hashlib.sha256(text).hexdigest() == vector["message_sha256"]
    assert Keypair.create_from_uri(vector["uri"]).ss58_address == vector["hotkey"]
    upload = Upload(
        source=b"",
        miner_hotkey=vector["hotkey"],
        payment=vector["payment"],
        signed_at=str(vector["signed_at"]),
        signature=vector["signature"],
    )
    checked = signature.check(
        upload,
        code_sha256=vector["code_sha256"],
        netuid=vector["netuid"],
        recipient=vector["recipient"],
        now_seconds=vector["signed_at"],
    )
    assert checked == said


def test_the_documented_vectors_are_those() -> None:
    page = (PROJECT / "docs" / "api.md").read_text()
    for vector in VECTORS:
        assert vector["message"] in page
        for name in ("uri", "message_sha256", "signature"):
            assert vector[name] in page, (vector["uri"], name)
    assert f"more than {MAX_CLOCK_SKEW_SECONDS} s" in page


ALTERED: list[tuple[str, Upload]] = [
    ("another hotkey", dataclasses.replace(signed(), miner_hotkey=ALICE)),
    ("another key's signature", signed(by=Keypair.create_from_uri("//Bob//hot"))),
    ("other code", signed(code="e" * 64)),
    ("another payment", dataclasses.replace(signed(), payment=f"0x{'a' * 64}-3")),
    ("a credit instead", dataclasses.replace(signed(), payment=f"credit:{'a' * 32}")),
    ("another validator's recipient", signed(recipient=ALICE)),
    ("another subnet", signed(netuid=4)),
    ("another time", dataclasses.replace(signed(), signed_at=str(NOW + 1))),
    ("no signature at all", dataclasses.replace(signed(), signature=f"0x{'0' * 128}")),
    ("an ed25519 signature", signed(by=Keypair.create_from_uri("//Alice//hot", crypto_type=0))),
]


@pytest.mark.parametrize(("why", "upload"), ALTERED, ids=[row[0] for row in ALTERED])
def test_whatever_is_altered_fails_and_is_told_what_to_sign(why: str, upload: Upload) -> None:
    problem = refusal(upload)
    assert (problem.status, problem.code) == (401, "signature_invalid"), why
    # What is printed is what must be signed.
    text = json.loads(problem.detail[problem.detail.index('"') :])
    expected = SignedRequest(netuid=3, recipient=BOB, signed_at_seconds=int(upload.signed_at), signature="")
    assert text.encode() == message(
        expected, miner_hotkey=upload.miner_hotkey, code_sha256=CODE, payment_reference=upload.payment
    )


@given(position=st.integers(0, 63), bit=st.integers(0, 7))
def test_no_bit_of_a_signature_can_be_turned(position: int, bit: int) -> None:
    upload = signed()
    turned = bytearray.fromhex(upload.signature[2:])
    turned[position] ^= 1 << bit
    assert refusal(dataclasses.replace(upload, signature=f"0x{turned.hex()}")).code == "signature_invalid"


@given(key=st.binary(min_size=32, max_size=32), said=st.binary(min_size=64, max_size=64))
def test_any_key_and_any_64_bytes_are_a_refusal_and_no_bug(key: bytes, said: bytes) -> None:
    hotkey = Keypair(public_key=key, ss58_format=42).ss58_address
    problem = refusal(dataclasses.replace(signed(), miner_hotkey=hotkey, signature=f"0x{said.hex()}"))
    assert problem.code == "signature_invalid"


def test_a_wallet_may_wrap_what_it_signs() -> None:
    upload = signed()
    said = SignedRequest(netuid=3, recipient=BOB, signed_at_seconds=NOW, signature="")
    text = message(said, miner_hotkey=KEY.ss58_address, code_sha256=CODE, payment_reference=TRANSFER)
    wrapped = KEY.sign(b"<Bytes>" + text + b"</Bytes>")
    assert check(dataclasses.replace(upload, signature=f"0x{wrapped.hex()}")).signed_at_seconds == NOW


@pytest.mark.parametrize("off", [-MAX_CLOCK_SKEW_SECONDS, 0, MAX_CLOCK_SKEW_SECONDS])
def test_clocks_may_differ_a_little(off: int) -> None:
    assert check(signed(at=NOW + off)).signed_at_seconds == NOW + off


@pytest.mark.parametrize("off", [-MAX_CLOCK_SKEW_SECONDS - 1, MAX_CLOCK_SKEW_SECONDS + 1, -NOW, 10**11])
def test_a_stale_request_shows_both_clocks(off: int) -> None:
    problem = refusal(signed(at=NOW + off))
    assert (problem.status, problem.code) == (401, "request_stale")
    assert f"signed_at is {NOW + off}, and the validator's clock says {NOW}" in problem.detail
    assert "sign again" in problem.detail


def test_the_skew_is_that_of_the_moment_and_not_of_whole_seconds() -> None:
    at = NOW - MAX_CLOCK_SKEW_SECONDS
    assert check(signed(at=at), now=NOW).signed_at_seconds == at
    assert refusal(signed(at=at), now=NOW + 0.5).code == "request_stale"


MALFORMED: list[tuple[str, str, str]] = [
    *(
        ("signature", value, "signature must be 0x and 128 hex digits, lower case")
        for value in (
            "",
            "0x",
            "ab" * 64,
            f"0x{'A' * 128}",
            f"0x{'a' * 127}",
            f"0x{'a' * 129}",
            f"0x{'a' * 128}\n",
            f"0x{'g' * 128}",
            f" 0x{'a' * 128}",
            "0x" + "\uff11" * 128,
        )
    ),
    *(
        ("signed_at", value, "signed_at must be the Unix time in whole seconds")
        for value in (
            "",
            "now",
            "1767323045.0",
            "-1",
            "+1",
            "01",
            "1_767_323_045",
            " 1767323045",
            "1767323045\n",
            "1e9",
            "0x5",
            "\uff11767323045",
            "9" * 13,
        )
    ),
    *(
        ("payment", value, "payment cannot be used: a payment is <block hash>-<extrinsic index>")
        for value in (
            "",
            "unpaid:1",
            "2-1",
            f"0x{'A' * 64}-1",
            f"0x{'a' * 64}-01",
            f"0x{'a' * 64}-",
            f"0x{'a' * 64}-1\n",
            f"0x{'a' * 63}-1",
            f"{'a' * 64}-1",
            "credit:1",
            f"credit:{'A' * 32}",
            f"credit:{'a' * 32}\n",
        )
    ),
]


@pytest.mark.parametrize(("field", "value", "detail"), MALFORMED)
def test_each_value_has_one_spelling(field: str, value: str, detail: str) -> None:
    sent: dict[str, Any] = {field: value}
    problem = refusal(dataclasses.replace(signed(), **sent))
    assert (problem.status, problem.code) == (422, "invalid_request")
    assert detail in problem.detail


def test_a_request_and_its_event_have_one_message() -> None:
    """What is recorded is enough to check the signature again."""
    recorded = check(signed())
    again = msgspec.json.decode(msgspec.json.encode(recorded), type=SignedRequest)
    text = request.message(again, miner_hotkey=KEY.ss58_address, code_sha256=CODE, payment_reference=TRANSFER)
    assert Keypair(ss58_address=KEY.ss58_address).verify(text, bytes.fromhex(again.signature[2:]))
