"""A GPU that is busy, slowed down, silent or lost: what the evaluator makes of it."""

import itertools
import threading
from pathlib import Path

import msgspec
import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.evaluator import evaluation, gpu
from services.evaluator.controller import Measured
from services.evaluator.gpu import LIMITS, SLOWDOWNS, Sample, summarise, watching
from services.evaluator.machine import place
from services.evaluator.sandbox import SandboxFault
from shared.events import Phases
from shared.faults import Failure
from tests.support.nvml import UUID, FakeDriver, install
from tests.support.stories import GPU

BASIC = (Path(__file__).parents[2] / "examples" / "basic.py").read_bytes()
HOT = pynvml.nvmlClocksEventReasonHwThermalSlowdown


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    fake = FakeDriver()
    install(monkeypatch, fake)
    return fake


def sample(at_ns: int, *, reasons: int | None = 0, clock_mhz: int | None = 1980) -> Sample:
    return Sample(
        at_ns=at_ns,
        sm_clock_mhz=clock_mhz,
        memory_clock_mhz=2619,
        temperature_celsius=60,
        power_watts=600.0,
        memory_used_bytes=2**30,
        reasons=reasons,
    )


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    assert gpu.list_gpus() == []
    assert place(1).accelerator == "cpu"


def test_the_first_gpu_is_taken(driver: FakeDriver) -> None:
    assert (place(1).gpu_uuid, place(1).accelerator) == (UUID, "NVIDIA H100 80GB HBM3")


def test_processes_of_the_sandbox_before_are_waited_for(driver: FakeDriver) -> None:
    driver.processes = [7]
    looks = itertools.count()

    def asked() -> None:
        if next(looks) == 2:
            driver.processes = []

    driver.asked = asked
    gpu.wait_until_free(UUID, timeout_seconds=60.0)
    assert next(looks) == 3


def test_a_neighbour_is_named(driver: FakeDriver) -> None:
    driver.processes = [7, 8]
    with pytest.raises(SandboxFault, match=rf"other processes compute on the GPU {UUID} \(pid 7, 8\); stop them"):
        gpu.wait_until_free(UUID, timeout_seconds=0.0)


@given(
    times=st.lists(st.integers(0, 1000), unique=True).map(sorted),
    window=st.tuples(st.integers(0, 1000), st.integers(0, 1000)).map(sorted),
)
def test_no_time_between_two_looks_is_left_out(times: list[int], window: list[int]) -> None:
    began, ended = window
    watch = gpu.Watch(uuid=UUID, driver="1", samples=[sample(at, clock_mhz=at) for at in times])
    seen = watch.between(began, ended)
    before, after = [at for at in times if at < began], [at for at in times if at > ended]
    inside = len(times) - len(before) - len(after)
    assert seen.samples == inside + bool(before) + bool(after)
    if before:
        assert seen.sm_clock_mhz_min == before[-1]
    if after:
        assert seen.sm_clock_mhz_max == after[0]


def test_reasons_are_named_and_what_is_not_told_is_null() -> None:
    every = sum(SLOWDOWNS) | sum(LIMITS)
    seen = summarise(UUID, "1", [sample(1, reasons=every), sample(2, reasons=None, clock_mhz=None)])
    assert set(seen.limits) == set(LIMITS.values())
    assert set(seen.slowdowns) == set(SLOWDOWNS.values())
    assert (seen.sm_clock_mhz_min, seen.sm_clock_mhz_max) == (1980, 1980)
    nothing = summarise(UUID, "1", [])
    assert (nothing.samples, nothing.power_watts_max, nothing.slowdowns) == (0, None, ())


def test_what_a_gpu_does_not_know_is_null(driver: FakeDriver) -> None:
    driver.unsupported = frozenset({"nvmlDeviceGetPowerUsage", "nvmlDeviceGetCurrentClocksEventReasons"})
    with watching(UUID, lambda: 1) as watch:
        pass
    seen = watch.between(0, 2)
    assert (seen.power_watts_max, seen.limits, seen.temperature_celsius_max) == (None, (), 61)


def test_a_gpu_that_was_lost_meanwhile_is_the_validators_fault(driver: FakeDriver) -> None:
    with pytest.raises(SandboxFault, match=f"the GPU {UUID} does not answer: GPU is lost"), watching(UUID, lambda: 1):
        driver.is_lost = True
    assert driver.opened == 0


def test_the_watch_ends_with_its_block(driver: FakeDriver) -> None:
    with pytest.raises(RuntimeError, match="mine"), watching(UUID, lambda: 1):
        raise RuntimeError("mine")
    assert driver.opened == 0
    assert not [thread for thread in threading.enumerate() if thread.name == "gpu"]


def measured(failure: Failure | None, *, slowdowns: tuple[str, ...]) -> Measured:
    return Measured(
        failure=failure,
        detail="",
        tokens=1,
        elapsed_ns=1,
        phases=Phases(),
        evidence=None,
        gpu=msgspec.structs.replace(GPU, slowdowns=slowdowns),
    )


@pytest.mark.parametrize("failure", [None, Failure.TIMEOUT])
def test_a_run_on_a_slowed_down_gpu_does_not_count(failure: Failure | None) -> None:
    with pytest.raises(SandboxFault, match=r"slowed down .* \(hw_thermal_slowdown\).*; look after its cooling"):
        evaluation._require_full_speed(measured(failure, slowdowns=("hw_thermal_slowdown",)))


@pytest.mark.parametrize("failure", [failure for failure in Failure if failure is not Failure.TIMEOUT])
def test_heat_excuses_nothing_but_time(failure: Failure) -> None:
    evaluation._require_full_speed(measured(failure, slowdowns=("hw_thermal_slowdown",)))
    evaluation._require_full_speed(measured(None, slowdowns=()))
