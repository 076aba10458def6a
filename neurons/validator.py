"""The validator's command: everything on one machine, until Ctrl-C. It only starts what deploy/local composes."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import bittensor
from bittensor.keyfiles import KeyfileError
from bittensor.wallet import DEFAULT_WALLET_PATH

from deploy.local import command
from deploy.local.stack import ChainOptions, Options, tournament
from neurons import competition
from services.evaluator import providers
from services.evaluator.settings import runtime
from shared import logs, ss58
from shared.environment import SettingsError


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 after Ctrl-C, 2 for what a person can mend."""
    flags = _parser().parse_args(arguments)
    logs.configure("validator", level="WARNING")
    return command.run("validator", _validate(flags))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m neurons.validator",
        description="Run a whole validator on this machine: NATS, PostgreSQL and the five services. Ctrl-C ends it.",
        epilog="TOURNAMENT_DATA_DIR, TOURNAMENT_API_HOST, TOURNAMENT_API_PORT and TOURNAMENT_INGEST_PORT move it; "
        "docs/validator.md lists every setting.",
    )
    parser.add_argument("--burn-hotkey", metavar="ADDRESS", help="gets the emission while there is no leader")
    parser.add_argument(
        "--sandbox",
        choices=("docker", "process"),
        default=os.environ.get("TOURNAMENT_SANDBOX") or "auto",
        help="where submissions run; without it docker where an engine and the image are, else a child process",
    )
    parser.add_argument(
        "--hparams",
        type=Path,
        metavar="FILE",
        help="the competition; without it hparams/hparams.json where a GPU is found, else hparams/demo.json",
    )
    money = parser.add_argument_group("real money; without a wallet everything is free and stays on this machine")
    money.add_argument("--wallet.name", dest="wallet_name", metavar="NAME", default=_default("WALLET_NAME"))
    money.add_argument("--wallet.hotkey", dest="wallet_hotkey", metavar="HOTKEY", default=_default("WALLET_HOTKEY"))
    money.add_argument("--wallet.path", dest="wallet_path", metavar="FOLDER", default=_default("WALLET_PATH"))
    money.add_argument(
        "--chain",
        metavar="NETWORK",
        default=_default("CHAIN_ENDPOINT"),
        help="finney, test, local, or the ws:// address of a node; finney when a wallet is named",
    )
    money.add_argument(
        "--payment-recipient",
        metavar="ADDRESS",
        default=_default("PAYMENT_RECIPIENT"),
        help="the coldkey that miners pay; without it the wallet's own",
    )
    return parser


def _default(name: str) -> str | None:
    return os.environ.get(f"TOURNAMENT_{name}") or None


async def _validate(flags: argparse.Namespace) -> int:
    options = _options(flags)
    try:
        async with tournament(options, _say) as place:
            _say(_economy(options))
            _say(f"leaderboard and API  {place.api_url}/leaderboard  (documentation: {place.api_url}/docs)")
            _say(f"submissions go to    {place.ingest_url}/submissions")
            _say(f"logs are in          {options.data_dir / 'logs'}")
            _say("Ctrl-C ends it; everything is kept")
            await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        _say(f"stopped; everything is kept in {options.data_dir}")
    return 0


def _options(flags: argparse.Namespace) -> Options:
    path, _, sentence = competition.choose(flags.hparams)
    _say(sentence)
    chain = _chain(flags)
    provider, sentence = providers.choose(flags.sandbox, runtime(os.environ))
    if chain is not None and provider.kind != "docker":
        raise SettingsError(f"paid submissions run in Docker only. {sentence}")
    _say(f"{'WARNING: ' if flags.sandbox == 'auto' and provider.kind == 'process' else ''}{sentence}")
    return command.options(
        os.environ,
        hparams=path,
        sandbox=provider.kind,
        data_dir=command.default_data_dir("validator" if chain is None else "validator-paid"),
        burn_hotkey=flags.burn_hotkey,
        chain=chain,
    )


def _chain(flags: argparse.Namespace) -> ChainOptions | None:
    """The wallet and the chain, or None for unpaid local mode.

    Raises:
        SettingsError: one is missing or cannot be used.
    """
    if not (flags.wallet_name or flags.wallet_hotkey or flags.chain):
        return None
    if not (flags.wallet_name and flags.wallet_hotkey):
        raise SettingsError("--wallet.name and --wallet.hotkey belong together; name both, or neither and no --chain")
    path = flags.wallet_path or DEFAULT_WALLET_PATH
    wallet = bittensor.Wallet(flags.wallet_name, flags.wallet_hotkey, path)
    if wallet.hotkey_file.is_encrypted():
        raise SettingsError(f"the hotkey {flags.wallet_hotkey} has a password, and weights are set with nobody there")
    try:
        recipient = flags.payment_recipient or wallet.coldkeypub.ss58_address
        hotkey = wallet.hotkey.ss58_address
        ss58.check(recipient)
    except ss58.InvalidAddress as error:
        raise SettingsError(f"--payment-recipient cannot be used: {error}") from None
    except (KeyfileError, OSError, ValueError) as error:
        raise SettingsError(f"the wallet {flags.wallet_name}/{flags.wallet_hotkey} cannot be read: {error}") from None
    return ChainOptions(
        endpoint=flags.chain or "finney",
        payment_recipient=recipient,
        wallet_name=flags.wallet_name,
        wallet_hotkey=flags.wallet_hotkey,
        wallet_path=path,
        hotkey=hotkey,
    )


def _economy(options: Options) -> str:
    chain = options.chain
    if chain is None:
        return "unpaid local mode: no chain is configured, so nobody pays and no weights leave this machine"
    burn = options.burn_hotkey or "nobody, so no weights are set: name one with --burn-hotkey"
    return (
        f"real money on {chain.endpoint}: miners pay {chain.payment_recipient}, {chain.hotkey} sets the weights; "
        f"without a leader the emission goes to {burn}"
    )


def _say(line: str) -> None:
    print(f"validator: {line}", file=sys.stderr, flush=True)  # noqa: T201 - for the person who started it


if __name__ == "__main__":
    raise SystemExit(main())
