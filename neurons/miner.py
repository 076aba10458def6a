"""The miner's command: tests a train.py on this machine exactly as a validator will. It starts no server."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from neurons import competition, local, render
from services.evaluator import providers
from services.evaluator.evaluation import open_bench
from services.evaluator.machine import place
from services.evaluator.settings import runtime
from shared import environment, logs
from shared.admission import InvalidSubmission, check_source
from shared.faults import PoisonMessage, TransientFault
from shared.hparams import HparamsError

PASSED, FAILED, UNUSABLE = 0, 1, 2


class Unusable(Exception):
    """The command was used wrongly. The message says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 passed, 1 failed, 2 wrong usage or the machine's own fault."""
    options = _parser().parse_args(arguments)
    logs.configure("miner", level="WARNING")
    try:
        verdict = _test(options)
    except (Unusable, HparamsError, environment.SettingsError, TransientFault, PoisonMessage) as error:
        return _end_unjudged(str(error), options, code=UNUSABLE)
    except KeyboardInterrupt:
        return _end_unjudged("stopped; nothing was left running", options, code=128 + signal.SIGINT)
    if options.json:
        _print_json(verdict)
    else:
        render.verdict(verdict)
    return PASSED if verdict.verdict == "passed" else FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m neurons.miner",
        description="Test a train.py on this machine, exactly as a validator will.",
        epilog="Exit codes: 0 passed, 1 failed, 2 wrong usage or this machine's own fault.",
    )
    parser.add_argument("file", type=Path, metavar="train.py", help="the file that defines inner_steps")
    parser.add_argument("--skip-payment", action="store_true", help="test locally: nothing is paid or submitted")
    parser.add_argument("--json", action="store_true", help="print the verdict as one JSON object on stdout")
    parser.add_argument(
        "--sandbox",
        choices=("docker", "process"),
        default="auto",
        help="where the file runs; without it docker where an engine and the image are, else a child process",
    )
    parser.add_argument(
        "--hparams",
        type=Path,
        metavar="FILE",
        help="the competition; without it hparams/hparams.json where a GPU is found, else hparams/demo.json",
    )
    unused = parser.add_argument_group("for paid submissions, which come with the chain release")
    unused.add_argument("--wallet.name", metavar="NAME", help="accepted, not used by a local test")
    unused.add_argument("--wallet.hotkey", metavar="HOTKEY", help="accepted, not used by a local test")
    unused.add_argument("--payment-recipient", metavar="ADDRESS", help="accepted, not used by a local test")
    return parser


def _test(options: argparse.Namespace) -> local.Verdict:
    if not options.skip_payment:
        raise Unusable(
            "paying and submitting come with the chain release; add --skip-payment to test the file on this machine"
        )
    source = _read(options.file)
    with render.progress() as report:
        _, parameters, sentence = competition.choose(options.hparams)
        report(sentence)
        try:
            check_source(source, max_bytes=parameters.max_code_bytes)
        except InvalidSubmission as error:
            return local.refuse(str(error), parameters)
        provider, sentence = providers.choose(options.sandbox, runtime(os.environ))
        report(("WARNING: " if options.sandbox == "auto" and provider.kind == "process" else "") + sentence)
        placement = place(parameters.sandbox.cpus)
        shards = environment.optional_text(os.environ, "TOURNAMENT_SHARDS_DIR")
        bench = open_bench(provider, parameters, placement, None if shards is None else Path(shards))
        return local.evaluate(bench, source, report)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unusable(f"cannot read {path}: {error.strerror}") from None


def _end_unjudged(why: str, options: argparse.Namespace, *, code: int) -> int:
    print(f"miner: {why}", file=sys.stderr)  # noqa: T201
    if options.json:
        _print_json({"error": why})
    return code


def _print_json(value: object) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


if __name__ == "__main__":
    # As Ctrl-C: the sandbox is removed on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    raise SystemExit(main())
