"""One small function per step from an event's old version to the next. Empty while every event is version 1."""

from collections.abc import Callable
from typing import Any

from shared.faults import UnknownEvent

Fields = dict[str, Any]

STEPS: dict[tuple[str, int], Callable[[Fields], Fields]] = {}
"""(type, version) -> the function that makes version + 1 of it."""


def upcast(
    kind: str,
    version: int,
    fields: Fields,
    *,
    to: int,
    steps: dict[tuple[str, int], Callable[[Fields], Fields]] | None = None,
) -> Fields:
    """Apply every step from `version` up to `to`.

    Raises:
        UnknownEvent: the version is newer than ours, or a step is missing.
    """
    known = STEPS if steps is None else steps
    if version > to:
        raise UnknownEvent(f"{kind} version {version} is newer than this release, which knows {to}; upgrade")
    for step in range(version, to):
        if (kind, step) not in known:
            raise UnknownEvent(f"no upcaster from {kind} version {step} to {step + 1}")
        fields = known[kind, step](fields)
    return fields
