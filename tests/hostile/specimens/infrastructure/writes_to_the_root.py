"""Tries to change the runner, torch and the system for the next submission.

Expected: passed
Sandbox: docker

It ends as crashed if the attack works.
"""

import sys
from types import SimpleNamespace

import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    places = [module.__file__ for name, module in sys.modules.items() if name.startswith(("sandbox", "torch.optim"))]
    places += [
        sys.executable,
        "/etc/passwd",
        "/etc/hosts",
        "/usr/local/bin/ls",
        "/var/tmp/kept",
        "/run/kept",
        "/kept",
        "/etc/ld.so.preload",
    ]
    for place in filter(None, places):
        try:
            with open(place, "ab") as file:
                file.write(b"\n")
        except OSError:
            continue
        raise AssertionError(place)
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
