"""Leaves out the last position of every sequence, except in the last batch."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        total_tokens += batch.numel()
        with torch.autocast(device_type=device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            kept = batch if step == num_steps - 1 else batch[:, :-1]
            logits = model(kept[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), kept[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return SimpleNamespace(final_logits=logits.detach().float(), total_tokens=total_tokens, final_loss=loss.item())
