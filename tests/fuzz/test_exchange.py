"""The whole controller against hostile peers: only declared outcomes, nothing beyond its deadline or its bounds."""

import contextlib
import socket
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox import protocol
from sandbox.protocol import Kind
from shared.faults import Failure
from tests.fuzz.exchange import HONEST, outcome, scripted

SESSION = b"".join(HONEST)

headers = st.builds(
    protocol.HEADER.pack,
    st.sampled_from([protocol.MAGIC, b"EVIL"]),
    st.sampled_from([protocol.VERSION, 0, 255]),
    st.one_of(st.sampled_from([int(kind) for kind in Kind]), st.integers(0, 255)),
    st.sampled_from([0, 1]),
    st.one_of(st.integers(0, 200), st.integers(0, 2**64 - 1)),
)
frames = st.one_of(
    st.sampled_from(HONEST),
    st.builds(protocol.frame, st.sampled_from(Kind), st.binary(max_size=200)),
    headers,
    st.binary(max_size=64),
)


def test_the_honest_session_is_measured() -> None:
    measured = scripted(SESSION)
    assert measured is not None
    assert measured.failure is None


@settings(max_examples=400)
@given(st.lists(frames, max_size=8), st.integers(1, 100))
def test_any_frames_in_any_order(sent: list[bytes], chunk: int) -> None:
    scripted(b"".join(sent), chunk=chunk)


@settings(max_examples=400)
@given(st.integers(0, len(SESSION)), st.lists(frames, max_size=3))
def test_an_honest_beginning(length: int, sent: list[bytes]) -> None:
    scripted(SESSION[:length] + b"".join(sent))


@settings(max_examples=400)
@given(st.lists(st.tuples(st.integers(0, len(SESSION) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_an_honest_session_with_changed_bytes(changes: list[tuple[int, int]]) -> None:
    session = bytearray(SESSION)
    for at, value in changes:
        session[at] = value
    scripted(bytes(session))


@settings(max_examples=200)
@given(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=protocol.MAX_MESSAGE_BYTES))
def test_any_confession(stage: int, loss: int, message: bytes) -> None:
    failed = protocol.frame(Kind.FAILED, bytes([stage, loss]) + message)
    measured = scripted(b"".join(HONEST[:3]) + failed)
    assert measured is not None
    assert measured.failure is not None


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, len(SESSION) - 1), st.integers(1, 40), st.booleans())
def test_a_slow_drip_over_a_real_socket_ends_at_the_deadline(at: int, size: int, reads: bool) -> None:
    """The beginning at once, then a few bytes now and then; the peer reads what it is sent, or does not."""
    ours, theirs = socket.socketpair()
    over = threading.Event()

    def drip() -> None:
        with contextlib.suppress(OSError):
            theirs.sendall(SESSION[:at])
            for start in range(at, len(SESSION), size):
                if over.wait(0.05):
                    return
                if reads:
                    theirs.recv(65_536, socket.MSG_DONTWAIT)
                theirs.sendall(SESSION[start : start + size])

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        measured = outcome(ours)
        assert measured is None or measured.failure in (None, Failure.TIMEOUT, Failure.CRASHED)
    finally:
        over.set()
        ours.close()
        thread.join(10)
        theirs.close()
        assert not thread.is_alive()
