"""Evidence as stored: plain arrays go in and come out, and nothing else is ever read as evidence."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.evidence import Evidence, decode, encode
from shared.faults import PoisonMessage

CANDIDATE = Evidence(
    total_tokens=10_240,
    final_loss=6.25,
    logits_shape=(2, 255, 16),
    logits_dtype="float32",
    logits=np.arange(32, dtype=np.float32).reshape(2, 16),
    probe_logits=np.full((1, 16), np.nan, dtype=np.float32),
    sketch=np.array([1.0, -np.inf, 1e300]),
    moment_sketch=np.array([np.nan, 0.0, -1e300]),
)
REFERENCE = Evidence(
    total_tokens=10_240,
    final_loss=float("nan"),
    logits_shape=(),
    logits_dtype="other",
    logits=np.zeros((0, 16), dtype=np.float32),
    probe_logits=np.zeros((1, 16), dtype=np.float32),
    sketch=np.arange(3.0),
    moment_sketch=np.arange(3.0) + 3,
    initial_sketch=np.arange(3.0) + 1,
    previous_sketch=np.arange(3.0) + 2,
)


@pytest.mark.parametrize("evidence", [CANDIDATE, REFERENCE], ids=["candidate", "reference"])
def test_what_is_encoded_is_decoded(evidence: Evidence) -> None:
    decoded = decode(encode(evidence))
    assert (decoded.total_tokens, decoded.logits_shape, decoded.logits_dtype) == (
        evidence.total_tokens,
        evidence.logits_shape,
        evidence.logits_dtype,
    )
    for name in ("final_loss", "logits", "probe_logits", "sketch", "moment_sketch"):
        np.testing.assert_array_equal(getattr(decoded, name), getattr(evidence, name))
    assert [decoded.logits.dtype, decoded.sketch.dtype] == [np.dtype(np.float32), np.dtype(np.float64)]
    for name in ("initial_sketch", "previous_sketch"):
        value = getattr(evidence, name)
        assert (getattr(decoded, name) is None) == (value is None)
        if value is not None:
            np.testing.assert_array_equal(getattr(decoded, name), value)


def test_the_same_evidence_is_always_the_same_bytes() -> None:
    assert encode(CANDIDATE) == encode(CANDIDATE)


def test_a_pickle_is_never_opened() -> None:
    content = encode(CANDIDATE).replace(b"'descr': '<i8'", b"'descr': '|O' ")
    assert content != encode(CANDIDATE)
    with pytest.raises(PoisonMessage, match="not an evidence file"):
        decode(content)


@given(end=st.integers(0, len(encode(CANDIDATE)) - 1))
def test_a_file_that_was_cut_is_poison(end: int) -> None:
    with pytest.raises(PoisonMessage, match="not an evidence file"):
        decode(encode(CANDIDATE)[:end])


DIRECTORY = encode(CANDIDATE).index(b"PK\x01\x02")


@given(place=st.integers(0, len(encode(CANDIDATE)) - 1), byte=st.integers(0, 255))
@example(place=DIRECTORY + 6, byte=99)  # a newer zip version
@example(place=DIRECTORY + 8, byte=1)  # encrypted
@example(place=DIRECTORY + 10, byte=99)  # an unknown compression
def test_a_file_with_a_wrong_byte_is_poison_or_still_evidence(place: int, byte: int) -> None:
    content = bytearray(encode(CANDIDATE))
    content[place] = byte
    try:
        decoded = decode(bytes(content))
    except PoisonMessage:
        return
    assert [decoded.logits.dtype, decoded.sketch.dtype] == [np.dtype(np.float32), np.dtype(np.float64)]


@given(content=st.binary(max_size=200))
def test_rubbish_is_poison(content: bytes) -> None:
    with pytest.raises(PoisonMessage):
        decode(content)
