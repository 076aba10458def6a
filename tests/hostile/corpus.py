"""Runs specimens through the real sandbox, controller, runner, reference and judge, and looks at what each left behind.

Nothing of the evaluation is imitated here: `neurons/local.py` and the evaluator call the same functions.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from services.evaluator.controller import Measured
from services.evaluator.docker_sandbox import OWNER_LABEL, connect
from services.evaluator.evaluation import Bench, Draw, draw, measure_candidate, measure_reference, open_bench
from services.evaluator.machine import place
from services.evaluator.sandbox import Provider
from services.verifier.judge import judge
from shared import hparams
from shared.admission import InvalidSubmission, check_source
from shared.evidence import Evidence
from shared.faults import Failure
from shared.hparams import Hparams
from tests.hostile.specimen import NO_GAIN, PASSED, Specimen

PROJECT = Path(__file__).parents[2]
HONEST = PROJECT / "examples" / "basic.py"
DEMO = hparams.load(PROJECT / "hparams" / "demo.json")
BASE = msgspec.structs.replace(
    DEMO,
    name="hostile",
    evaluation=msgspec.structs.replace(DEMO.evaluation, runs=1, prepare_timeout_seconds=60.0, timeout_seconds=30.0),
)
"""The demo competition with its model and its limits of tolerance, but one run."""

GRACE_SECONDS = 10.0
"""How long after its deadline a run may end."""
MOST_PAIRS = 9
GAIN = 1.10
"""A timing cheat whose fastest run is this much faster than the fastest honest one has won."""
GROWTH_BYTES = 96 * 2**20
"""How much the evaluator's memory may grow above what it was, at its highest, during one specimen."""
HONEST_EVERY = 10


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one specimen ended."""

    specimen: Specimen
    code: str
    """A failure code, `passed`, or `no_gain`."""
    detail: str
    seconds: float
    gain: float | None = None
    """Its TPS over honest code's, for timing cheats."""
    left: tuple[str, ...] = ()
    """What it left behind, or did to the evaluator."""
    log_tail: str = ""

    @property
    def is_caught(self) -> bool:
        return self.code in self.specimen.allowed and not self.left


