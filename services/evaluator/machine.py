"""What this machine offers a sandbox: CPUs to pin it to, a GPU to give it."""

import os
from dataclasses import dataclass

from services.evaluator.gpu import list_gpus


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where on this machine a sandbox runs."""

    cpus: tuple[int, ...]
    gpu_uuid: str | None
    accelerator: str
    """The GPU's name, or "cpu"."""


def place(cpus: int) -> Placement:
    """Choose the last `cpus` CPUs that this process may use, so that the first stay with the controller, and one GPU.

    Where the machine has no CPU to spare the controller shares them, and where it has fewer than asked for the
    sandbox gets all: the events name the CPUs, so that nobody takes such a score for another.
    """
    allowed = sorted(os.sched_getaffinity(0))
    gpus = list_gpus()
    return Placement(
        cpus=tuple(allowed[-cpus:]),
        gpu_uuid=gpus[0][0] if gpus else None,
        accelerator=gpus[0][1] if gpus else "cpu",
    )
