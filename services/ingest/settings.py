"""The ingest service's settings, from the environment, once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shared import environment, ss58
from shared.environment import SettingsError


@dataclass(frozen=True, kw_only=True)
class Paid:
    """Where payments are looked up, and to whom they must have gone."""

    chain_endpoint: str
    recipient: str


@dataclass(frozen=True, kw_only=True)
class Settings:
    nats_url: str
    artifacts: Path
    hparams: Path
    host: str
    port: int
    api_url: str
    """Where miners reach the API, without a slash at the end."""
    paid: Paid | None
    """None: unpaid local mode, where nothing is paid and nothing is signed."""


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
        paid=_paid(environ),
    )


def _paid(environ: Mapping[str, str]) -> Paid | None:
    endpoint = environment.optional_text(environ, "TOURNAMENT_CHAIN_ENDPOINT")
    recipient = environment.optional_text(environ, "TOURNAMENT_PAYMENT_RECIPIENT")
    if endpoint is None:
        # Free submissions where somebody expects to be paid would be given away.
        if recipient is not None:
            raise SettingsError("TOURNAMENT_PAYMENT_RECIPIENT is set without TOURNAMENT_CHAIN_ENDPOINT; set both")
        return None
    if recipient is None:
        raise SettingsError(
            "TOURNAMENT_PAYMENT_RECIPIENT is not set; with TOURNAMENT_CHAIN_ENDPOINT it must be the coldkey address "
            "that miners pay to"
        )
    try:
        ss58.check(recipient)
    except ss58.InvalidAddress as error:
        raise SettingsError(
            f"TOURNAMENT_PAYMENT_RECIPIENT is {recipient!r}; it must be a Bittensor address: {error}"
        ) from None
    return Paid(chain_endpoint=endpoint, recipient=recipient)