@dataclass
class Corpus:
    """One session: one draw of data and nonce for first runs, and a reference for each shape of competition."""

    provider: Provider
    temporary: Path
    """Where sandboxes of this session put their files."""
    secret: Draw = field(default_factory=draw)
    references: dict[tuple[bytes, Draw], Evidence] = field(default_factory=dict)
    since_honest: int = 0

    def run(self, specimen: Specimen) -> Outcome:
        """Run one specimen and look at what is left of it."""
        began = time.monotonic()
        bench = self._bench(specimen.parameters(BASE))
        source = specimen.path.read_bytes()
        before, descriptors = _restart_peak(), _descriptors()
        log_tail, gain = "", None
        left: list[str] = []
        if specimen.expected == NO_GAIN:
            code, detail, gain = self._compare(bench, source, left)
        else:
            code, detail, log_tail = self._all_runs(bench, source, left)
        grown = _peak() - before
        if grown > GROWTH_BYTES:
            left.append(f"the evaluator grew by {grown // 2**20} MB")
        if _descriptors() > descriptors:
            left.append(f"{_descriptors() - descriptors} open files in the evaluator")
        left += self._remains()
        self.since_honest += 1
        if self.since_honest >= HONEST_EVERY:
            left += self.honest()
        seconds = time.monotonic() - began
        return Outcome(
            specimen=specimen,
            code=code,
            detail=detail,
            seconds=seconds,
            gain=gain,
            left=tuple(left),
            log_tail=log_tail,
        )

    def honest(self) -> list[str]:
        """What is wrong with the plain loop by now: nothing, unless an earlier specimen harmed the evaluator."""
        self.since_honest = 0
        left: list[str] = []
        code, detail, _ = self._all_runs(self._bench(BASE), HONEST.read_bytes(), left)
        return left if code == PASSED else [*left, f"the honest run after it ended as {code}: {detail}"]

    def _bench(self, parameters: Hparams) -> Bench:
        return open_bench(self.provider, parameters, place(parameters.sandbox.cpus), None)

    def _all_runs(self, bench: Bench, source: bytes, left: list[str]) -> tuple[str, str, str]:
        """Code, detail and log of the first run that fails, or of the last one. What ingest refuses is not run."""
        try:
            check_source(source, max_bytes=bench.hparams.max_code_bytes)
        except InvalidSubmission as error:
            return str(Failure.INVALID_SUBMISSION), str(error), ""
        for secret in self._draws(bench):
            code, measured = self._one_run(bench, source, secret, left)
            detail = code[1] or measured.detail
            if code[0] != PASSED:
                break
        return code[0], detail, measured.log_tail

    def _draws(self, bench: Bench) -> list[Draw]:
        """As in an evaluation no run sees what another saw; only first runs of different specimens share their data."""
        return [self.secret, *(draw() for _ in range(1, bench.hparams.evaluation.runs))]

    def _one_run(self, bench: Bench, source: bytes, secret: Draw, left: list[str]) -> tuple[tuple[str, str], Measured]:
        began = time.monotonic()
        measured = measure_candidate(bench, source, secret, name=f"hostile-{os.getpid()}-{time.monotonic_ns()}")
        late = time.monotonic() - began - _deadline(bench.hparams, measured)
        if late > GRACE_SECONDS:
            left.append(f"a run ended {late:.1f} s after its deadline")
        if measured.evidence is None:
            return (str(measured.failure), measured.detail), measured
        judgement = judge(
            measured.evidence, self._reference(bench, secret), tokens=measured.tokens, expected=bench.hparams
        )
        return (PASSED if judgement.failure is None else str(judgement.failure), judgement.detail), measured

    def _reference(self, bench: Bench, secret: Draw) -> Evidence:
        """One reference serves all specimens whose competition computes the same, on the same data."""
        parameters = bench.hparams
        timeless = msgspec.structs.replace(
            parameters.evaluation, runs=1, prepare_timeout_seconds=1.0, timeout_seconds=1.0
        )
        key = (msgspec.json.encode((parameters.model, parameters.optimizer, timeless, parameters.evidence)), secret)
        if key not in self.references:
            # Not under the specimen's own limits, which may be too small for anybody.
            roomy = msgspec.structs.replace(
                parameters,
                sandbox=BASE.sandbox,
                evaluation=msgspec.structs.replace(
                    parameters.evaluation, prepare_timeout_seconds=120.0, timeout_seconds=120.0
                ),
            )
            name = f"hostile-{os.getpid()}-reference-{len(self.references)}"
            evidence = measure_reference(self._bench(roomy), secret, name=name).evidence
            assert evidence is not None
            self.references[key] = evidence
        return self.references[key]

    def _compare(self, bench: Bench, source: bytes, left: list[str]) -> tuple[str, str, float | None]:
        """Interleave the cheat with honest code; more pairs as long as it seems to win.

        Honest code is the plain loop, or, for a cheat of several runs, its own first one, which finds nothing yet.
        """
        honest: list[float] = []
        cheat: list[float] = []
        while True:
            if bench.hparams.evaluation.runs == 1:
                (code, detail), measured = self._one_run(self._bench(BASE), HONEST.read_bytes(), self.secret, left)
                if code != PASSED:
                    left.append(f"an honest run ended as {code}: {detail}")
                    return code, detail, None
                honest.append(measured.tokens_per_second)
            speeds = []
            for secret in self._draws(bench):
                (code, detail), measured = self._one_run(bench, source, secret, left)
                if code != PASSED:
                    return code, detail, None
                speeds.append(measured.tokens_per_second)
            honest += speeds[:-1][:1]
            cheat.append(speeds[-1])
            # Neighbours on the machine only ever slow a run, so the fastest of each tells most.
            gain = max(cheat) / max(honest)
            if gain <= GAIN:
                return NO_GAIN, f"{gain:.2f} times honest speed over {len(cheat)} pairs", gain
            if len(cheat) >= MOST_PAIRS:
                return PASSED, f"{gain:.2f} times honest speed over {len(cheat)} pairs", gain

    def _remains(self) -> list[str]:
        """Containers, processes and files that should be gone."""
        remains = [f"file {path.name}" for path in self.temporary.iterdir()]
        needle = os.fsencode(self.temporary) + b"/"
        for process in Path("/proc").glob("[0-9]*"):
            try:
                known = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
            except OSError:
                continue
            if needle in known:
                remains.append(f"process {process.name}")
        if self.provider.kind == "docker":
            with connect() as client:
                for container in client.containers(all=True, filters={"label": OWNER_LABEL}):
                    name = container["Names"][0].removeprefix("/")
                    if name.startswith(f"templar-hostile-{os.getpid()}-"):
                        remains.append(f"container {name}")
        return remains


@contextlib.contextmanager
def opened(provider: Provider) -> Iterator[Corpus]:
    """A session whose sandboxes put their files into a folder that is looked at after each specimen."""
    previous = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="h-", ignore_cleanup_errors=True) as folder:
        tempfile.tempdir = folder
        try:
            yield Corpus(provider=provider, temporary=Path(folder))
        finally:
            tempfile.tempdir = previous


def _deadline(parameters: Hparams, measured: Measured) -> float:
    """When this run had to be over at the latest, in seconds after it was asked for."""
    phases, evaluation = measured.phases, parameters.evaluation
    began = phases.start_ns / 1e9
    if measured.tokens == 0:
        return began + evaluation.prepare_timeout_seconds
    return began + phases.prepare_ns / 1e9 + evaluation.timeout_seconds


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise AssertionError(name)


def _peak() -> int:
    return _memory("VmHWM")


def _restart_peak() -> int:
    """Forget the highest memory so far; returns what is used now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")
