"""Compiles the whole model, once, in the warm-up.

Expected: passed
Hparams: {"evaluation": {"prepare_timeout_seconds": 1200}}
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F

COMPILED = {}


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    if model not in COMPILED:
        COMPILED[model] = torch.compile(model, dynamic=False)
    forward = COMPILED[model]
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = forward(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
