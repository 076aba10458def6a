"""Rounds both sides of every matrix product to 8 bits, forward and backward.

Expected: training_mismatch
Alternatives: output_mismatch

Rounded row by row, it stays within twice bfloat16's own distance of the reference in outputs and parameters; in the
first moments it is four times as far. It is only imitated here.
"""

from types import MethodType, SimpleNamespace

import torch
import torch.nn.functional as F


def int8(x):
    scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / 127
    return (x / scale).round() * scale


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
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    for linear in linears:
        linear.forward = MethodType(lambda self, x: Product.apply(x, self.weight), linear)
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
