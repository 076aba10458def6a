"""The validator's command: everything on one machine, until Ctrl-C. It only starts what deploy/local composes."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.local import command
from deploy.local.stack import Options, tournament
from neurons import competition
from services.evaluator import providers
from services.evaluator.settings import runtime
from shared import logs


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
    unused = parser.add_argument_group("for weights on the chain, which come with the chain release")
    unused.add_argument("--wallet.name", metavar="NAME", help="accepted, not used without a chain")
    unused.add_argument("--wallet.hotkey", metavar="HOTKEY", help="accepted, not used without a chain")
    return parser


async def _validate(flags: argparse.Namespace) -> int:
    options = _options(flags)
    try:
        async with tournament(options, _say) as place:
            _say("unpaid local mode: no chain is configured, so nobody pays and no weights leave this machine")
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
    provider, sentence = providers.choose(flags.sandbox, runtime(os.environ))
    _say(f"{'WARNING: ' if flags.sandbox == 'auto' and provider.kind == 'process' else ''}{sentence}")
    return command.options(
        os.environ,
        hparams=path,
        sandbox=provider.kind,
        data_dir=command.default_data_dir("validator"),
        burn_hotkey=flags.burn_hotkey,
    )


def _say(line: str) -> None:
    print(f"validator: {line}", file=sys.stderr, flush=True)  # noqa: T201 - for the person who started it


if __name__ == "__main__":
    raise SystemExit(main())
