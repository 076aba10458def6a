"""Writes to kernel settings, to the container's groups and to the first process's memory.

Expected: passed
Sandbox: docker

It ends as crashed if the attack works. (/proc/1 runs as the same user and may be written to where it is only the
container's own init.)
"""

from pathlib import Path
from types import SimpleNamespace

import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    for path in (
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sysrq-trigger",
        "/proc/1/mem",
        "/sys/fs/cgroup/cgroup.procs",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/release_agent",
        "/sys/kernel/uevent_helper",
    ):
        try:
            with open(path, "r+b", buffering=0) as file:
                file.write(b"0")
        except OSError:
            continue
        raise AssertionError(path)
    assert not any(Path("/sys/fs/cgroup").glob("*/made")), "a group of its own"
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
