"""Replaces methods on the model's classes, for sequences of one length only.

Expected: passed
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F


def attention(self, x):
    batch, length, width = x.shape
    size = width // self.heads
    q, k, v = (
        projection(x).view(batch, length, self.heads, size).transpose(1, 2)
        for projection in (self.query, self.key, self.value)
    )
    cosine, sine = self.tables
    q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
    return self.output(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape))


def rotate(x, cosine, sine):
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


def patch(model, length, device):
    for block in model.blocks:
        part = block.attention
        size = part.query.weight.shape[0] // part.heads
        frequencies = 10_000.0 ** (-torch.arange(0, size, 2, device=device) / size)
        angles = torch.arange(length, device=device)[:, None] * frequencies
        part.tables = (angles.cos(), angles.sin())
        type(part).forward = attention


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    is_patched = False
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        if not is_patched:
            patch(model, batch.shape[1] - 1, device)
            is_patched = True
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
