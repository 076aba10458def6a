"""Leaves files wherever it can, and looks for those of an earlier run.

Expected: passed

It ends as crashed if the attack works.
"""

import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    places = [
        tempfile.gettempdir(),
        "/dev/shm",
        "/var/tmp",
        "/run",
        "/dev/mqueue",
        os.path.expanduser("~"),
        "/channel",
        "/run/lock",
    ]
    if num_steps <= 2:
        for place in places:
            assert not Path(place, "kept").exists(), place
    for place in places:
        try:
            Path(place, "kept").write_text("by an earlier run")
        except OSError:
            pass
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
