"""The validator's command: whose money, on which chain, and what is said when that cannot be."""

from pathlib import Path

import bittensor
import pytest

from deploy.local.stack import ChainOptions
from neurons import validator
from shared.environment import SettingsError

ALICE = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"


@pytest.fixture
def wallets(tmp_path: Path) -> Path:
    wallet = bittensor.Wallet("w", "h", str(tmp_path))
    wallet.create_new_coldkey(use_password=False, suppress=True)
    wallet.create_new_hotkey(use_password=False, suppress=True)
    return tmp_path


def chain(*arguments: str) -> ChainOptions | None:
    return validator._chain(validator._parser().parse_args(arguments))


def test_without_a_wallet_nothing_costs_anything() -> None:
    assert chain() is None
    assert chain("--burn-hotkey", ALICE) is None


def test_a_wallet_means_real_money_on_finney(wallets: Path) -> None:
    wallet = bittensor.Wallet("w", "h", str(wallets))
    options = chain("--wallet.name", "w", "--wallet.hotkey", "h", "--wallet.path", str(wallets))
    assert options is not None
    assert options.endpoint == "finney"
    assert options.payment_recipient == wallet.coldkeypub.ss58_address
    assert options.hotkey == wallet.hotkey.ss58_address


def test_chain_and_recipient_can_be_others(wallets: Path) -> None:
    named = ("--wallet.name", "w", "--wallet.hotkey", "h", "--wallet.path", str(wallets))
    options = chain(*named, "--chain", "ws://127.0.0.1:9944", "--payment-recipient", ALICE)
    assert options is not None
    assert (options.endpoint, options.payment_recipient) == ("ws://127.0.0.1:9944", ALICE)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--chain", "finney"), "belong together"),
        (("--wallet.name", "w"), "belong together"),
        (("--wallet.name", "w", "--wallet.hotkey", "other"), "the wallet w/other cannot be read"),
        (("--wallet.name", "w", "--wallet.hotkey", "h", "--payment-recipient", "5X"), "--payment-recipient cannot be"),
    ],
)
def test_what_cannot_be_used_is_said(wallets: Path, arguments: tuple[str, ...], what: str) -> None:
    with pytest.raises(SettingsError, match=what):
        chain(*arguments, "--wallet.path", str(wallets))


def test_a_hotkey_with_a_password_cannot_set_weights(wallets: Path) -> None:
    wallet = bittensor.Wallet("w", "locked", str(wallets))
    wallet.create_new_hotkey(hotkey_password="s3cret-enough", suppress=True)
    with pytest.raises(SettingsError, match="the hotkey locked has a password"):
        chain("--wallet.name", "w", "--wallet.hotkey", "locked", "--wallet.path", str(wallets))
