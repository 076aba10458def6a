"""Steps each parameter in a hook, as soon as its gradient is there.

Expected: passed
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    group = {
        key: value for key, value in optimizer.param_groups[0].items() if key in ("lr", "betas", "eps", "weight_decay")
    }
    own = {parameter: torch.optim.AdamW([parameter], **group) for parameter in model.parameters()}

    def step_now(parameter):
        own[parameter].step()
        parameter.grad = None

    handles = [parameter.register_post_accumulate_grad_hook(step_now) for parameter in model.parameters()]
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        total_tokens += batch.numel()
    for handle in handles:
        handle.remove()
    for parameter, its_own in own.items():
        optimizer.state[parameter] = its_own.state[parameter]
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
