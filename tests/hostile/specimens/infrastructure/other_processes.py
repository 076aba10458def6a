"""Looks for processes of others: their command lines, environments, memory and files.

Expected: passed
Sandbox: docker

It ends as crashed if the attack works.
"""

from pathlib import Path
from types import SimpleNamespace

import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            seen = (process / "environ").read_bytes()
        except OSError:
            continue
        assert b"TOURNAMENT" not in seen and b"dockerd" not in command and b"services." not in command, (
            process,
            command,
        )
    assert len(list(Path("/proc").glob("[0-9]*"))) < 20, "processes that are not its own"
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
