"""Rounds weights, activations and their gradients to 8-bit floats in every matrix product but the last step's.

Expected: training_mismatch
Alternatives: output_mismatch
"""

from types import MethodType, SimpleNamespace

import torch
import torch.nn.functional as F


def rounded(x):
    scale = x.abs().amax().clamp(min=1e-12) / 448
    return (x / scale).to(torch.float8_e4m3fn).to(x.dtype) * scale


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        x, weight = rounded(x), rounded(weight)
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        gradient = rounded(gradient)
        return gradient @ weight, gradient.flatten(0, 1).T @ x.flatten(0, 1)


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    for linear in linears:
        linear.forward = MethodType(lambda self, x: Product.apply(x, self.weight), linear)
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        if step == num_steps - 1:
            for linear in linears:
                linear.__dict__.pop("forward")
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
