"""Asks for the network: addresses, names, metadata, raw packets, the host.

Expected: passed
Sandbox: docker

It ends as crashed if the attack works.
"""

import os
import socket
from types import SimpleNamespace

import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    for address in (
        ("1.1.1.1", 53),
        ("169.254.169.254", 80),
        ("172.17.0.1", 22),
        ("127.0.0.1", 4222),
        ("127.0.0.1", 5432),
    ):
        try:
            socket.create_connection(address, timeout=0.5).close()
        except OSError:
            continue
        raise AssertionError(address)
    try:
        socket.getaddrinfo("example.com", 80)
    except OSError:
        pass
    else:
        raise AssertionError("names are resolved")
    for family, kind in (
        (socket.AF_PACKET, socket.SOCK_RAW),
        (socket.AF_INET, socket.SOCK_RAW),
        (40, socket.SOCK_STREAM),
    ):
        try:
            made = socket.socket(family, kind)
        except OSError:
            continue
        if family == 40:
            made.settimeout(0.5)
            try:
                made.connect((2, 22))
            except OSError:
                continue
        raise AssertionError((family, kind))
    assert set(os.listdir("/sys/class/net")) <= {"lo"}, os.listdir("/sys/class/net")
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
