"""Tries to load a kernel module, a new kernel and a BPF program, and to reboot.

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
    assert refused(175, b"", 0, b""), "init_module"
    assert refused(313, 0, b"", 0), "finit_module"
    assert refused(320, 0, 0, 0, b"", 0), "kexec_file_load"
    assert refused(321, 0, (ctypes.c_char * 128)(), 128), "bpf"
    assert refused(169, 0xFEE1DEAD, 672274793, 0x01234567, 0), "reboot"
    assert refused(167, b"/tmp/swap", 0), "swapon"
    assert refused(173, 0, 0, 1) and refused(172, 3), "I/O ports"
    assert refused(163, b"/tmp/account"), "acct"
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
