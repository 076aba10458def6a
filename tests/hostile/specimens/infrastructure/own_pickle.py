"""Writes a pickle that runs a command, and loads it with torch.load.

Expected: passed

It runs what it could have run anyway, where it could have run it.
"""

import os
import tempfile
from types import SimpleNamespace

import torch
import torch.nn.functional as F


class Payload:
    def __reduce__(self):
        return os.system, ("echo from a pickle",)


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    with tempfile.NamedTemporaryFile() as file:
        torch.save(Payload(), file.name)
        torch.load(file.name, weights_only=False)
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
