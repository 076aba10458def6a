"""Measures how far honest variants and known cheats are from the reference: `python -m tests.calibration.calibrate`.

Every variant is a real train.py, run through the evaluation that a submission goes through. It chooses no threshold: it
shows what those of the hparams leave to honest code, and by how much a cheat exceeds them. Exit code 0: enough of both;
1: not enough; 2: wrong usage, or this machine's own fault.
"""

import argparse
import math
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec

from services.evaluator import providers
from services.evaluator.evaluation import Draw, draw, measure_candidate, measure_reference, open_bench
from services.evaluator.machine import Placement, place
from services.evaluator.sandbox import Provider
from services.verifier.judge import judge
from shared import hparams, logs
from shared.evidence import Evidence
from shared.faults import PoisonMessage, TransientFault
from shared.hparams import Hparams, HparamsError

FOLDER = Path(__file__).parent
DEMO = FOLDER.parents[1] / "hparams" / "demo.json"
HONEST, CONTROLS = "honest", "controls"
MOST_USED = 2 / 3
"""Of a threshold, by an honest variant."""
LEAST_EXCESS = 1.5
"""Of one threshold at least, by a control."""
PATIENCE_SECONDS = 900.0
"""For each part of a run: no distance depends on time, and compiling beside other runs takes long."""
ENOUGH, NOT_ENOUGH, UNUSABLE = 0, 1, 2

Report = Callable[[str], None]


class CalibrationError(Exception):
    """Nothing can be measured. The message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant: of every check its distance over its threshold, in each draw."""

    kind: str
    name: str
    distances: dict[str, float]
    """The worst of the draws for an honest variant, the one that suits the cheat best for a control."""
    thresholds: dict[str, float]
    fault: str = ""
    """Why it left nothing to measure."""

    @property
    def nearest(self) -> str:
        """The check whose threshold is most used or most exceeded."""
        return max(self.distances, key=lambda name: self.distances[name] / self.thresholds[name])

    @property
    def used(self) -> float:
        """Its distance over its threshold."""
        return self.distances[self.nearest] / self.thresholds[self.nearest]

    @property
    def is_right(self) -> bool:
        if self.fault:
            return False
        return self.used <= MOST_USED if self.kind == HONEST else self.used >= LEAST_EXCESS


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    options = _parser().parse_args(arguments)
    logs.configure("calibrate", level="ERROR")
    began = time.monotonic()
    try:
        if options.out is not None and not options.out.absolute().parent.is_dir():
            raise CalibrationError(f"there is no folder {options.out.parent} to write the table to")
        if options.draws < 1:
            raise CalibrationError("--draws must be at least 1")
        parameters = hparams.load(options.hparams)
        provider = providers.choose(options.sandbox)[0]
        rows = calibrate(provider, parameters, find(*options.wanted), draws=options.draws, report=_say)
    except (CalibrationError, HparamsError, TransientFault, PoisonMessage) as error:
        print(f"calibrate: {error}", file=sys.stderr)
        return UNUSABLE
    text = render(rows, parameters)
    sys.stdout.write(text)
    if options.out is not None:
        options.out.write_text(text)
    _say(f"{len(rows)} variants, {options.draws} draws, {provider.kind} sandbox, {time.monotonic() - began:.0f} s")
    wrong = [row for row in rows if not row.is_right]
    for row in wrong:
        _say(f"{row.kind}/{row.name}: {row.fault or _shortfall(row)}")
    return NOT_ENOUGH if wrong else ENOUGH


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.calibration.calibrate",
        description="Measure honest variants and known cheats against the thresholds of a competition.",
        epilog="Exit codes: 0 all on their side of the thresholds, 1 not, 2 wrong usage or this machine's own fault.",
    )
    parser.add_argument("wanted", nargs="*", metavar="VARIANT", help="which, by name; without it all")
    parser.add_argument("--hparams", type=Path, default=DEMO, help="the competition; the demo without it")
    parser.add_argument("--sandbox", choices=("docker", "process"), default="process", help="process without it")
    parser.add_argument("--draws", type=int, default=3, help="how many draws of seed and nonce; 3 without it")
    parser.add_argument("--out", type=Path, help="write the table to this file too")
    return parser


def find(*wanted: str) -> list[Path]:
    """The files of the named variants, or all of them.

    Raises:
        CalibrationError: there is none of that name.
    """
    paths = [path for kind in (HONEST, CONTROLS) for path in sorted((FOLDER / kind).glob("*.py"))]
    unknown = sorted(set(wanted) - {path.stem for path in paths})
    if unknown:
        raise CalibrationError(f"there is no variant {unknown[0]}; see {FOLDER / HONEST} and {FOLDER / CONTROLS}")
    return [path for path in paths if not wanted or path.stem in wanted]


