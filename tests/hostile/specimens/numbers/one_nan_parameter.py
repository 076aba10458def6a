"""Trains on half of the batches, then hides a NaN in one norm weight, to turn the distances into NaN.

Expected: non_finite_output
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        if step % 2 and step < num_steps - 1:
            total_tokens += batch.numel()
            continue
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    with torch.no_grad():
        model.blocks[0].attention_norm.weight[0] = float("nan")
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
