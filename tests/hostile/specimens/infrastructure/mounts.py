"""Tries to mount, to remount the root writable, to unmount, and to change the root.

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
    assert refused(165, b"none", b"/tmp", b"tmpfs", 0, None), "mount"
    assert refused(165, b"none", b"/", b"none", 32, None), "remount of the root"
    assert refused(166, b"/channel", 2), "umount"
    assert refused(155, b"/tmp", b"/tmp"), "pivot_root"
    assert refused(161, b"/tmp"), "chroot"
    assert refused(429, -100, b"/", 1), "open_tree"
    assert refused(430, b"tmpfs", 0), "fsopen"
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
