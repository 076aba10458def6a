"""What both sandboxes put around the runner: its command line, its environment, its limits on files."""

from pathlib import PurePath

from shared import hparams

COMMAND = ("-P", "-m", "sandbox.runner")
"""Arguments of the Python inside; the path of the channel follows."""
OPEN_FILES = 4096
TMP_FILES = 20_000
KEPT_ALLOCATION_BYTES = 2**25
"""The largest piece of memory that malloc keeps for later: its own upper limit."""
KEPT_BYTES = 2**30
"""How much freed memory it keeps in all."""


def environment(temporary: PurePath, cpus: int) -> dict[str, str]:
    """All caches lie in the sandbox's own temporary directory, so that none outlives its run."""
    return {
        "HOME": str(temporary),
        "TMPDIR": str(temporary),
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "TRITON_CACHE_DIR": str(temporary / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(temporary / "inductor"),
        "TORCH_EXTENSIONS_DIR": str(temporary / "extensions"),
        # A precompiled header costs 150 MB of the temporary directory and saves no time.
        "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
        # By default there is one compile worker per core of the host, which runs into the process limit.
        "TORCHINDUCTOR_COMPILE_THREADS": str(cpus),
        "OMP_NUM_THREADS": str(cpus),
        # Otherwise malloc gives memory back after a step and faults it in again during the next, more or less often by
        # chance: docs/benchmarks.md has what that costs in speed and in repeatability.
        "MALLOC_MMAP_THRESHOLD_": str(KEPT_ALLOCATION_BYTES),
        "MALLOC_TRIM_THRESHOLD_": str(KEPT_BYTES),
    }


def largest_file_bytes(limits: hparams.Sandbox) -> int:
    """No file can usefully be larger than what holds it."""
    return max(limits.tmp_bytes, limits.shm_bytes)
