"""Bittensor addresses (SS58) as text: decoded and checked, never made. Whether such an account exists is not asked."""

import hashlib

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
MAX_CHARACTERS = 64
"""Longer than any address of a 32-byte key; decoding takes quadratic time."""
KEY_BYTES = 32
CHECKSUM_BYTES = 2
BITTENSOR_PREFIX = 42


class InvalidAddress(Exception):
    """The text is no SS58 address of a 32-byte key. The message says why."""


def check(address: str) -> None:
    """Accept an address of Bittensor's network.

    Raises:
        InvalidAddress: it is no address, or another network's.
    """
    prefix, _ = decode(address)
    if prefix != BITTENSOR_PREFIX:
        raise InvalidAddress(f"it is an address of another network (prefix {prefix}); Bittensor's begin with 5")


def decode(address: str) -> tuple[int, bytes]:
    """Network prefix and public key. One pair has one address only: every other spelling of it is refused.

    The format: https://paritytech.github.io/polkadot-sdk/master/sp_core/crypto/trait.Ss58Codec.html

    Raises:
        InvalidAddress: not base58, the wrong length, or the wrong checksum.
    """
    raw = _base58_bytes(address)
    prefix, prefix_bytes = _prefix(raw)
    if len(raw) != prefix_bytes + KEY_BYTES + CHECKSUM_BYTES:
        raise InvalidAddress("it is too long or too short for an SS58 address")
    body, checksum = raw[:-CHECKSUM_BYTES], raw[-CHECKSUM_BYTES:]
    if hashlib.blake2b(b"SS58PRE" + body).digest()[:CHECKSUM_BYTES] != checksum:
        raise InvalidAddress("its checksum is wrong: a character is mistyped or missing")
    return prefix, body[prefix_bytes:]


def _base58_bytes(text: str) -> bytes:
    if not 0 < len(text) <= MAX_CHARACTERS:
        raise InvalidAddress("it is too long or too short for an SS58 address")
    number = 0
    for character in text:
        digit = ALPHABET.find(character)
        if digit < 0:
            raise InvalidAddress(f"{character!r} is no base58 character")
        number = number * len(ALPHABET) + digit
    zero_bytes = len(text) - len(text.lstrip(ALPHABET[0]))
    return bytes(zero_bytes) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def _prefix(raw: bytes) -> tuple[int, int]:
    """The prefix and how many bytes it takes: one below 64, two from there on."""
    first, second = raw[0], raw[1] if len(raw) > 1 else 0
    if first < 64:
        return first, 1
    prefix = (first & 0b0011_1111) << 2 | second >> 6 | (second & 0b0011_1111) << 8
    if first >= 128 or prefix < 64:
        raise InvalidAddress("it begins with no network prefix")
    return prefix, 2
