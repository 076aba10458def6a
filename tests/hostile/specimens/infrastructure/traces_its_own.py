"""Traces a child of its own, which is allowed and leads nowhere.

Expected: passed
Sandbox: docker

A process may trace its own children.
"""

import ctypes
import os
import platform
import signal
import time
from types import SimpleNamespace

import torch.nn.functional as F

LIBC = ctypes.CDLL(None, use_errno=True)


def refused(*arguments):
    """Make a system call by its number on x86-64; whether the kernel refused it."""
    return platform.machine() != "x86_64" or LIBC.syscall(*arguments) < 0


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    child = os.fork()
    if child == 0:
        time.sleep(10**6)
    if not refused(101, 16, child, 0, 0):
        os.waitpid(child, 0)
    os.kill(child, signal.SIGKILL)
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
