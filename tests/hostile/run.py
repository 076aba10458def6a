"""The command that runs the hostile corpus: `python -m tests.hostile.run [FAMILY|FILE ...]`. It judges nothing itself.

Progress goes to stderr; the table, or with --json one object, to stdout. Exit code 0: every specimen had its outcome;
1: one had another; 2: wrong usage, or this machine's own fault.
"""

import argparse
import json
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.evaluator import providers
from services.evaluator.sandbox import Provider
from shared import logs
from shared.faults import PoisonMessage, TransientFault
from tests.hostile.corpus import HONEST_EVERY, Outcome, opened
from tests.hostile.specimen import Specimen, SpecimenError, find

ALL_RIGHT, GOT_THROUGH, UNUSABLE = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    options = _parser().parse_args(arguments)
    logs.configure("hostile", level="ERROR")
    began = time.monotonic()
    try:
        specimens = find(*options.wanted)
        provider = providers.choose(options.sandbox, options.runtime)[0]
        unsafe = [specimen for specimen in specimens if specimen.needs_docker and provider.kind != "docker"]
        runnable = [specimen for specimen in specimens if specimen not in unsafe]
        outcomes, harm = _run(provider, runnable)
    except (SpecimenError, TransientFault, PoisonMessage) as error:
        print(f"hostile: {error}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        print("\nhostile: stopped; nothing was left running", file=sys.stderr)
        return 128 + signal.SIGINT
    seconds = time.monotonic() - began
    if options.json:
        sys.stdout.write(json.dumps(_report(outcomes, unsafe, harm, provider, seconds)) + "\n")
    else:
        _print(outcomes, unsafe, harm, provider, seconds)
    return ALL_RIGHT if not harm and all(outcome.is_caught for outcome in outcomes) else GOT_THROUGH


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.hostile.run",
        description="Run cheats, hostile files and honest oddities through the real evaluation.",
        epilog="Exit codes: 0 all as expected, 1 something got through, 2 wrong usage or this machine's own fault.",
    )
    parser.add_argument("wanted", nargs="*", metavar="FAMILY|FILE", help="which; without it the whole corpus")
    parser.add_argument("--sandbox", choices=("docker", "process"), default="docker", help="docker without it")
    parser.add_argument("--runtime", choices=("runc", "runsc"), default="runc", help="of docker; runc without it")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    return parser


def _run(provider: Provider, specimens: list[Specimen]) -> tuple[list[Outcome], list[str]]:
    outcomes = []
    with opened(provider) as corpus:
        for number, specimen in enumerate(specimens, 1):
            print(f"[{number:3}/{len(specimens)}] {specimen.name:58}", end=" ", file=sys.stderr, flush=True)
            outcomes.append(corpus.run(specimen))
            print(_line(outcomes[-1]), file=sys.stderr, flush=True)
        harm = corpus.honest()
    return outcomes, harm


def _line(outcome: Outcome) -> str:
    word = "ok  " if outcome.is_caught else "WRONG"
    text = f"{word} {outcome.code} ({outcome.seconds:.0f} s)"
    if outcome.is_caught:
        return text + ("" if outcome.gain is None else f" {outcome.gain:.2f} x honest")
    return f"{text}, expected {', '.join(sorted(outcome.specimen.allowed))}: {_reasons(outcome)}"


def _reasons(outcome: Outcome) -> str:
    return "; ".join([outcome.detail, *outcome.left, *outcome.log_tail.strip().splitlines()[-2:]])


def _by_family(outcomes: list[Outcome]) -> dict[str, list[Outcome]]:
    families: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        families[outcome.specimen.family].append(outcome)
    return families


def _print(
    outcomes: list[Outcome], unsafe: list[Specimen], harm: list[str], provider: Provider, seconds: float
) -> None:
    console = Console(highlight=False)
    table = Table("family", "as expected", "total", "seconds")
    for column in table.columns[1:]:
        column.justify = "right"
    for family, members in _by_family(outcomes).items():
        caught = sum(outcome.is_caught for outcome in members)
        spent = sum(outcome.seconds for outcome in members)
        table.add_row(family, str(caught), str(len(members)), f"{spent:.0f}")
    caught = sum(outcome.is_caught for outcome in outcomes)
    table.add_section()
    table.add_row("all", str(caught), str(len(outcomes)), f"{seconds:.0f}")
    console.print(table)
    runtime = f" with {provider.runtime}" if provider.runtime else ""
    console.print(
        f"{provider.kind} sandbox{runtime}; an honest run after every {HONEST_EVERY} specimens and at the end"
    )
    for outcome in outcomes:
        if not outcome.is_caught:
            console.print(Text(f"{outcome.specimen.name}: {_line(outcome)}"), soft_wrap=True)
    for sentence in harm:
        console.print(Text(f"after the last one: {sentence}"), soft_wrap=True)
    if unsafe:
        console.print(f"{len(unsafe)} specimens are only run in docker")


def _report(
    outcomes: list[Outcome], unsafe: list[Specimen], harm: list[str], provider: Provider, seconds: float
) -> dict[str, object]:
    return {
        "sandbox": provider.kind,
        "runtime": provider.runtime,
        "seconds": round(seconds, 1),
        "families": {
            family: {"caught": sum(outcome.is_caught for outcome in members), "total": len(members)}
            for family, members in _by_family(outcomes).items()
        },
        "specimens": [
            {
                "name": outcome.specimen.name,
                "expected": sorted(outcome.specimen.allowed),
                "code": outcome.code,
                "caught": outcome.is_caught,
                "detail": outcome.detail,
                "gain": outcome.gain,
                "left": outcome.left,
                "seconds": round(outcome.seconds, 1),
            }
            for outcome in outcomes
        ],
        "harm": harm,
        "not_run": [specimen.name for specimen in unsafe],
    }


if __name__ == "__main__":
    # As Ctrl-C: the sandbox is removed on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    raise SystemExit(main())
