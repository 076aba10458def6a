"""Wall-clock time as an argument: whoever needs "now" is handed one of these."""

from collections.abc import Callable
from datetime import UTC, datetime

Now = Callable[[], datetime]


def utc_now() -> datetime:
    """The current time, timezone-aware, UTC."""
    return datetime.now(UTC)
