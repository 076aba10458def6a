"""Looks for programs that run as root, and tries to become root.

Expected: passed
Sandbox: docker

It ends as crashed if the attack works.
"""

import os
import stat
import subprocess
from types import SimpleNamespace

import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    for change in (os.setuid, os.setgid):
        try:
            change(0)
        except OSError:
            continue
        raise AssertionError("it became root")
    for program in ("/bin/su", "/usr/bin/su", "/bin/mount", "/usr/bin/passwd", "/usr/bin/newgrp", "/usr/bin/sudo"):
        if os.path.exists(program) and os.stat(program).st_mode & stat.S_ISUID:
            done = subprocess.run([program, "--help"], capture_output=True, stdin=subprocess.DEVNULL, timeout=5)
            assert b"root" not in done.stdout.split(b"\n")[0], program
    with open("/proc/self/status") as file:
        status = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0, "it has capabilities"
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"
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
