"""The verifier's settings, from the environment, once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shared import environment


@dataclass(frozen=True, kw_only=True)
class Settings:
    nats_url: str
    artifacts: Path
    slots: int
    """Runs that are judged at the same time."""


def from_environment(environ: Mapping[str, str]) -> Settings:
    """Read and check.

    Raises:
        SettingsError: a variable is missing or unusable.
    """
    return Settings(
        nats_url=environment.text(environ, "TOURNAMENT_NATS_URL"),
        artifacts=environment.path(environ, "TOURNAMENT_ARTIFACTS_DIR"),
        slots=environment.integer(environ, "TOURNAMENT_SLOTS", 2, least=1, most=64),
    )