def calibrate(
    provider: Provider, parameters: Hparams, variants: Sequence[Path], *, draws: int, report: Report
) -> list[Row]:
    """Run all variants on each draw, beside one another where there are CPUs enough: only distances are measured.

    Raises:
        TransientFault, PoisonMessage: this machine's own fault.
    """
    patient = msgspec.structs.replace(
        parameters,
        evaluation=msgspec.structs.replace(
            parameters.evaluation, prepare_timeout_seconds=PATIENCE_SECONDS, timeout_seconds=PATIENCE_SECONDS
        ),
    )
    places: queue.SimpleQueue[Placement] = queue.SimpleQueue()
    placements = _placements(parameters)
    for placement in placements:
        places.put(placement)
    secrets = [draw() for _ in range(draws)]
    stop = threading.Event()
    with ThreadPoolExecutor(len(placements)) as pool:

        def reference(secret: Draw) -> Evidence:
            placement = places.get()
            try:
                bench = open_bench(provider, patient, placement, _shards())
                evidence = measure_reference(bench, secret, name=_name(), stop=stop).evidence
            finally:
                places.put(placement)
            assert evidence is not None
            return evidence

        def candidate(path: Path, secret: Draw, against: Evidence) -> tuple[dict[str, tuple[float, float]], str]:
            placement = places.get()
            try:
                bench = open_bench(provider, patient, placement, _shards())
                measured = measure_candidate(bench, path.read_bytes(), secret, name=_name(), stop=stop)
            finally:
                places.put(placement)
            report(f"{path.parent.name}/{path.stem}: {measured.failure or 'measured'}")
            if measured.evidence is None:
                return {}, f"{measured.failure}: {measured.detail} {measured.log_tail[-500:]}"
            checks = judge(measured.evidence, against, tokens=measured.tokens, expected=parameters).checks
            return {
                check.name: (math.inf if check.value is None else check.value, check.threshold)
                for check in checks
                if check.threshold
            }, "" if checks else "its evidence is malformed"

        try:
            references = list(pool.map(reference, secrets))
            asked = [
                (path, [pool.submit(candidate, path, *pair) for pair in zip(secrets, references, strict=True)])
                for path in variants
            ]
            return [summary(path.parent.name, path.stem, [one.result() for one in runs]) for path, runs in asked]
        except BaseException:
            # Also Ctrl-C: what runs is stopped, what waits is not begun.
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def summary(kind: str, name: str, results: Sequence[tuple[dict[str, tuple[float, float]], str]]) -> Row:
    """One row of all draws of one variant."""
    fault = next((fault for _, fault in results if fault), "")
    if fault:
        return Row(kind=kind, name=name, distances={}, thresholds={}, fault=fault)
    choose = max if kind == HONEST else min
    first = results[0][0]
    return Row(
        kind=kind,
        name=name,
        distances={check: choose(values[check][0] for values, _ in results) for check in first},
        thresholds={check: threshold for check, (_, threshold) in first.items()},
    )


def render(rows: Sequence[Row], parameters: Hparams) -> str:
    """Both tables in Markdown, thresholds in their heads, everything in percent."""
    return "\n".join(
        [
            f"Competition `{parameters.name}`, sha256 `{parameters.sha256}`, {parameters.evaluation.num_steps} steps.",
            "",
            *_table("honest variant (worst draw)", [row for row in rows if row.kind == HONEST]),
            *_table("control (best draw for the cheat)", [row for row in rows if row.kind == CONTROLS]),
        ]
    )


def _table(title: str, rows: list[Row]) -> list[str]:
    measured = [row for row in rows if not row.fault]
    if not measured:
        return []
    checks = list(measured[0].thresholds)
    heads = [f"{name} ({100 * measured[0].thresholds[name]:g} %)" for name in checks]
    lines = [f"| {' | '.join([title, *heads, 'distance / threshold'])} |", f"|---|{'---:|' * len(checks)}---|"]
    for row in rows:
        if row.fault:
            lines.append(f"| {row.name} | {' | '.join('-' for _ in checks)} | {row.fault.splitlines()[0]} |")
            continue
        cells = [_number(100 * row.distances[name]) for name in checks]
        lines.append(f"| {' | '.join([row.name, *cells, f'{_number(row.used)} ({row.nearest})'])} |")
    return [*lines, ""]


def _number(value: float) -> str:
    return "< 0.001" if 0 < value < 0.001 else f"{value:.3g}"


def _shortfall(row: Row) -> str:
    if row.kind == HONEST:
        return f"uses {row.used:.0%} of the threshold of {row.nearest}; at most {MOST_USED:.0%} leaves a margin"
    return f"exceeds no threshold by more than {row.used:.2f} times ({row.nearest}); {LEAST_EXCESS} is asked for"


def _placements(parameters: Hparams) -> list[Placement]:
    """One for each group of CPUs; with a GPU one alone."""
    one = place(parameters.sandbox.cpus)
    allowed, size = sorted(os.sched_getaffinity(0)), len(one.cpus)
    if one.gpu_uuid is not None:
        return [one]
    groups = [tuple(allowed[start : start + size]) for start in range(0, len(allowed) - size + 1, size)]
    return [Placement(cpus=cpus, gpu_uuid=None, accelerator=one.accelerator) for cpus in groups]


def _shards() -> Path | None:
    folder = os.environ.get("TOURNAMENT_SHARDS_DIR")
    return None if folder is None else Path(folder)


def _name() -> str:
    return f"calibrate-{os.getpid()}-{time.monotonic_ns()}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    # As Ctrl-C: the sandbox is removed on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    raise SystemExit(main())
