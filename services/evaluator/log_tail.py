"""Keeps the end of what a sandbox prints: bounded memory under any flood, and nothing that a terminal would obey."""

import contextlib
import re
import threading
import unicodedata
from collections.abc import Iterator

MAX_LINE_CHARACTERS = 2_000
JOIN_SECONDS = 5.0

_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # CSI: colours, cursor
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # strings: titles, links
    r"|\x1b[ -/]*[0-~]?"
)
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


class LogTail:
    """Reads chunks in a thread of its own until they end, and keeps the last `limit_bytes`.

    Reading never stops, so that a process which prints too much is slowed by nothing and fills nothing.
    """

    def __init__(self, chunks: Iterator[bytes], *, limit_bytes: int) -> None:
        self._chunks = chunks
        self._limit_bytes = limit_bytes
        self._tail = bytearray()
        self._thread = threading.Thread(target=self._drain, name="sandbox-log", daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # a stream that breaks, or is closed meanwhile, has ended
            for chunk in self._chunks:
                self._tail += chunk[-self._limit_bytes :]
                del self._tail[: -self._limit_bytes]

    def finish(self) -> None:
        """Wait for the end of the stream, which comes when all its writers are gone."""
        self._thread.join(JOIN_SECONDS)

    def text(self) -> str:
        """What was kept, cleaned; at most `limit_bytes` as UTF-8."""
        return clean(bytes(self._tail), limit_bytes=self._limit_bytes)


def clean(raw: bytes, *, limit_bytes: int) -> str:
    """Printable text from hostile bytes: no control or invisible characters except newline and tab, no endless line."""
    text = raw.decode("utf-8", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    text = _ESCAPES.sub("", text)
    text = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in _INVISIBLE)
    text = "\n".join(_cut(line) for line in text.split("\n"))
    return text.encode()[-limit_bytes:].decode("utf-8", errors="ignore")


def _cut(line: str) -> str:
    return line if len(line) <= MAX_LINE_CHARACTERS else line[: MAX_LINE_CHARACTERS - 1] + "…"
