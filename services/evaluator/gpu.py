"""What the driver says of the GPUs here: which there are, whether one is free, how it ran. It changes no setting."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pynvml

from services.evaluator.sandbox import SandboxFault
from shared.events import Gpu

SAMPLE_SECONDS = 0.2
FREE_SECONDS = 10.0
"""How long the processes of the sandbox before may take to leave the GPU."""
POLL_SECONDS = 0.1

SLOWDOWNS = {
    pynvml.nvmlClocksEventReasonHwSlowdown: "hw_slowdown",
    pynvml.nvmlClocksEventReasonSwThermalSlowdown: "sw_thermal_slowdown",
    pynvml.nvmlClocksEventReasonHwThermalSlowdown: "hw_thermal_slowdown",
    pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: "hw_power_brake_slowdown",
}
"""Heat, or a supply that fails: the machine was not itself, so the time says nothing of the code."""
LIMITS = {
    pynvml.nvmlClocksEventReasonApplicationsClocksSetting: "applications_clocks_setting",
    pynvml.nvmlClocksEventReasonSwPowerCap: "sw_power_cap",
    pynvml.nvmlClocksEventReasonSyncBoost: "sync_boost",
    pynvml.nvmlClocksEventReasonDisplayClockSetting: "display_clock_setting",
}
"""Limits that belong to the machine: under full load most GPUs run at their power cap all the time."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One look at a GPU. None is what this one does not tell."""

    at_ns: int
    """On the controller's clock."""
    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    temperature_celsius: int | None
    power_watts: float | None
    memory_used_bytes: int | None
    reasons: int | None
    """What holds the clocks down: bits of `SLOWDOWNS` and `LIMITS`, and of no interest else."""


def list_gpus() -> list[tuple[str, str]]:
    """(uuid, name) of each NVIDIA GPU; empty where there is none or its driver does not answer."""
    try:
        with _driver() as nvml:
            handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
            return [(nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle)) for handle in handles]
    except pynvml.NVMLError:
        return []


def wait_until_free(uuid: str, timeout_seconds: float = FREE_SECONDS) -> None:
    """Wait until no process computes on this GPU: a neighbour would change the score, or read what lies in the memory.

    Raises:
        SandboxFault: somebody still does, or the GPU is lost.
    """
    deadline = time.monotonic() + timeout_seconds
    with _answering(uuid), _driver() as nvml:
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        while processes := nvml.nvmlDeviceGetComputeRunningProcesses(handle):
            if time.monotonic() >= deadline:
                numbers = ", ".join(str(process.pid) for process in processes)
                raise SandboxFault(f"other processes compute on the GPU {uuid} (pid {numbers}); stop them")
            time.sleep(POLL_SECONDS)


@dataclass
class Watch:
    """The samples of one sandbox's life."""

    uuid: str
    driver: str
    samples: list[Sample] = field(default_factory=list)

    def between(self, began_ns: int, ended_ns: int) -> Gpu:
        """What was seen in this time, which is that of the controller's clock, and just before and after it."""
        return summarise(self.uuid, self.driver, _around(self.samples, began_ns, ended_ns))


@contextlib.contextmanager
def watching(uuid: str, clock: Callable[[], int]) -> Iterator[Watch]:
    """Look at a GPU every `SAMPLE_SECONDS` as long as the block lasts.

    Raises:
        SandboxFault: the GPU is lost.
    """
    with _answering(uuid), _driver() as nvml:
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        watch = Watch(uuid=uuid, driver=nvml.nvmlSystemGetDriverVersion())
        over = threading.Event()

        def look() -> None:
            while not over.is_set():
                watch.samples.append(_sample(nvml, handle, clock()))
                over.wait(SAMPLE_SECONDS)

        thread = threading.Thread(target=look, name="gpu", daemon=True)
        thread.start()
        try:
            yield watch
        finally:
            over.set()
            thread.join()
            watch.samples.append(_sample(nvml, handle, clock()))
        # A GPU that was lost meanwhile has failed the run; the submission has not.
        nvml.nvmlDeviceGetMemoryInfo(handle)


def summarise(uuid: str, driver: str, samples: Sequence[Sample]) -> Gpu:
    """The extremes of all samples, and every reason that was seen."""
    seen = 0
    for sample in samples:
        seen |= sample.reasons or 0
    return Gpu(
        uuid=uuid,
        driver=driver,
        samples=len(samples),
        sm_clock_mhz_min=min(_told(sample.sm_clock_mhz for sample in samples), default=None),
        sm_clock_mhz_max=max(_told(sample.sm_clock_mhz for sample in samples), default=None),
        memory_clock_mhz_min=min(_told(sample.memory_clock_mhz for sample in samples), default=None),
        temperature_celsius_max=max(_told(sample.temperature_celsius for sample in samples), default=None),
        power_watts_max=max(_told(sample.power_watts for sample in samples), default=None),
        memory_used_bytes_max=max(_told(sample.memory_used_bytes for sample in samples), default=None),
        limits=tuple(name for bit, name in LIMITS.items() if seen & bit),
        slowdowns=tuple(name for bit, name in SLOWDOWNS.items() if seen & bit),
    )


def _told(values: Iterator[Any]) -> list[Any]:
    return [value for value in values if value is not None]


def _around(samples: Sequence[Sample], began_ns: int, ended_ns: int) -> list[Sample]:
    """Those within, the last before and the first after, so that no time between two looks is left out."""
    before = [sample for sample in samples if sample.at_ns < began_ns][-1:]
    within = [sample for sample in samples if began_ns <= sample.at_ns <= ended_ns]
    after = [sample for sample in samples if sample.at_ns > ended_ns][:1]
    return [*before, *within, *after]


def _sample(nvml: Any, handle: object, at_ns: int) -> Sample:
    power_milliwatts = _asked(nvml.nvmlDeviceGetPowerUsage, handle)
    memory = _asked(nvml.nvmlDeviceGetMemoryInfo, handle)
    return Sample(
        at_ns=at_ns,
        sm_clock_mhz=_asked(nvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM),
        memory_clock_mhz=_asked(nvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_MEM),
        temperature_celsius=_asked(nvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        power_watts=None if power_milliwatts is None else power_milliwatts / 1000,
        memory_used_bytes=None if memory is None else memory.used,
        reasons=_asked(nvml.nvmlDeviceGetCurrentClocksEventReasons, handle),
    )


def _asked(question: Callable[..., Any], *arguments: object) -> Any:
    """None where this GPU or its driver does not know."""
    try:
        return question(*arguments)
    except pynvml.NVMLError:
        return None


@contextlib.contextmanager
def _driver() -> Iterator[Any]:
    """The driver's library, loaded; counted by itself, so that blocks may lie within one another."""
    pynvml.nvmlInit()
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


@contextlib.contextmanager
def _answering(uuid: str) -> Iterator[None]:
    try:
        yield
    except pynvml.NVMLError as error:
        raise SandboxFault(f"the GPU {uuid} does not answer: {error}") from None
