"""AdamW written by hand; the first moments are left where the given optimizer has its own."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):

    group = optimizer.param_groups[0]
    beta1, beta2 = group["betas"]
    parameters = list(model.parameters())
    firsts = [torch.zeros_like(parameter) for parameter in parameters]
    seconds = [torch.zeros_like(parameter) for parameter in parameters]
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        total_tokens += batch.numel()
        with torch.autocast(device_type=device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(batch[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter, first, second in zip(parameters, firsts, seconds, strict=True):
                first.mul_(beta1).add_(parameter.grad, alpha=1 - beta1)
                second.mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
                scale = (second / (1 - beta2 ** (step + 1))).sqrt_().add_(group["eps"])
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.addcdiv_(first, scale, value=-group["lr"] / (1 - beta1 ** (step + 1)))
    for parameter, first in zip(parameters, firsts, strict=True):
        optimizer.state[parameter]["exp_avg"] = first
    return SimpleNamespace(final_logits=logits.detach().float(), total_tokens=total_tokens, final_loss=loss.item())
