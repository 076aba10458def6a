"""Whose a sandbox is: a name for this process that no later process can have, and whether its bearer lives."""

import os
from pathlib import Path


def this_process() -> str:
    """Boot, pid namespace, pid and start time, with spaces between them."""
    pid = os.getpid()
    return " ".join((boot(), pid_namespace(), str(pid), _started(pid) or ""))


def is_alive(owner: str) -> bool:
    """Whether the process of that name lives. One in a pid namespace that we cannot see into counts as alive."""
    its_boot, namespace, pid, started = owner.split(" ")
    if its_boot != boot():
        return False
    return namespace != pid_namespace() or _started(int(pid)) == started


def boot() -> str:
    """Another one after each start of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def pid_namespace() -> str:
    return os.readlink("/proc/self/ns/pid")


def _started(pid: int) -> str | None:
    """Start time of a living process in clock ticks since boot; None when there is none."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state == "Z" else fields[18]
