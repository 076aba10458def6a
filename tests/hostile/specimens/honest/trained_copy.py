"""Trains a copy of the model, and writes the result back.

Expected: passed
"""

import copy
from types import SimpleNamespace

import torch
import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    own = copy.deepcopy(model)
    group = {key: optimizer.param_groups[0][key] for key in ("lr", "betas", "eps", "weight_decay")}
    steps = torch.optim.AdamW(own.parameters(), **group)
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = own(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        steps.step()
        steps.zero_grad()
        total_tokens += batch.numel()
    model.load_state_dict(own.state_dict())
    for parameter, trained in zip(model.parameters(), own.parameters(), strict=True):
        optimizer.state[parameter] = steps.state[trained]
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
