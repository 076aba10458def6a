"""A driver's library to play with, where the machine has no GPU: the few functions of pynvml that the evaluator calls.

tests/contract/test_gpu_driver.py runs the same cases against this and, where there is a GPU, against its driver.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml

UUID = "GPU-7c1f3a52-9d5e-4c1b-8f0e-2b6a1d4e9c33"


def _nothing() -> None:
    pass


@dataclass
class FakeDriver:
    """One GPU, whose state a test changes as it goes."""

    processes: list[int] = field(default_factory=list)
    reasons: int = pynvml.nvmlClocksEventReasonSwPowerCap
    unsupported: frozenset[str] = frozenset()
    """Functions that this GPU does not know."""
    is_lost: bool = False
    opened: int = 0
    asked: Callable[[], None] = _nothing
    """Called at each question for processes or clocks: the place to change something."""

    def nvmlInit(self) -> None:  # noqa: N802 - the library's names
        self.opened += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.opened -= 1

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.82.07"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return self.nvmlDeviceGetHandleByUUID(UUID)

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        self._require()
        if uuid != UUID:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return uuid

    def nvmlDeviceGetUUID(self, handle: str) -> str:  # noqa: N802
        return handle

    def nvmlDeviceGetName(self, handle: str) -> str:  # noqa: N802
        return "NVIDIA H100 80GB HBM3"

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:  # noqa: N802
        self._require()
        self.asked()
        return [SimpleNamespace(pid=pid) for pid in self.processes]

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:  # noqa: N802
        self._require("nvmlDeviceGetClockInfo")
        self.asked()
        return {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 2619}[kind]

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:  # noqa: N802
        self._require("nvmlDeviceGetTemperature")
        return 61

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802
        self._require("nvmlDeviceGetPowerUsage")
        return 684_500

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:  # noqa: N802
        self._require("nvmlDeviceGetMemoryInfo")
        return SimpleNamespace(used=2**30, total=80 * 2**30)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:  # noqa: N802
        self._require("nvmlDeviceGetCurrentClocksEventReasons")
        return self.reasons

    def _require(self, function: str = "") -> None:
        if self.is_lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        if function in self.unsupported:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


def install(monkeypatch: Any, driver: FakeDriver) -> None:
    """Let the evaluator ask this driver instead of the machine's."""
    for name in dir(driver):
        if name.startswith("nvml"):
            assert callable(getattr(pynvml, name)), f"pynvml has no {name}"
            monkeypatch.setattr(pynvml, name, getattr(driver, name))
