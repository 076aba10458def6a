"""Lets a thread write rubbish to the channel while it trains.

Expected: protocol_violation
"""

import gc
import threading
from types import SimpleNamespace

import torch.nn.functional as F


def runner(name):
    """The runner's object of that class, wherever it is."""
    return next(thing for thing in gc.get_objects() if type(thing).__name__ == name)


def write(channel):
    while True:
        channel.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    if num_steps > 2:
        threading.Thread(target=write, args=(runner("Channel")._socket,), daemon=True).start()
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
