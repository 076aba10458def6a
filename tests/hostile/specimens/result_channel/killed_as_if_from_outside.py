"""Ends itself, its parent and the first process with the signals that an engine sends, so as to be tried again for nothing.

Expected: crashed
Alternatives: out_of_memory (a child that is killed for memory makes the kernel say so of all)
Sandbox: docker
"""

import contextlib
import os
import signal


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    if num_steps > 2:
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGPWR):
            for pid in (os.getppid(), 1, os.getpid()):
                with contextlib.suppress(OSError):
                    os.kill(pid, number)
    raise SystemExit(128 + signal.SIGKILL)
