"""Tries to get new namespaces, in which it would be root, and to enter others.

Expected: passed
Sandbox: docker

It ends as crashed if the attack works.
"""

import ctypes
import os
import platform
from types import SimpleNamespace

import torch.nn.functional as F

LIBC = ctypes.CDLL(None, use_errno=True)


def refused(*arguments):
    """Make a system call by its number on x86-64; whether the kernel refused it."""
    return platform.machine() != "x86_64" or LIBC.syscall(*arguments) < 0


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    for flag in (0x10000000, 0x00020000, 0x40000000, 0x20000000, 0x04000000, 0x08000000, 0x02000000):
        assert refused(272, flag), f"unshare {flag:#x}"
    assert refused(308, os.open("/proc/self/ns/net", os.O_RDONLY), 0), "setns"
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
