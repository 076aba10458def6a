"""The ingest service's settings, from the environment, once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shared import environment
from shared.environment import SettingsError


@dataclass(frozen=True, kw_only=True)
class Settings:
    nats_url: str
    artifacts: Path
    hparams: Path
    host: str
    port: int
    api_url: str
    """Where miners reach the API, without a slash at the end."""


def from_environment(environ: Mapping[str, str]) -> Settings:
    """Read and check.

    Raises:
        SettingsError: a variable is missing or unusable.
    """
    api_url = environment.text(environ, "TOURNAMENT_API_URL", "http://127.0.0.1:8000")
    if not api_url.startswith(("http://", "https://")):
        raise SettingsError(f"TOURNAMENT_API_URL is {api_url!r}; it must begin with http:// or https://")
    return Settings(
        nats_url=environment.text(environ, "TOURNAMENT_NATS_URL"),
        artifacts=environment.path(environ, "TOURNAMENT_ARTIFACTS_DIR"),
        hparams=environment.path(environ, "TOURNAMENT_HPARAMS"),
        host=environment.text(environ, "TOURNAMENT_INGEST_HOST", "127.0.0.1"),
        port=environment.integer(environ, "TOURNAMENT_INGEST_PORT", 8001, least=0, most=65_535),
        api_url=api_url.rstrip("/"),
    )
