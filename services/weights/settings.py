"""The weights service's settings, from the environment, once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shared import environment


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
        burn_hotkey=environment.optional_text(environ, "TOURNAMENT_BURN_HOTKEY"),
    )
