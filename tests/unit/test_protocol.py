"""The frame parser meets hostile bytes: it accepts what was packed, refuses everything else, and never over-reads."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import protocol
from sandbox.protocol import ChannelClosed, Failed, Kind, Loss, ProtocolViolation, Returned, Stage

CAPS = {Kind.RETURNED: (protocol.RETURNED.size,) * 2, Kind.FAILED: protocol.FAILED_CAPS, Kind.READY: (0, 0)}

returned_frames = st.builds(
    Returned,
    total_tokens=st.integers(-(2**63), 2**63 - 1),
    final_loss=st.floats(),
    dtype=st.sampled_from([*protocol.DTYPES, "other"]),
    shape=st.lists(st.integers(0, 2**63 - 1), max_size=protocol.MAX_DIMENSIONS).map(tuple),
)


def reader(data: bytes) -> tuple[Callable[[int], bytearray], list[int]]:
    """A read function over fixed bytes, and the list of sizes it was asked for."""
    rest, asked = bytearray(data), []

    def read(count: int) -> bytearray:
        asked.append(count)
        if count > len(rest):
            raise ChannelClosed
        taken = rest[:count]
        del rest[:count]
        return taken

    return read, asked


@given(returned_frames)
def test_returned_survives_the_wire(returned: Returned) -> None:
    read, _ = reader(protocol.frame(Kind.RETURNED, protocol.pack_returned(returned)))
    kind, payload = protocol.read_frame(read, CAPS)
    parsed = protocol.unpack_returned(payload)
    assert kind is Kind.RETURNED
    assert parsed.total_tokens == returned.total_tokens
    assert parsed.final_loss == returned.final_loss or math.isnan(parsed.final_loss + returned.final_loss)
    assert (parsed.dtype, parsed.shape) == (returned.dtype, returned.shape)


@given(st.builds(Failed, stage=st.sampled_from(Stage), loss=st.sampled_from(Loss), message=st.text()))
def test_failed_keeps_the_end_of_its_message(failed: Failed) -> None:
    parsed = protocol.unpack_failed(protocol.pack_failed(failed))
    assert (parsed.stage, parsed.loss) == (failed.stage, failed.loss)
    expected = failed.message.encode(errors="replace")[-protocol.MAX_MESSAGE_BYTES :].decode(errors="replace")
    assert parsed.message == expected


@given(st.binary(max_size=200))
def test_rubbish_is_refused_or_parsed_but_never_over_read(data: bytes) -> None:
    read, asked = reader(data)
    try:
        kind, payload = protocol.read_frame(read, CAPS)
        if kind is Kind.RETURNED:
            protocol.unpack_returned(payload)
        elif kind is Kind.FAILED:
            protocol.unpack_failed(payload)
    except (ProtocolViolation, ChannelClosed):
        pass
    assert all(count <= protocol.FAILED_CAPS[1] for count in asked)


@given(st.integers(0, 255), st.integers(1, 2**64 - 1))
def test_only_allowed_kinds_and_lengths_are_read_on(kind: int, length: int) -> None:
    read, asked = reader(protocol.HEADER.pack(protocol.MAGIC, protocol.VERSION, kind, 0, length))
    least, most = {int(key): cap for key, cap in CAPS.items()}.get(kind, (1, 0))
    allowed = least <= length <= most
    with pytest.raises(ChannelClosed if allowed else ProtocolViolation):
        protocol.read_frame(read, CAPS)
    assert asked == [protocol.HEADER.size, length] if allowed else [protocol.HEADER.size]


@pytest.mark.parametrize(
    "header",
    [
        protocol.HEADER.pack(b"EVIL", protocol.VERSION, Kind.READY, 0, 0),
        protocol.HEADER.pack(protocol.MAGIC, protocol.VERSION + 1, Kind.READY, 0, 0),
        protocol.HEADER.pack(protocol.MAGIC, protocol.VERSION, Kind.READY, 1, 0),
    ],
    ids=["magic", "version", "reserved"],
)
def test_a_wrong_header_is_a_violation(header: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="valid header"):
        protocol.read_frame(reader(header)[0], CAPS)


@pytest.mark.parametrize(
    ("code", "count", "dimensions"),
    [(9, 0, [0] * 8), (0, 9, [1] * 8), (0, 1, [4, 5, 0, 0, 0, 0, 0, 0]), (0, 1, [2**63, 0, 0, 0, 0, 0, 0, 0])],
    ids=["dtype", "too many dimensions", "rubbish in an unused one", "a negative one"],
)
def test_a_malformed_shape_is_a_violation(code: int, count: int, dimensions: list[int]) -> None:
    with pytest.raises(ProtocolViolation):
        protocol.unpack_returned(protocol.RETURNED.pack(1, 0.0, code, count, *dimensions))
