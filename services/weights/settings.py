"""The weights service's settings, from the environment, once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shared import environment, ss58


@dataclass(frozen=True, kw_only=True)
class Settings:
    nats_url: str
    hparams: Path
    burn_hotkey: str | None
    """Who gets the emission while there is no leader."""


def from_environment(environ: Mapping[str, str]) -> Settings:
    """Read and check.

    Raises:
        SettingsError: a variable is missing or unusable.
    """
    return Settings(
        nats_url=environment.text(environ, "TOURNAMENT_NATS_URL"),
        hparams=environment.path(environ, "TOURNAMENT_HPARAMS"),
        burn_hotkey=_hotkey(environ, "TOURNAMENT_BURN_HOTKEY"),
    )


def _hotkey(environ: Mapping[str, str], name: str) -> str | None:
    address = environment.optional_text(environ, name)
    if address is None:
        return None
    try:
        ss58.check(address)
    except ss58.InvalidAddress as error:
        raise environment.SettingsError(f"{name} cannot be used: {error}") from None
    return address
