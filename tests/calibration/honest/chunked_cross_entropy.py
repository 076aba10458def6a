"""The loss in pieces of 64 positions, added up in float32."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    total_tokens = 0
    for _ in range(num_steps):
        batch = next(data_iterator).to(device)
        total_tokens += batch.numel()

        with torch.autocast(device_type=device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(batch[:, :-1])
        rows, labels = logits.flatten(0, 1).float(), batch[:, 1:].flatten()
        pieces = [F.cross_entropy(a, b, reduction="sum") for a, b in zip(rows.split(64), labels.split(64), strict=True)]
        loss = torch.stack(pieces).sum() / len(labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return SimpleNamespace(final_logits=logits.detach().float(), total_tokens=total_tokens, final_loss=loss.item())
