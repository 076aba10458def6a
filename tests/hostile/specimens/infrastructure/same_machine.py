"""Looks for another submission's run on the machine: abstract sockets, ports, shared files.

Expected: passed
Sandbox: docker

It ends as crashed if the attack works.
"""

from types import SimpleNamespace

import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    with open("/proc/net/unix") as file:
        sockets = [line.split() for line in file.read().splitlines()[1:]]
    assert not [fields for fields in sockets if len(fields) > 7 and fields[7].startswith("@")], sockets
    with open("/proc/net/tcp") as file:
        assert len(file.read().splitlines()) == 1, "connections"
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
