"""Patches Tensor.detach, which the evidence needs, to hang once the run is over.

Expected: timeout
Hparams: {"evaluation": {"timeout_seconds": 6}}
"""

import time
from types import SimpleNamespace

import torch
import torch.nn.functional as F

DETACH = torch.Tensor.detach


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
    logits = logits.detach()
    if num_steps > 2:

        def detach(tensor):
            if tensor is logits:
                time.sleep(10**8)
            return DETACH(tensor)

        torch.Tensor.detach = detach
    return SimpleNamespace(final_logits=logits, total_tokens=total_tokens, final_loss=loss.item())
