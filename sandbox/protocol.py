"""The frames between controller and runner: fixed layouts, sizes capped before a byte is read. It trusts no peer.

A frame is a 16-byte header (magic, version, kind, zero, payload length; big-endian) and its payload. The controller
parses what the runner sends as hostile input: every kind has an exact or greatest length, and anything else is a
ProtocolViolation. What the controller sends may be richer (PREPARE is JSON), because the runner trusts the controller.

    controller                        runner
        | <------------- HELLO ---------- |   connected, nothing imported
        | -- PREPARE (job) -------------> |   torch, model, optimizer: what fails until here is ours
        | <------------- BUILT ---------- |
        | -- SUBMISSION (source) -------> |   import, warm-up: what fails from here on is the submission's
        | <------------- READY ---------- |
    t0  | -- START (tokens) ------------> |   the clock runs
        | <------------- RETURNED ------- |   the submission returned
        | -- REVEAL (nonce) ------------> |
    t1  | <------------- EVIDENCE ------- |   last byte stops the clock
        | <------------- FAILED --------- |   instead of any answer: the run is lost
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

VERSION = 2
MAGIC = b"TTRN"
HEADER = struct.Struct(">4sBBHQ")
"""magic, version, kind, reserved (zero), payload length in bytes."""

RETURNED = struct.Struct(">qdBB8Q")
"""total_tokens, final_loss, dtype code, number of dimensions, eight dimensions (unused ones zero)."""
FAILED_PREFIX = struct.Struct(">BB")
"""stage, kind; a UTF-8 message follows."""
MAX_DIMENSIONS = 8
MAX_MESSAGE_BYTES = 8192
NONCE_BYTES = 32

DTYPES = ("float32", "float16", "bfloat16", "float64")
"""Codes 0..3; 255 is any other dtype."""
OTHER_DTYPE = 255


class Kind(IntEnum):
    """Frame kinds. Below 16: to the runner; from 16: from the runner."""

    PREPARE = 1
    SUBMISSION = 2
    START = 3
    REVEAL = 4
    HELLO = 16
    BUILT = 17
    READY = 18
    RETURNED = 19
    EVIDENCE = 20
    FAILED = 21


class Stage(IntEnum):
    """Where a run was lost, as the runner says."""

    BUILD = 1
    """Before the submission was sent: no code of it has run."""
    IMPORT = 2
    WARMUP = 3
    TRAIN = 4
    EVIDENCE = 5


class Loss(IntEnum):
    """Why it was lost, as the runner says. A claim that can only hurt whoever makes it."""

    CRASHED = 1
    OUT_OF_MEMORY = 2
    MALFORMED_OUTPUT = 3
    RESOURCE_LIMIT = 4
    """Of the sandbox, on files, processes or threads."""


class ProtocolViolation(Exception):
    """The peer sent what the protocol does not allow."""


class ChannelClosed(Exception):
    """The peer is gone."""


@dataclass(frozen=True, kw_only=True)
class Returned:
    """The RETURNED frame: what the submission's result looked like."""

    total_tokens: int
    final_loss: float
    dtype: str
    """One of DTYPES, or "other"."""
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The FAILED frame."""

    stage: Stage
    loss: Loss
    message: str


ReadExactly = Callable[[int], bytearray]
"""Reads so many bytes or raises ChannelClosed; the caller's deadline is inside it."""


def frame(kind: Kind, payload: bytes = b"") -> bytes:
    """Header and payload."""
    return HEADER.pack(MAGIC, VERSION, kind, 0, len(payload)) + payload


def read_frame(read: ReadExactly, caps: dict[Kind, tuple[int, int]]) -> tuple[Kind, bytearray]:
    """Read one frame of an allowed kind; `caps` gives the least and greatest payload length of each.

    Raises:
        ProtocolViolation: wrong magic, version, kind or length. Nothing of the payload was read then.
        ChannelClosed: the peer closed first.
    """
    magic, version, number, reserved, length = HEADER.unpack(read(HEADER.size))
    if magic != MAGIC or version != VERSION or reserved != 0:
        raise ProtocolViolation("a frame does not start with a valid header")
    kind = next((allowed for allowed in caps if allowed == number), None)
    if kind is None:
        raise ProtocolViolation(f"frame kind {number} is not allowed here")
    least, most = caps[kind]
    if not least <= length <= most:
        raise ProtocolViolation(f"{kind.name} frame of {length} bytes; allowed are {least} to {most}")
    return kind, read(length)


def pack_returned(returned: Returned) -> bytes:
    """Payload of RETURNED; `shape` has at most MAX_DIMENSIONS entries."""
    code = DTYPES.index(returned.dtype) if returned.dtype in DTYPES else OTHER_DTYPE
    dimensions = (*returned.shape, *(0 for _ in range(MAX_DIMENSIONS - len(returned.shape))))
    return RETURNED.pack(returned.total_tokens, returned.final_loss, code, len(returned.shape), *dimensions)


def unpack_returned(payload: bytes | bytearray) -> Returned:
    """Parse a hostile RETURNED payload of exactly RETURNED.size bytes.

    Raises:
        ProtocolViolation: unknown dtype code, too many dimensions, or rubbish in unused ones.
    """
    total_tokens, final_loss, code, count, *dimensions = RETURNED.unpack(payload)
    if code != OTHER_DTYPE and code >= len(DTYPES):
        raise ProtocolViolation(f"dtype code {code} is unknown")
    if count > MAX_DIMENSIONS or any(dimensions[count:]) or any(size >= 2**63 for size in dimensions):
        raise ProtocolViolation("a shape is not well formed")
    return Returned(
        total_tokens=total_tokens,
        final_loss=final_loss,
        dtype="other" if code == OTHER_DTYPE else DTYPES[code],
        shape=tuple(dimensions[:count]),
    )


def pack_failed(failed: Failed) -> bytes:
    """Payload of FAILED; the end of a long message is kept, because a traceback ends with its reason."""
    return FAILED_PREFIX.pack(failed.stage, failed.loss) + failed.message.encode(errors="replace")[-MAX_MESSAGE_BYTES:]


def unpack_failed(payload: bytes | bytearray) -> Failed:
    """Parse a hostile FAILED payload.

    Raises:
        ProtocolViolation: unknown stage or kind.
    """
    stage, loss = FAILED_PREFIX.unpack_from(payload)
    message = bytes(payload[FAILED_PREFIX.size :]).decode(errors="replace")
    try:
        return Failed(stage=Stage(stage), loss=Loss(loss), message=message)
    except ValueError as error:
        raise ProtocolViolation(str(error)) from None


FAILED_CAPS = (FAILED_PREFIX.size, FAILED_PREFIX.size + MAX_MESSAGE_BYTES)
