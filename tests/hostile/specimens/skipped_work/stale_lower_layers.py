"""Ends every second backward pass above the lowest layer, which takes its last gradient again.

Expected: training_mismatch
Alternatives: output_mismatch
"""

from types import SimpleNamespace

import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    lower = list(model.blocks[0].parameters())
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        is_short = step % 2 == 1
        for parameter in lower:
            parameter.requires_grad_(not is_short)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = None
        loss.backward()
        optimizer.step()
        total_tokens += batch.numel()
    model.requires_grad_(True)
    optimizer.zero_grad()
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
