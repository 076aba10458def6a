"""A miner's keys, read by bittensor's own classes. A key is never written, logged or sent; passwords are not kept."""

import os
import sys
from typing import Any

from bittensor.keyfiles import Keyfile, KeyfileError, WrongPasswordError
from bittensor.sp_core import get_password_from_environment
from bittensor.wallet import Wallet

from neurons.outcome import Unusable


def open_wallet(*, name: str, hotkey: str, path: str) -> Wallet:
    """Where its keys are. None is read yet.

    Raises:
        Unusable: that is no wallet's name.
    """
    try:
        return Wallet(name=name, hotkey=hotkey, path=os.path.expanduser(path))
    except ValueError as error:
        raise Unusable(f"--wallet.name {name}: {error}") from None


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
    if not file.exists_on_device():
        raise Unusable(f"there is no {file.path}; check --wallet.name, --wallet.hotkey and --wallet.path")
    try:
        if file.is_encrypted() and not get_password_from_environment(file.env_var_name()) and not sys.stdin.isatty():
            raise Unusable(
                f"{file.path} has a password, and there is no terminal to ask for it; "
                f"set {file.env_var_name()} as bittensor.sp_core.save_password_to_environment does"
            )
        return file.get_keypair()
    except WrongPasswordError:
        raise Unusable(f"the password of {file.path} is wrong") from None
    except (KeyfileError, OSError, ValueError, EOFError) as error:
        raise Unusable(f"cannot read {file.path}: {error}") from None
