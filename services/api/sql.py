"""The statements of queries.sql by their names. No other file of this service has SQL in it."""

import re
from collections.abc import Mapping
from pathlib import Path

_HEADING = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def parse(text: str) -> Mapping[str, str]:
    """What follows each `-- name: …` line, up to the next."""
    _, *parts = _HEADING.split(text)
    return dict(zip(parts[::2], (part.strip() for part in parts[1::2]), strict=True))


SQL = parse(Path(__file__).with_name("queries.sql").read_text())
