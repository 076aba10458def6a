"""Derived identifiers: the same cause always yields the same id, so a repeated write is recognised."""

import hashlib

ID_HEX_DIGITS = 32


def derive_id(*parts: str | int) -> str:
    """32 hex digits (128 bits) of sha256 over the length-prefixed parts, so ("ab", "c") never equals ("a", "bc")."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = str(part).encode()
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return digest.hexdigest()[:ID_HEX_DIGITS]
