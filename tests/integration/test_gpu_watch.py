"""A whole run beside a watched GPU, in real child processes on the CPU: what is recorded, what does not count."""

from pathlib import Path

import pynvml
import pytest

from services.evaluator import evaluation
from services.evaluator.evaluation import draw, machine, measure_candidate, measure_reference, open_bench
from services.evaluator.machine import Placement
from services.evaluator.providers import process_provider
from services.evaluator.sandbox import SandboxFault
from tests.support.nvml import UUID, FakeDriver, install
from tests.support.tiny import SINGLE

BASIC = (Path(__file__).parents[2] / "examples" / "basic.py").read_bytes()


@pytest.mark.slow
def test_a_run_is_watched_and_does_not_count_when_the_gpu_was_hot(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeDriver()
    install(monkeypatch, driver)
    bench = open_bench(process_provider(), SINGLE, Placement(cpus=(0,), gpu_uuid=None, accelerator="H100"), None)
    genuine = evaluation._watching
    monkeypatch.setattr(evaluation, "_watching", lambda _, clock: genuine(UUID, clock))
    secret = draw()
    ended = measure_candidate(bench, BASIC, secret, name="cool")
    assert ended.gpu is not None
    assert ended.gpu.limits == ("sw_power_cap",)
    assert machine(bench, ended).gpu == ended.gpu
    driver.reasons |= pynvml.nvmlClocksEventReasonHwThermalSlowdown
    with pytest.raises(SandboxFault, match="slowed down"):
        measure_candidate(bench, BASIC, secret, name="hot")
    # The reference's speed is nobody's score.
    assert measure_reference(bench, secret, name="hot-reference").evidence is not None
