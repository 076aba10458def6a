"""Trains a dictionary of tensors with torch.func, and writes the result back.

Expected: passed
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch.func import functional_call, grad_and_value


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    names = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    group = {key: optimizer.param_groups[0][key] for key in ("lr", "betas", "eps", "weight_decay")}
    steps = torch.optim.AdamW(names.values(), **group)

    def objective(parameters, batch):
        logits = functional_call(model, parameters, (batch[:, :-1],))
        return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()), logits

    differentiate = grad_and_value(objective, has_aux=True)
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        gradients, (loss, logits) = differentiate(names, batch)
        for name, gradient in gradients.items():
            names[name].grad = gradient
        steps.step()
        total_tokens += batch.numel()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(names[name])
            optimizer.state[parameter] = steps.state[names[name]]
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
