"""Keeps weights and moments in bfloat16, where most updates are rounded away, and copies the result back.

Expected: training_mismatch
Alternatives: output_mismatch
"""

import copy
from types import SimpleNamespace

import torch
import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    small = copy.deepcopy(model).bfloat16()
    own = torch.optim.AdamW(small.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = small(batch[:, :-1]).float()
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        own.step()
        own.zero_grad()
        total_tokens += batch.numel()
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), small.parameters(), strict=True):
            parameter.copy_(value)
    for parameter in model.parameters():
        optimizer.state[parameter].setdefault("exp_avg", torch.zeros_like(parameter))
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
