"""Writes a file larger than one may be, and asks the kernel to end it for that.

Expected: resource_limit
Sandbox: docker
"""

import signal
from types import SimpleNamespace

import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    if num_steps > 2:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        with open("/tmp/large", "wb") as file:
            file.truncate(10**12)
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
