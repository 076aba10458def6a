"""Every step uses the gradients of the step before; the first uses its own."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    parameters = list(model.parameters())
    waiting = None
    total_tokens = 0
    for _ in range(num_steps):
        batch = next(data_iterator).to(device)
        total_tokens += batch.numel()
        with torch.autocast(device_type=device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(batch[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

        loss.backward()
        fresh = [parameter.grad for parameter in parameters]
        for parameter, gradient in zip(parameters, waiting or fresh, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad()
        waiting = fresh
    return SimpleNamespace(final_logits=logits.detach().float(), total_tokens=total_tokens, final_loss=loss.item())
