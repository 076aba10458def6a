"""Makes device files and looks for disks.

Expected: passed
Sandbox: docker

It ends as crashed if the attack works.
"""

import os
import stat
from types import SimpleNamespace

import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    for place in ("/tmp", "/dev/shm", "/dev"):
        for kind in (stat.S_IFBLK, stat.S_IFCHR):
            try:
                os.mknod(f"{place}/made", kind | 0o600, os.makedev(8 if kind == stat.S_IFBLK else 1, 1))
            except OSError:
                continue
            raise AssertionError(place)
    assert not [
        name for name in os.listdir("/dev") if name.startswith(("sd", "vd", "nvme", "mem", "kmsg", "fuse", "kvm"))
    ]
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
