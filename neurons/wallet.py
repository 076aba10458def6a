"""A miner's keys, read by bittensor's own classes. A key is never written, logged or sent; passwords are not kept."""

import os
import sys
from typing import Any

from bittensor.keyfiles import Keyfile, KeyfileError, WrongPasswordError
from bittensor.wallet import Wallet

from neurons.outcome import Unusable


def open_wallet(*, name: str, hotkey: str, path: str) -> Wallet:
    """Find it, without reading a key.

    Raises:
        Unusable: there is no such wallet or hotkey.
    """
    try:
        wallet = Wallet(name=name, hotkey=hotkey, path=os.path.expanduser(path))
    except ValueError as error:
        raise Unusable(f"--wallet.name {name}: {error}") from None
    for file, flag in (
        (wallet.coldkeypub_file, f"--wallet.name {name}"),
        (wallet.hotkey_file, f"--wallet.hotkey {hotkey}"),
    ):
        if not file.exists_on_device():
            raise Unusable(f"{flag}: there is no {file.path}; look with `btcli wallet list`, or give --wallet.path")
    return wallet


def hotkey(wallet: Wallet) -> Any:
    """The key that signs submissions.

    Raises:
        Unusable: it cannot be read.
    """
    return _unlock(wallet.hotkey_file)


def coldkey(wallet: Wallet) -> Any:
    """The key that pays.

    Raises:
        Unusable: it is not here or cannot be unlocked.
    """
    return _unlock(wallet.coldkey_file)


def hotkey_address(wallet: Wallet) -> str:
    """Of the hotkey; no password is needed where its public half is a file.

    Raises:
        Unusable: it cannot be read.
    """
    public = wallet.hotkeypub_file
    return str(_unlock(public if public.exists_on_device() else wallet.hotkey_file).ss58_address)


def _unlock(file: Keyfile) -> Any:
    try:
        if file.is_encrypted() and not os.environ.get(file.env_var_name()) and not sys.stdin.isatty():
            raise Unusable(
                f"{file.path} has a password, and there is no terminal to ask for it; "
                f"put it into {file.env_var_name()} with bittensor's save_password_to_env"
            )
        return file.get_keypair()
    except WrongPasswordError:
        raise Unusable(f"the password of {file.path} is wrong") from None
    except (KeyfileError, OSError, ValueError) as error:
        raise Unusable(f"cannot read {file.path}: {error}") from None
