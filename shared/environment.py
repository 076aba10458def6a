"""Reading settings from the environment, once, at start, with an error that names the variable."""

from collections.abc import Mapping
from pathlib import Path


class SettingsError(Exception):
    """A setting is missing or unusable. The message names the variable and says what it must be."""


def text(environ: Mapping[str, str], name: str, default: str | None = None) -> str:
    """A non-empty string; an unset or empty variable takes the default."""
    value = environ.get(name) or default
    if value is None:
        raise SettingsError(f"{name} is not set")
    return value


def optional_text(environ: Mapping[str, str], name: str) -> str | None:
    """A string, or None when the variable is unset or empty."""
    return environ.get(name) or None


def integer(environ: Mapping[str, str], name: str, default: int, *, least: int, most: int) -> int:
    """A whole number within [least, most]."""
    value = environ.get(name) or str(default)
    try:
        number = int(value)
    except ValueError:
        raise SettingsError(f"{name} is {value!r}; it must be a whole number") from None
    if not least <= number <= most:
        raise SettingsError(f"{name} is {number}; it must be from {least} to {most}")
    return number


def path(environ: Mapping[str, str], name: str, default: str | None = None) -> Path:
    """An absolute path; nothing is created."""
    return Path(text(environ, name, default)).expanduser().resolve()
