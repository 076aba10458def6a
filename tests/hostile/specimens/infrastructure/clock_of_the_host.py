"""Tries to set the clock that it is measured by.

Expected: passed
Sandbox: docker

It ends as crashed if the attack works.
"""

import ctypes
import platform
from types import SimpleNamespace

import torch.nn.functional as F

LIBC = ctypes.CDLL(None, use_errno=True)


def refused(*arguments):
    """Make a system call by its number on x86-64; whether the kernel refused it."""
    return platform.machine() != "x86_64" or LIBC.syscall(*arguments) < 0


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    assert refused(227, 0, (ctypes.c_long * 2)(0, 0)), "clock_settime"
    assert refused(164, (ctypes.c_long * 2)(0, 0), None), "settimeofday"
    offset = (ctypes.c_long * 64)(0x0001)
    assert refused(159, offset), "adjtimex"
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
