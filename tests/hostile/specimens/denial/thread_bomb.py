"""Starts threads until no more can be started.

Expected: resource_limit
Alternatives: timeout (under gVisor a thread that sleeps takes no task of the host)
Sandbox: docker
Hparams: {"evaluation": {"timeout_seconds": 6}}
"""

import threading
import time
from types import SimpleNamespace

import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    if num_steps > 2:
        while True:
            threading.Thread(target=time.sleep, args=(10**6,)).start()
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
