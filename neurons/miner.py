"""The miner's command: tests a train.py as a validator will, pays, submits, watches. It starts no server."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from neurons import competition, local, payment, payments_folder, render, submitting, validator_client, wallet
from neurons.outcome import FAILED, PAID_NOT_SUBMITTED, PASSED, UNUSABLE, NotSubmitted, Spent, Unusable
from neurons.submitting import FailedLocally, Submitted
from neurons.validator_client import Away, Refused, Validator
from services.evaluator import providers
from services.evaluator.evaluation import open_bench
from services.evaluator.machine import place
from services.evaluator.settings import runtime
from shared import environment, logs, ss58
from shared.admission import InvalidSubmission, check_source
from shared.faults import PoisonMessage, TransientFault
from shared.hparams import Hparams, HparamsError, load

DEFAULT_VALIDATOR = "http://127.0.0.1:8001"
DEFAULT_WALLETS = "~/.bittensor/wallets"
WATCHES = ("status", "submissions", "leaderboard")
FAULTS = (Unusable, HparamsError, environment.SettingsError, TransientFault, PoisonMessage, Away)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 passed, 1 failed, 2 wrong usage or a fault that is not the file's, 3 paid and not
    submitted yet.
    """
    typed = sys.argv[1:] if arguments is None else list(arguments)
    if typed and typed[0] in WATCHES:
        options = _watching_parser().parse_args(typed)
        run = _watch
    else:
        parser = _parser()
        options = parser.parse_args(typed)
        if options.file is None and options.resume is None:
            parser.error("name a train.py, or --resume, or one of " + ", ".join(WATCHES))
        run = _test_only if options.skip_payment else _submit
    logs.configure("miner", level="WARNING")
    try:
        return run(options)
    except FAULTS as error:
        return _end_unjudged(str(error), options, code=UNUSABLE)
    except (Spent, Refused) as error:
        return _end_unjudged(str(error), options, code=UNUSABLE, reason=error.code)
    except NotSubmitted as error:
        return _end_unjudged(str(error), options, code=PAID_NOT_SUBMITTED, reason=error.code)
    except KeyboardInterrupt:
        return _end_unjudged("stopped; nothing was left running", options, code=128 + signal.SIGINT)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m neurons.miner",
        description="Test a train.py on this machine, exactly as a validator will; pay, submit it, and watch.",
        epilog="Also: `status ID`, `submissions` and `leaderboard`, each with --help. Exit codes: 0 passed, 1 failed, "
        "2 wrong usage or a fault that is not the file's, 3 paid and not submitted yet (go on with --resume).",
    )
    parser.add_argument("file", type=Path, nargs="?", metavar="train.py", help="the file that defines inner_steps")
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
        help="the competition; without it the validator's among hparams/*.json, or with --skip-payment "
        "hparams/hparams.json where a GPU is found, else hparams/demo.json",
    )
    paid = parser.add_argument_group("paying and submitting")
    _add_validator(paid)
    _add_wallet(paid)
    paid.add_argument(
        "--payment-recipient", metavar="ADDRESS", help="whom to pay: the coldkey that the validator names"
    )
    paid.add_argument(
        "--chain",
        metavar="ENDPOINT",
        help=f"a network's name, or the ws:// address of a node; default {submitting.DEFAULT_CHAIN}",
    )
    paid.add_argument("--skip-test", action="store_true", help="submit without the local test")
    paid.add_argument("--yes", action="store_true", help="agree to pay, without being asked")
    paid.add_argument(
        "--timeout",
        type=float,
        default=1200.0,
        metavar="SECONDS",
        help="how long to wait for the chain, and again for the validator to take the submission; default 1200",
    )
    paid.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="REFERENCE|FILE",
        help="go on with a payment that has bought nothing yet; without a value with the only one there is",
    )
    return parser


def _watching_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m neurons.miner", description="See what a validator says.")
    commands = parser.add_subparsers(dest="command", required=True)
    status = commands.add_parser("status", help="one submission")
    status.add_argument("id", metavar="ID", help="of the submission, 32 hex digits")
    mine = commands.add_parser("submissions", help="of one hotkey, the newest first")
    mine.add_argument("--hotkey", metavar="ADDRESS", help="whose; without it the wallet's")
    _add_wallet(mine)
    leaderboard = commands.add_parser("leaderboard", help="the ranked submissions")
    for command in (status, mine, leaderboard):
        _add_validator(command)
        command.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    return parser


