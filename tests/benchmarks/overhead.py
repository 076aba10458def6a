"""What the sandbox costs: `python -m tests.benchmarks.overhead` measures its speed beside that of a bare loop.

Progress goes to stderr; the tables, or with --json one object, to stdout. Exit code 0: every target is met; 1: one is
not; 2: wrong usage, or this machine's own fault.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.evaluator import providers
from shared import hparams, logs
from shared.faults import PoisonMessage, TransientFault
from shared.hparams import Hparams, HparamsError
from tests.benchmarks.figures import MEASURES, Measure, figure
from tests.benchmarks.interpreter import PROJECT, interpreter
from tests.benchmarks.pairs import BenchError, Result, measure

DEMO = PROJECT / "hparams" / "demo.json"
STRETCH = 10
"""The demo's timed part is too short to stand for a real one's, so it is judged with so many times its steps."""
QUIET_LOAD = 0.3
"""With more than this beside it, a measurement cannot tell one percent."""
MET, MISSED, UNUSABLE = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    options = _parser().parse_args(arguments)
    logs.configure("bench", level="ERROR")
    load, began = os.getloadavg()[0], time.monotonic()
    try:
        if options.pairs < 2:
            raise BenchError("--pairs must be at least 2: the variation of one run is unknown")
        wanted = competitions() if options.hparams is None else [hparams.load(options.hparams)]
        provider = providers.choose(options.sandbox)[0]
        with interpreter(provider) as python:
            results = [measure(provider, python, one, pairs=options.pairs, report=_say) for one in wanted]
    except (BenchError, HparamsError, TransientFault, PoisonMessage) as error:
        print(f"bench: {error}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        print("\nbench: stopped; nothing was left running", file=sys.stderr)
        return 128 + signal.SIGINT
    seconds = time.monotonic() - began
    if options.json:
        sys.stdout.write(json.dumps(report(results, load, seconds)) + "\n")
    else:
        render(results, load, seconds, Console(highlight=False))
    return MET if all(row.is_met(results[0].pairs) for row in MEASURES) else MISSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.overhead",
        description="Compare the speed that is measured in the sandbox with that of the same loop without any harness.",
        epilog="Exit codes: 0 every target met, 1 one missed, 2 wrong usage or this machine's own fault.",
    )
    parser.add_argument("--pairs", type=int, default=10, help="how many runs of each; 10 without it")
    parser.add_argument("--sandbox", choices=("docker", "process"), default="docker", help="docker without it")
    parser.add_argument(
        "--hparams",
        type=Path,
        help=f"the competition; without it the demo with {STRETCH} times its steps, which is judged, and then as it is",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    return parser


def competitions() -> list[Hparams]:
    """The demo, stretched and as it is. The first is judged."""
    demo = hparams.load(DEMO)
    evaluation = msgspec.structs.replace(
        demo.evaluation,
        num_steps=STRETCH * demo.evaluation.num_steps,
        timeout_seconds=STRETCH * demo.evaluation.timeout_seconds,
    )
    return [msgspec.structs.replace(demo, evaluation=evaluation), demo]


def render(results: Sequence[Result], load: float, seconds: float, console: Console) -> None:
    """The tables for a person. The targets are those of the first result."""
    judged = results[0]
    table = Table("", *map(_title, results), "target")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("bare loop, median seconds", *(f"{_median(_bare(result)):.3f}" for result in results), "")
    table.add_row("in the sandbox, median seconds", *(f"{_median(_sandbox(result)):.3f}" for result in results), "")
    table.add_row("bare loop, TPS", *(f"{_tps(result, _bare(result)):,.0f}" for result in results), "")
    table.add_row("in the sandbox, TPS", *(f"{_tps(result, _sandbox(result)):,.0f}" for result in results), "")
    for row in MEASURES:
        table.add_row(row.name, *(_cell(row, result) for result in results), _target(row, judged))
    console.print(table)
    console.print(f"{len(judged.pairs)} pairs, {seconds:.0f} s; in brackets where 95 % of resampled pairs lie")
    if len(results) > 1:
        console.print(f"the targets are for {_title(judged)}")
    for line in _surroundings(judged, load):
        console.print(Text(line), soft_wrap=True)
    if judged.differences:
        differing = Table("the processes differ in", "bare loop", "sandbox")
        for name, values in judged.differences.items():
            differing.add_row(Text(name), *map(Text, values))
        console.print(differing)


def report(results: Sequence[Result], load: float, seconds: float) -> dict[str, object]:
    """What --json prints. The targets are those of the first result."""
    judged = results[0]
    return {
        "seconds": round(seconds, 1),
        "load_average": load,
        "processor": _processor(),
        "machine": msgspec.to_builtins(judged.machine),
        "process": judged.sandbox,
        "differences": judged.differences,
        "targets": {
            row.name: {"at_least": row.at_least, "at_most": row.at_most, "met": row.is_met(judged.pairs)}
            for row in MEASURES
            if row.has_target
        },
        "competitions": [
            {
                "name": result.parameters.name,
                "sha256": result.parameters.sha256,
                "num_steps": result.parameters.evaluation.num_steps,
                "bare_tps": _tps(result, _bare(result)),
                "sandbox_tps": _tps(result, _sandbox(result)),
                "figures": {row.name: asdict(figure(row.statistic, result.pairs)) for row in MEASURES},
                "pairs": [asdict(pair) for pair in result.pairs],
            }
            for result in results
        ],
    }


def _title(result: Result) -> str:
    return f"{result.parameters.name}, {result.parameters.evaluation.num_steps} steps"


def _bare(result: Result) -> list[int]:
    return [pair.bare_ns for pair in result.pairs]


def _sandbox(result: Result) -> list[int]:
    return [pair.sandbox_ns for pair in result.pairs]


def _median(elapsed_ns: Sequence[int]) -> float:
    """In seconds."""
    return statistics.median(elapsed_ns) / 1e9


def _tps(result: Result, elapsed_ns: Sequence[int]) -> float:
    """Of the median run."""
    return result.parameters.evaluation.tokens / _median(elapsed_ns)


def _cell(row: Measure, result: Result) -> str:
    found = figure(row.statistic, result.pairs)
    return f"{found.value:.4f} ({found.low:.4f} to {found.high:.4f})"


def _target(row: Measure, judged: Result) -> str:
    if not row.has_target:
        return ""
    bound = f">= {row.at_least}" if row.at_least is not None else f"<= {row.at_most}"
    return f"{bound}: {'met' if row.is_met(judged.pairs) else 'MISSED'}"


def _surroundings(judged: Result, load: float) -> list[str]:
    on = judged.machine
    left = sorted(os.sched_getaffinity(0) - set(on.cpus))
    return [
        f"{on.sandbox} sandbox, {on.image}",
        f"{_processor()}, {on.accelerator}; runs on CPU {_list(on.cpus)}, "
        + (f"CPU {_list(left)} left to the controller" if left else "which the controller shares"),
        *(f"{name} {judged.sandbox[name]}" for name in ("python", "torch", "threads", "kernel")),
        f"load average before it {load:.2f}" + ("" if load <= QUIET_LOAD else ": the machine was not quiet"),
    ]


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    # As Ctrl-C: the sandbox is removed on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    raise SystemExit(main())
