"""Puts a socket of its own in the place of the channel, and answers itself.

Expected: crashed
Alternatives: timeout
Hparams: {"evaluation": {"timeout_seconds": 6}}
"""

import gc
import os
import socket
import struct
import threading
from types import SimpleNamespace

import torch.nn.functional as F


def runner(name):
    """The runner's object of that class, wherever it is."""
    return next(thing for thing in gc.get_objects() if type(thing).__name__ == name)


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    if num_steps > 2:
        ours, theirs = socket.socketpair()
        os.dup2(theirs.fileno(), runner("Channel")._socket.fileno())
        ours.sendall(struct.pack(">4sBBHQ", b"TTRN", 2, 4, 0, 32) + bytes(32))
        threading.Thread(target=lambda: [ours.recv(2**20) for _ in iter(int, 1)], daemon=True).start()
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
