"""The API's settings, from the environment, once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from shared import environment
from shared.environment import SettingsError


@dataclass(frozen=True, kw_only=True)
class Settings:
    nats_url: str
    postgres_url: str
    hparams: Path
    """Of the current competition."""
    host: str
    port: int


def from_environment(environ: Mapping[str, str]) -> Settings:
    """Read and check.

    Raises:
        SettingsError: a variable is missing or unusable.
    """
    return Settings(
        nats_url=environment.text(environ, "TOURNAMENT_NATS_URL"),
        postgres_url=_postgres_url(environ),
        hparams=environment.path(environ, "TOURNAMENT_HPARAMS"),
        host=environment.text(environ, "TOURNAMENT_API_HOST", "127.0.0.1"),
        port=environment.integer(environ, "TOURNAMENT_API_PORT", 8000, least=0, most=65_535),
    )


def _postgres_url(environ: Mapping[str, str]) -> str:
    """Checked here, because later a wrong one looks as if the server were away. It holds a password: never shown."""
    name = "TOURNAMENT_POSTGRES_URL"
    url = environment.text(environ, name)
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("postgresql", "postgres") and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise SettingsError(
            f"{name} is no PostgreSQL address; it must be postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
        )
    return url