def _add_validator(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    parser.add_argument("--validator", metavar="URL", help=f"where it takes submissions; default {DEFAULT_VALIDATOR}")


def _add_wallet(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    parser.add_argument("--wallet.name", dest="wallet_name", metavar="NAME", help="a bittensor wallet; default default")
    parser.add_argument("--wallet.hotkey", dest="wallet_hotkey", metavar="HOTKEY", help="default default")
    parser.add_argument(
        "--wallet.path", dest="wallet_path", metavar="FOLDER", help=f"where wallets are; default {DEFAULT_WALLETS}"
    )


def _wallet(options: argparse.Namespace) -> payment.Wallet:
    return payment.Wallet(
        name=options.wallet_name or "default",
        hotkey=options.wallet_hotkey or "default",
        path=options.wallet_path or DEFAULT_WALLETS,
    )


def _submit(options: argparse.Namespace) -> int:
    """The file's whole way, or the rest of it with --resume."""
    given = submitting.Options(
        chain=options.chain,
        recipient=options.payment_recipient,
        wallet=_wallet(options),
        hparams=options.hparams,
        skip_test=options.skip_test,
        timeout_seconds=options.timeout,
        state=payments_folder.folder(os.environ),
    )
    source = None if options.file is None else (options.file, _read(options.file))
    if options.resume is not None:
        return _resume(options, given, source)
    assert source is not None
    path, content = source

    def test(source: bytes, hparams: Path) -> local.Verdict:
        with render.progress() as report:
            parameters = load(hparams)
            return _evaluate(source, parameters, options.sandbox, report)

    def agree(question: str) -> bool:
        if options.yes:
            print(question, "yes", file=sys.stderr)  # noqa: T201
            return True
        return submitting.ask_on_terminal(question)

    with Validator(options.validator or DEFAULT_VALIDATOR) as validator:
        try:
            submitted = submitting.submit(validator, path, content, given, test=test, agree=agree, report=render.line)
        except InvalidSubmission as error:
            raise Unusable(f"{path}: {error}; nothing was paid") from None
        except FailedLocally as failed:
            render.line("the file does not pass on this machine, so nothing was paid")
            return _end_judged(failed.verdict, options)
        return _follow(validator, submitted, options)


def _resume(options: argparse.Namespace, given: submitting.Options, source: tuple[Path, bytes] | None) -> int:
    state_file, record = payments_folder.find(given.state, options.resume)
    with Validator(options.validator or record.validator) as validator:
        submitted = submitting.resume(
            state_file,
            record,
            source,
            given,
            wallet_given=any((options.wallet_name, options.wallet_hotkey, options.wallet_path)),
            validator=validator,
            report=render.line,
        )
        return _follow(validator, submitted, options)


def _follow(validator: Validator, submitted: Submitted, options: argparse.Namespace) -> int:
    how = f"watch it with: python -m neurons.miner status {submitted.submission_id} --validator {validator.url}"
    try:
        api_url = validator_client.patiently(
            validator.info, timeout_seconds=options.timeout, report=render.line
        ).api_url
        with render.progress() as report:
            ended = submitting.watch(validator, api_url, submitted, report)
    except KeyboardInterrupt:
        why = f"stopped watching; submission {submitted.submission_id} goes on; {how}"
        return _end_unjudged(why, options, code=128 + signal.SIGINT, submitted=submitted)
    except (Away, Refused) as error:
        why = f"submitted as {submitted.submission_id}, but {error}; {how}"
        return _end_unjudged(why, options, code=UNUSABLE, submitted=submitted)
    if options.json:
        _print_json(ended)
    else:
        render.ended(ended)
    return {"passed": PASSED, "failed": FAILED}.get(str(ended.verdict), UNUSABLE)


def _watch(options: argparse.Namespace) -> int:
    with Validator(options.validator or DEFAULT_VALIDATOR) as validator:
        api_url = validator.info().api_url
        if options.command == "status":
            ended = submitting.ended(validator, api_url, validator.submission(api_url, options.id), None)
            _print_json(ended) if options.json else render.ended(ended)
        elif options.command == "submissions":
            hotkey = options.hotkey or _address(options)
            _check_address(hotkey)
            found = validator.submissions(api_url, miner_hotkey=hotkey)
            _print_json({"miner_hotkey": hotkey, "submissions": found}) if options.json else render.submissions(found)
        else:
            rows = validator.leaderboard(api_url)
            _print_json({"leaderboard": rows}) if options.json else render.leaderboard(rows)
    return PASSED


def _address(options: argparse.Namespace) -> str:
    chosen = _wallet(options)
    opened = wallet.open_wallet(name=chosen.name, hotkey=chosen.hotkey, path=chosen.path)
    return wallet.hotkey_address(opened)


def _check_address(address: str) -> None:
    try:
        ss58.check(address)
    except ss58.InvalidAddress as error:
        raise Unusable(f"--hotkey {address}: {error}") from None


def _test_only(options: argparse.Namespace) -> int:
    return _end_judged(_test(options), options)


def _test(options: argparse.Namespace) -> local.Verdict:
    if options.file is None:
        raise Unusable("name the train.py to test")
    source = _read(options.file)
    with render.progress() as report:
        _, parameters, sentence = competition.choose(options.hparams)
        report(sentence)
        try:
            check_source(source, max_bytes=parameters.max_code_bytes)
        except InvalidSubmission as error:
            return local.refuse(str(error), parameters)
        return _evaluate(source, parameters, options.sandbox, report)


def _evaluate(source: bytes, parameters: Hparams, sandbox: str, report: local.Report) -> local.Verdict:
    provider, sentence = providers.choose(sandbox, runtime(os.environ))
    report(("WARNING: " if sandbox == "auto" and provider.kind == "process" else "") + sentence)
    placement = place(parameters.sandbox.cpus)
    shards = environment.optional_text(os.environ, "TOURNAMENT_SHARDS_DIR")
    bench = open_bench(provider, parameters, placement, None if shards is None else Path(shards))
    return local.evaluate(bench, source, report)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unusable(f"cannot read {path}: {error.strerror}") from None


def _end_judged(verdict: local.Verdict, options: argparse.Namespace) -> int:
    if options.json:
        _print_json(verdict)
    else:
        render.verdict(verdict)
    return PASSED if verdict.verdict == "passed" else FAILED


def _end_unjudged(
    why: str,
    options: argparse.Namespace,
    *,
    code: int,
    reason: str | None = None,
    submitted: Submitted | None = None,
) -> int:
    print(f"miner: {why}", file=sys.stderr)  # noqa: T201
    if options.json:
        said: dict[str, object] = {"error": why}
        if reason is not None:
            said["code"] = reason
        if submitted is not None:
            said |= msgspec.to_builtins(submitted)
        _print_json(said)
    return code


def _print_json(value: object) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


if __name__ == "__main__":
    # As Ctrl-C: the sandbox is removed on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    raise SystemExit(main())
