"""Runs the pairs: examples/basic.py as a validator measures it, and the same loop without any harness, in turns."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from services.evaluator import interior
from services.evaluator.controller import Measured
from services.evaluator.evaluation import Bench, Draw, draw, machine, measure_candidate, open_bench
from services.evaluator.machine import place
from services.evaluator.sandbox import Provider
from shared.events import Machine
from shared.hparams import Hparams
from tests.benchmarks import facts
from tests.benchmarks.figures import Pair
from tests.benchmarks.interpreter import PROJECT, Interpreter

MARK = "facts: "
SOURCE = "\n".join(
    [
        (PROJECT / "examples" / "basic.py").read_text(),
        Path(facts.__file__).read_text(),
        f"import json\nprint({MARK!r} + json.dumps(facts()))\n",
    ]
)
"""The train.py of both sides. While it is imported, which is not timed, it tells about its process."""

Facts = dict[str, str]
Report = Callable[[str], None]


class BenchError(Exception):
    """Nothing can be measured. The message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """All pairs of one competition."""

    parameters: Hparams
    pairs: tuple[Pair, ...]
    machine: Machine
    bare: Facts
    """What the last bare loop told about its process."""
    sandbox: Facts

    @property
    def differences(self) -> dict[str, tuple[str, str]]:
        """The facts in which the two processes differ: (bare, sandbox) by name."""
        both = {name: (self.bare.get(name, "-"), self.sandbox.get(name, "-")) for name in self.bare | self.sandbox}
        return {name: values for name, values in both.items() if values[0] != values[1]}


def measure(provider: Provider, python: Interpreter, parameters: Hparams, *, pairs: int, report: Report) -> Result:
    """Run all pairs: bare, sandbox, sandbox, bare, and so on, so that a drift falls on both.

    Raises:
        BenchError: a run failed.
        TransientFault, PoisonMessage: this machine's own fault.
    """
    shards = os.environ.get("TOURNAMENT_SHARDS_DIR")
    bench = open_bench(provider, parameters, place(parameters.sandbox.cpus), None if shards is None else Path(shards))
    done: list[Pair] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        folder = Path(directory)
        (folder / "train.py").write_text(SOURCE)
        for number in range(1, pairs + 1):
            secret = draw()
            if number % 2:
                bare_ns, bare = _run_bare(bench, python, secret, folder)
                measured = _run_sandbox(bench, secret)
            else:
                measured = _run_sandbox(bench, secret)
                bare_ns, bare = _run_bare(bench, python, secret, folder)
            phases = measured.phases
            done.append(Pair(bare_ns=bare_ns, train_ns=phases.train_ns, evidence_ns=phases.evidence_ns))
            report(
                f"[{number:3}/{pairs}] {parameters.name}, {parameters.evaluation.num_steps} steps: "
                f"bare {bare_ns / 1e9:.3f} s, sandbox {measured.elapsed_ns / 1e9:.3f} s"
            )
    return Result(
        parameters=parameters,
        pairs=tuple(done),
        machine=machine(bench, measured),
        bare=bare,
        sandbox=facts_in(measured.log_tail),
    )


def _run_sandbox(bench: Bench, secret: Draw) -> Measured:
    name = f"bench-{os.getpid()}-{time.monotonic_ns()}"
    measured = measure_candidate(bench, SOURCE.encode(), secret, name=name)
    if measured.failure is not None:
        raise BenchError(f"a run in the sandbox failed: {measured.failure}: {measured.detail}\n{measured.log_tail}")
    return measured


def _run_bare(bench: Bench, python: Interpreter, secret: Draw, folder: Path) -> tuple[int, Facts]:
    """Nanoseconds of the loop, and what its process told."""
    evaluation, optimizer, placement = bench.hparams.evaluation, bench.hparams.optimizer, bench.placement
    tokens = bench.tokens.draw(
        secret.seed, steps=evaluation.num_steps, batch=evaluation.batch_size, length=evaluation.sequence_length
    )
    job = {
        "model": msgspec.to_builtins(bench.hparams.model),
        "optimizer": {
            "lr": optimizer.learning_rate,
            "betas": optimizer.betas,
            "eps": optimizer.epsilon,
            "weight_decay": optimizer.weight_decay,
        },
        "shape": tokens.shape,
        "warmup_steps": evaluation.warmup_steps,
        "cpus": placement.cpus,
        "device": "cpu" if placement.gpu_uuid is None else "cuda",
    }
    # The settings of the sandbox: what they gain is no merit of it, what they cost no fault.
    environment = {
        **interior.environment(folder, len(placement.cpus)),
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": ":".join(map(str, [folder, PROJECT, *python.modules])),
        "CUDA_VISIBLE_DEVICES": placement.gpu_uuid or "",
        **python.environment,
    }
    try:
        ended = subprocess.run(
            [*python.command, "-P", "-m", "tests.benchmarks.bare", json.dumps(job)],
            input=tokens.astype("<u2").tobytes(),
            capture_output=True,
            env=environment,
            timeout=evaluation.prepare_timeout_seconds + evaluation.timeout_seconds,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise BenchError("the bare loop did not end in time") from None
    except subprocess.CalledProcessError as error:
        raise BenchError(f"the bare loop ended with exit code {error.returncode}:\n{error.stderr.decode()}") from None
    said = ended.stdout.decode()
    return int(said.splitlines()[-1]), facts_in(said)


def facts_in(said: str) -> Facts:
    """What a run told while it was imported."""
    lines = [line.removeprefix(MARK) for line in said.splitlines() if line.startswith(MARK)]
    if not lines:
        raise BenchError(f"a run told nothing about its process:\n{said}")
    told: Facts = json.loads(lines[0])
    return told
