"""The log tail: bounded, printable, and it keeps the end."""

import threading
import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.evaluator.log_tail import MAX_LINE_CHARACTERS, LogTail, clean

SEQUENCES = st.sampled_from(
    [b"\x1b[31m", b"\x1b]0;title\x07", b"\x1b", b"\x9b2J", b"\r\n", b"\r", b"\xe2\x80\xae", b"\xff"]
)
HOSTILE = st.lists(st.one_of(st.binary(max_size=50), SEQUENCES, st.text().map(str.encode))).map(b"".join)


@given(HOSTILE, st.integers(1, 500))
def test_what_is_left_is_printable_and_bounded(raw: bytes, limit_bytes: int) -> None:
    text = clean(raw, limit_bytes=limit_bytes)
    assert len(text.encode()) <= limit_bytes
    for line in text.split("\n"):
        assert len(line) <= MAX_LINE_CHARACTERS
        assert all(c == "\t" or not unicodedata.category(c).startswith("C") for c in line)


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S", "Zs"], include_characters="\n\t"), max_size=500))
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert clean(text.encode(), limit_bytes=10_000) == text


@given(st.lists(st.binary(max_size=100)), st.integers(1, 50))
def test_the_tail_is_the_end_of_all_chunks(chunks: list[bytes], limit_bytes: int) -> None:
    log = LogTail(iter(chunks), limit_bytes=limit_bytes)
    log.finish()
    assert log.text() == clean(b"".join(chunks)[-limit_bytes:], limit_bytes=limit_bytes)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"\x1b[1;31mred\x1b[0m", "red"),
        (b"\x1b]8;;http://example.org\x1b\\link\x1b]8;;\x1b\\", "link"),
        (b"\x1b]0;never closed", ""),
        (b"10%\r20%\r\ndone", "10%\n20%\ndone"),
        (b"a\x00b\x08c\x7fd", "abcd"),
        ("a\u202eb\u2028c".encode(), "abc"),
        (b"\xffok", "\ufffdok"),
    ],
)
def test_examples(raw: bytes, expected: str) -> None:
    assert clean(raw, limit_bytes=100) == expected


def test_a_long_line_is_cut() -> None:
    text = clean(b"x" * 10_000 + b"\nend", limit_bytes=20_000)
    assert text == "x" * (MAX_LINE_CHARACTERS - 1) + "…\nend"


def test_a_stream_that_breaks_keeps_what_came() -> None:
    def broken() -> Iterator[bytes]:
        yield b"before"
        raise ConnectionResetError

    log = LogTail(broken(), limit_bytes=100)
    log.finish()
    assert log.text() == "before"


def test_it_can_be_read_while_the_stream_goes_on() -> None:
    more, seen = threading.Event(), threading.Event()

    def slow() -> Iterator[bytes]:
        yield b"first"
        seen.set()
        more.wait()
        yield b"second"

    log = LogTail(slow(), limit_bytes=100)
    assert seen.wait(10)
    assert log.text() == "first"
    more.set()
    log.finish()
    assert log.text() == "firstsecond"
