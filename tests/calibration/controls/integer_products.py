"""Rounds both sides of every matrix product to 8 bits, row by row, forward and backward."""

from types import MethodType, SimpleNamespace

import torch
import torch.nn.functional as F


def int8(x):
    scale = x.float().abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / 127
    return ((x / scale).round() * scale).type_as(x)


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return int8(x) @ int8(weight).T

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        flat = gradient.flatten(0, 1)
        return int8(gradient) @ int8(weight.T).T, int8(flat.T) @ int8(x.flatten(0, 1).T).T


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.forward = MethodType(lambda self, x: Product.apply(x, self.weight), module)
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
