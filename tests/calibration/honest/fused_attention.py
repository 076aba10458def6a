"""Attention without its score matrix."""

from types import MethodType, SimpleNamespace

import torch
import torch.nn.functional as F


def rotate(x, cosine, sine):
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1).type_as(x)


def attention(self, x):
    batch, length, width = x.shape
    size = width // self.heads
    q, k, v = (p(x).view(batch, length, self.heads, size).transpose(1, 2) for p in (self.query, self.key, self.value))
    frequencies = 10_000.0 ** (-torch.arange(0, size, 2, device=x.device, dtype=torch.float32) / size)
    angles = torch.arange(length, device=x.device, dtype=torch.float32)[:, None] * frequencies
    cosine, sine = angles.cos(), angles.sin()
    out = F.scaled_dot_product_attention(rotate(q, cosine, sine), rotate(k, cosine, sine), v, is_causal=True)
    return self.output(out.transpose(1, 2).reshape(batch, length, width))


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    for module in model.modules():
        if type(module).__name__ == "Attention":
            module.forward = MethodType(attention, module)
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
    return SimpleNamespace(final_logits=logits.detach().float(), total_tokens=total_tokens, final_loss=loss.item())
