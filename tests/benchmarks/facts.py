"""What a process tells about itself that may change its speed. Appended to the train.py that is measured."""

import os
import sys
from pathlib import Path

import torch

SETTINGS = ("GLIBC_", "GOMP_", "KMP_", "LD_", "MALLOC_", "MKL_", "OMP_", "PYTORCH_")
"""What the names of environment variables begin with that libraries read."""
STATUS = ("Seccomp", "Speculation_Store_Bypass", "SpeculationIndirectBranch", "THP_enabled")
"""Of /proc/self/status: filters of system calls, what of the processor they switch off, huge pages."""


def facts() -> dict[str, str]:
    """Each by its name; what a kernel does not tell is left out."""
    lines = [line.partition(":") for line in Path("/proc/self/status").read_text().splitlines()]
    status = {name: value.strip() for name, _, value in lines if name in STATUS}
    settings = {name: value for name, value in sorted(os.environ.items()) if name.startswith(SETTINGS)}
    return {
        "python": sys.version,
        "libc": os.confstr("CS_GNU_LIBC_VERSION") or "",
        "torch": f"{torch.__version__} {torch.version.git_version}",
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": f"{torch.get_num_threads()} within an operation, {torch.get_num_interop_threads()} between them",
        "CPUs": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
        "kernel": os.uname().release,
        "nice": str(os.getpriority(os.PRIO_PROCESS, 0)),
        **status,
        **settings,
    }
