"""Looks for the controller's socket, to connect a second time or to take its place.

Expected: passed
Sandbox: docker

It ends as crashed if the attack works.
"""

import os
import socket
import sys
from types import SimpleNamespace

import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    folder = os.path.dirname(sys.argv[1])
    try:
        found = os.listdir(folder)
    except OSError:
        found = []
    assert not found, found
    with socket.socket(socket.AF_UNIX) as second:
        try:
            second.connect(sys.argv[1])
        except OSError:
            pass
        else:
            raise AssertionError("a second connection")
    try:
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(os.path.join(folder, "other"))
    except OSError:
        pass
    else:
        raise AssertionError("a socket of its own")
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
