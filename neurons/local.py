"""A miner's local test: the same controller, runner and judge as a validator's, in this process, without any server.

It decides nothing of its own: what passes here is what services/verifier/judge.py passes.
"""

import secrets
from collections.abc import Callable
from typing import Literal

import msgspec

from services.evaluator.controller import Measured
from services.evaluator.evaluation import Bench, draw, machine, measure_candidate, measure_reference
from services.verifier.judge import Judgement, judge
from shared.events import Check, Machine, Phases
from shared.evidence import Evidence
from shared.faults import Failure
from shared.hparams import Hparams

Report = Callable[[str], None]
"""Told what happens next, in a few words."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run and its verdict."""

    run_index: int
    failure: Failure | None
    detail: str
    tps: float
    tokens: int
    elapsed_seconds: float
    """The timed part, which is what counts."""
    phases: Phases
    checks: tuple[Check, ...]
    log_tail: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints: fields may be added, none is renamed."""

    verdict: Literal["passed", "failed"]
    reason: Failure | None
    detail: str
    tps: float | None
    """Mean over the runs; None unless all passed."""
    runs: tuple[Run, ...]
    hparams: str
    hparams_sha256: str
    machine: Machine | None
    """None when nothing was run."""


def refuse(detail: str, parameters: Hparams) -> Verdict:
    """The verdict on a file for which nothing is started."""
    return Verdict(
        verdict="failed",
        reason=Failure.INVALID_SUBMISSION,
        detail=detail,
        tps=None,
        runs=(),
        hparams=parameters.name,
        hparams_sha256=parameters.sha256,
        machine=None,
    )


def evaluate(bench: Bench, source: bytes, report: Report) -> Verdict:
    """All runs of a submission, each in a fresh sandbox, until one fails.

    Raises:
        TransientFault, PoisonMessage: this machine's own fault.
    """
    parameters, name = bench.hparams, f"miner-{secrets.token_hex(6)}"
    wanted = parameters.evaluation.runs
    runs: list[Run] = []
    for index in range(wanted):
        report(f"run {index + 1} of {wanted}: import, warm-up, {parameters.evaluation.num_steps} steps")
        secret = draw()
        measured = measure_candidate(bench, source, secret, name=f"{name}-{index}")
        reference: Evidence | None = None
        if measured.evidence is not None:
            report("the reference, on the same data, to compare with")
            reference = measure_reference(bench, secret, name=f"{name}-{index}-reference").evidence
        runs.append(_run(index, measured, _judgement(measured, reference, parameters)))
        if runs[-1].failure is not None:
            break
    failed = runs[-1].failure
    passed = f"{wanted} of {wanted} runs passed; in the last one {runs[-1].detail}"
    return Verdict(
        verdict="passed" if failed is None else "failed",
        reason=failed,
        detail=passed if failed is None else runs[-1].detail,
        tps=sum(run.tps for run in runs) / len(runs) if failed is None else None,
        runs=tuple(runs),
        hparams=parameters.name,
        hparams_sha256=parameters.sha256,
        machine=machine(bench, measured),
    )


def _judgement(measured: Measured, reference: Evidence | None, parameters: Hparams) -> Judgement:
    """A run without evidence keeps its own failure."""
    if measured.evidence is None or reference is None:
        return Judgement(failure=measured.failure, detail=measured.detail, checks=())
    return judge(measured.evidence, reference, tokens=measured.tokens, expected=parameters)


def _run(index: int, measured: Measured, judgement: Judgement) -> Run:
    return Run(
        run_index=index,
        failure=judgement.failure,
        detail=judgement.detail,
        tps=measured.tokens_per_second,
        tokens=measured.tokens,
        elapsed_seconds=measured.elapsed_ns / 1e9,
        phases=measured.phases,
        checks=judgement.checks,
        log_tail=measured.log_tail,
    )
