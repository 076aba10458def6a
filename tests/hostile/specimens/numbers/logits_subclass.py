"""Gives a subclass of Tensor whose differences are always zero.

Expected: malformed_output
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F


class Agreeable(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        result = super().__torch_function__(function, types, args, kwargs or {})
        return result * 0 if function in (torch.Tensor.sub, torch.sub, torch.Tensor.rsub) else result


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    return SimpleNamespace(
        final_logits=logits.detach().as_subclass(Agreeable), total_tokens=total_tokens, final_loss=loss.item()
    )
