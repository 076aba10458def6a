"""Divides by the first step's second moment for ever, and never updates it again.

Expected: training_mismatch
Alternatives: output_mismatch, non_finite_output (what the first step did not see grows beyond all bounds)
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    first, second = {}, {}
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                gradient = parameter.grad
                if step == 0:
                    first[parameter], second[parameter] = torch.zeros_like(gradient), gradient.abs() + 1e-8
                first[parameter].lerp_(gradient, 0.1)
                parameter *= 1 - 1e-5
                parameter -= 1e-4 * first[parameter] / (1 - 0.9 ** (step + 1)) / second[parameter]
                parameter.grad = None
        total_tokens += batch.numel()
    for parameter in model.parameters():
        optimizer.state[parameter].setdefault("exp_avg", torch.zeros_like(parameter))
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
