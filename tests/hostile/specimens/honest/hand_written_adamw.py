"""Writes AdamW by hand with the given settings, all tensors in one flat buffer.

Expected: passed
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    group = optimizer.param_groups[0]
    rate, (beta1, beta2), epsilon, decay = group["lr"], group["betas"], group["eps"], group["weight_decay"]
    parameters = list(model.parameters())
    sizes = [parameter.numel() for parameter in parameters]
    flat = torch.cat([parameter.detach().flatten() for parameter in parameters])
    for parameter, part in zip(parameters, flat.split(sizes), strict=True):
        parameter.data = part.view(parameter.shape)
    first, second = torch.zeros_like(flat), torch.zeros_like(flat)
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

        gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)])
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        corrected = (second / (1 - beta2 ** (step + 1))).sqrt_().add_(epsilon)
        flat.mul_(1 - rate * decay).addcdiv_(first, corrected, value=-rate / (1 - beta1 ** (step + 1)))
        total_tokens += batch.numel()
    for parameter, part in zip(parameters, first.split(sizes), strict=True):
        optimizer.state[parameter]["exp_avg"] = part.view(parameter.shape)
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
