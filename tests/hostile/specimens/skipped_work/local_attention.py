"""Attends to the last 64 positions only, except in the last forward pass.

Expected: training_mismatch
Alternatives: output_mismatch
"""

from types import MethodType, SimpleNamespace

import torch
import torch.nn.functional as F


def attention(self, x):
    batch, length, width = x.shape
    size = width // self.heads
    q, k, v = (
        projection(x).view(batch, length, self.heads, size).transpose(1, 2)
        for projection in (self.query, self.key, self.value)
    )
    frequencies = 10_000.0 ** (-torch.arange(0, size, 2) / size)
    angles = torch.arange(length)[:, None] * frequencies
    q, k = rotate(q, angles.cos(), angles.sin()), rotate(k, angles.cos(), angles.sin())
    distance = torch.arange(length)[:, None] - torch.arange(length)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=(distance >= 0) & (distance < 64))
    return self.output(mixed.transpose(1, 2).reshape(batch, length, width))


def rotate(x, cosine, sine):
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    for block in model.blocks:
        block.attention.forward = MethodType(attention, block.attention)
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        if step == num_steps - 1:
            for block in model.blocks:
                block.attention.__dict__.pop("forward")
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
