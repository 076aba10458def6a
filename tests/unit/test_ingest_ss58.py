"""Addresses: what is one, what is none, and that no account has two."""

import hashlib
import string

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from shared.ss58 import ALPHABET, InvalidAddress, decode
from tests.support.stories import ALICE

ALICE_KEY = "d43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d"

# One key as several networks write it, made by their own tools.
KNOWN: list[tuple[int, str]] = [
    (0, "15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5"),
    (2, "HNZata7iMYWmk5RvZRTiAsSDhV8366zq2YGb3tLH5Upf74F"),
    (42, ALICE),
    (64, "cEaNSpz4PxFcZ7nT1VEKrKewH67rfx6MfcM6yKojyyPz7qaqp"),
    (255, "yGHXkYLYqxijLKKfd9Q2CB9shRVu8rPNBS53wvwGTutYg4zTg"),
    (256, "VByeGLMtP8r8BYQpNX1sb2VtAW8GYCbtFAeXJwsA2ur3MNRdq"),
]


def base58(raw: bytes) -> str:
    number, digits = int.from_bytes(raw, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = ALPHABET[digit] + digits
    return "1" * (len(raw) - len(raw.lstrip(b"\0"))) + digits


def with_checksum(body: bytes) -> str:
    return base58(body + hashlib.blake2b(b"SS58PRE" + body).digest()[:2])


def prefix_bytes(prefix: int) -> bytes:
    if prefix < 64:
        return bytes([prefix])
    return bytes([(prefix & 0b1111_1100) >> 2 | 0b0100_0000, prefix >> 8 | (prefix & 0b11) << 6])


def address(prefix: int, key: bytes) -> str:
    return with_checksum(prefix_bytes(prefix) + key)


keys = st.binary(min_size=32, max_size=32)


@pytest.mark.parametrize(("prefix", "known"), KNOWN)
def test_known_addresses(prefix: int, known: str) -> None:
    assert decode(known) == (prefix, bytes.fromhex(ALICE_KEY))
    assert address(prefix, bytes.fromhex(ALICE_KEY)) == known


@given(prefix=st.integers(0, 2**14 - 1), key=keys)
@example(prefix=0, key=bytes(32))
@example(prefix=63, key=b"\xff" * 32)
@example(prefix=64, key=bytes(32))
@example(prefix=2**14 - 1, key=b"\xff" * 32)
def test_every_address_is_read(prefix: int, key: bytes) -> None:
    assert decode(address(prefix, key)) == (prefix, key)


@given(text=st.one_of(st.text(max_size=80), st.text(ALPHABET, max_size=80)))
@example(text="")
@example(text="1")
@example(text="1" * 35)
@example(text="1" * 64)
def test_any_other_text_is_refused_and_no_account_has_two_addresses(text: str) -> None:
    try:
        prefix, key = decode(text)
    except InvalidAddress:
        return
    assert address(prefix, key) == text


@given(place=st.integers(0, len(ALICE) - 1), character=st.sampled_from(ALPHABET))
def test_a_mistyped_character_is_noticed(place: int, character: str) -> None:
    mistyped = ALICE[:place] + character + ALICE[place + 1 :]
    assume(mistyped != ALICE)
    with pytest.raises(InvalidAddress):
        decode(mistyped)


@given(key=keys, cut=st.integers(1, 31))
def test_a_key_of_another_length_is_refused(key: bytes, cut: int) -> None:
    for wrong in (key[cut:], key + key[:cut]):
        with pytest.raises(InvalidAddress, match="too long or too short"):
            decode(with_checksum(prefix_bytes(42) + wrong))


@pytest.mark.parametrize("first", [*range(64, 80), 127, 128, 200, 255])
def test_a_prefix_that_is_none_or_spelled_at_length_is_refused(first: int) -> None:
    # 0x40 and above begin a prefix of two bytes; with a second byte below 0x40 those stand for prefixes below 64.
    raw = with_checksum(bytes([first, 0]) + bytes(32))
    prefix = (first & 0b0011_1111) << 2
    if 64 <= first < 128 and prefix >= 64:
        assert decode(raw) == (prefix, bytes(32))
    else:
        with pytest.raises(InvalidAddress, match="no network prefix"):
            decode(raw)


@pytest.mark.parametrize("character", sorted(set(string.printable) - set(ALPHABET)))
def test_characters_outside_base58_are_named(character: str) -> None:
    with pytest.raises(InvalidAddress, match="is no base58 character"):
        decode(ALICE[:-1] + character)
