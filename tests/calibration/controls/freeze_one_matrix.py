"""Trains all but one key projection."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name != "blocks.0.attention.key.weight")
    total_tokens = 0
    for _ in range(num_steps):
        batch = next(data_iterator).to(device)
        total_tokens += batch.numel()
        with torch.autocast(device_type=device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(batch[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for parameter in model.parameters():
        optimizer.state[parameter].setdefault("exp_avg", torch.zeros_like(parameter))
    return SimpleNamespace(final_logits=logits.detach().float(), total_tokens=total_tokens, final_loss=loss.item())
