"""The weights service's settings, from the environment, once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import bittensor

from shared import environment, ss58


@dataclass(frozen=True, kw_only=True)
class ChainSettings:
    """Where weights go, and whose they are."""

    endpoint: str
    wallet_name: str
    wallet_hotkey: str
    wallet_path: Path


@dataclass(frozen=True, kw_only=True)
class Settings:
    nats_url: str
    hparams: Path
    burn_hotkey: str | None
    """Who gets the emission while there is no leader."""
    chain: ChainSettings | None = None
    """None: weights are recorded and not sent."""


def from_environment(environ: Mapping[str, str]) -> Settings:
    """Read and check.

    Raises:
        SettingsError: a variable is missing or unusable.
    """
    return Settings(
        nats_url=environment.text(environ, "TOURNAMENT_NATS_URL"),
        hparams=environment.path(environ, "TOURNAMENT_HPARAMS"),
        burn_hotkey=_hotkey(environ, "TOURNAMENT_BURN_HOTKEY"),
        chain=_chain(environ),
    )


def open_wallet(settings: ChainSettings) -> bittensor.Wallet:
    """The validator's wallet, its hotkey read: nobody is there to type a password.

    Raises:
        SettingsError: there is no such hotkey file, or it cannot be read.
    """
    wallet = bittensor.Wallet(settings.wallet_name, settings.wallet_hotkey, str(settings.wallet_path))
    file = wallet.hotkey_file
    if not file.exists_on_device():
        raise environment.SettingsError(
            f"there is no hotkey at {file.path}: check TOURNAMENT_WALLET_NAME, _HOTKEY and _PATH, or create it"
        )
    if not file.is_readable():
        raise environment.SettingsError(f"the hotkey at {file.path} is not readable for this user")
    if file.is_encrypted():
        raise environment.SettingsError(f"the hotkey at {file.path} needs a password: a service cannot type one")
    try:
        wallet.hotkey  # noqa: B018 - reads it, and keeps it
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it; not in its words, which may quote the key
        raise environment.SettingsError(f"the hotkey at {file.path} is no key ({type(error).__name__})") from None
    return wallet


def _chain(environ: Mapping[str, str]) -> ChainSettings | None:
    endpoint = environment.optional_text(environ, "TOURNAMENT_CHAIN_ENDPOINT")
    if endpoint is None:
        return None
    return ChainSettings(
        endpoint=endpoint,
        wallet_name=environment.text(environ, "TOURNAMENT_WALLET_NAME"),
        wallet_hotkey=environment.text(environ, "TOURNAMENT_WALLET_HOTKEY"),
        wallet_path=environment.path(environ, "TOURNAMENT_WALLET_PATH", "~/.bittensor/wallets"),
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
