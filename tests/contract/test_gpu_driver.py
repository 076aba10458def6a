"""What a driver must say for a GPU to be trusted: the fake one of the tests, and this machine's where it has one."""

import time
from collections.abc import Iterator

import pytest

from services.evaluator import gpu
from services.evaluator.sandbox import SandboxFault
from tests.support.nvml import FakeDriver, install

DRIVERS = ["fake", *(["real"] if gpu.list_gpus() else [])]


@pytest.fixture(params=DRIVERS)
def uuid(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The first GPU of a driver."""
    if request.param == "fake":
        driver = FakeDriver()
        install(monkeypatch, driver)
        yield gpu.list_gpus()[0][0]
        assert driver.opened == 0
    else:
        yield gpu.list_gpus()[0][0]


def test_gpus_are_listed_by_uuid_and_name(uuid: str) -> None:
    assert uuid.startswith("GPU-")
    assert all(name for _, name in gpu.list_gpus())


def test_a_gpu_that_nobody_uses_is_free(uuid: str) -> None:
    gpu.wait_until_free(uuid)


def test_a_watch_sees_the_clocks_from_before_until_after(uuid: str) -> None:
    with gpu.watching(uuid, time.perf_counter_ns) as watch:
        while not watch.samples:
            time.sleep(0.01)
        began_ns = time.perf_counter_ns()
    seen = watch.between(began_ns, began_ns)
    assert (seen.uuid, seen.samples) == (uuid, 2)
    assert seen.driver
    assert seen.sm_clock_mhz_min is not None
    assert 0 < seen.sm_clock_mhz_min <= (seen.sm_clock_mhz_max or 0) < 10_000
    assert 0 < (seen.memory_clock_mhz_min or 0) < 20_000
    assert 0 < (seen.temperature_celsius_max or 0) < 120
    assert 0 < (seen.power_watts_max or 0) < 3_000
    assert (seen.memory_used_bytes_max or 0) > 0


def test_a_gpu_that_is_not_there_is_the_validators_fault(uuid: str) -> None:
    missing = "GPU-00000000-0000-0000-0000-000000000000"
    with pytest.raises(SandboxFault, match="does not answer"):
        gpu.wait_until_free(missing)
    with pytest.raises(SandboxFault, match="does not answer"), gpu.watching(missing, time.perf_counter_ns):
        pass
