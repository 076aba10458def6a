"""Recomputes each block in the backward pass.

Expected: passed
"""

from types import SimpleNamespace

import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        x = model.embedding(batch[:, :-1])
        for block in model.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        logits = F.linear(model.norm(x), model.embedding.weight)
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
