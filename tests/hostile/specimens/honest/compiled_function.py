"""Compiles one function, the loss.

Expected: passed
Hparams: {"evaluation": {"prepare_timeout_seconds": 600}}
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F


@torch.compile(dynamic=False)
def cross_entropy(logits, labels):
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = model(batch[:, :-1])
        loss = cross_entropy(logits, batch[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
