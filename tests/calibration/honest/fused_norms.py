"""The library's RMSNorm in place of the written-out one."""

from types import MethodType, SimpleNamespace

import torch
import torch.nn.functional as F


def norm(self, x):
    return F.rms_norm(x.float(), self.weight.shape, self.weight, 1e-6).type_as(x)


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    for module in model.modules():
        if type(module).__name__ == "RMSNorm":
            module.forward = MethodType(norm, module)
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
