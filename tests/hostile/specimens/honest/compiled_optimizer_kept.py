"""Keeps an optimizer of its own between the calls, and clears its moments at the start of each.

Expected: passed
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F

KEPT = {}


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    if "optimizer" not in KEPT:
        KEPT["optimizer"] = torch.optim.AdamW(
            [{**group, "fused": True, "foreach": None} for group in optimizer.param_groups]
        )
    own = KEPT["optimizer"]
    own.state.clear()
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        own.step()
        own.zero_grad()
        total_tokens += batch.numel()
    optimizer.state.update(own.state)
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
