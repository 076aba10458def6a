"""The parent of a `process` sandbox: starts one command under limits, and lets nothing that it started outlive it.

Run as a script with its arguments as JSON. It ends everything when its stdin closes, so also when the evaluator is
killed, and exits as the command did (128 + n for signal n). It never reads what the command says.
"""

import ctypes
import json
import os
import resource
import select
import shutil
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def main(*, command: list[str], cpus: list[int], open_files: int, largest_file_bytes: int, remove: str) -> int:
    """Run the command, then remove a folder; returns the exit code."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1)  # so that a daemon's daemon is still a child of ours
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            os.sched_setaffinity(0, cpus)
            _limit(resource.RLIMIT_CORE, 0)
            _limit(resource.RLIMIT_NOFILE, open_files)
            _limit(resource.RLIMIT_FSIZE, largest_file_bytes)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.execv(command[0], command)  # noqa: S606 - the evaluator's own list
        except OSError as error:
            os.write(2, f"cannot start the command: {error}\n".encode())
        finally:
            os._exit(127)
    ended = os.pidfd_open(child)
    readable, _, _ = select.select([ended, sys.stdin.fileno()], [], [])
    if ended not in readable:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    _kill_children()
    shutil.rmtree(remove, ignore_errors=True)
    return code if code >= 0 else 128 - code


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    lowered = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (lowered, lowered))


def _kill_children() -> None:
    """Kill children until there are none: the children of a killed one become ours."""
    while True:
        for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


if __name__ == "__main__":
    raise SystemExit(main(**json.loads(sys.argv[1])))
