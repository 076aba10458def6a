"""Replaces torch's own cross entropy everywhere by one that does the same.

Expected: passed
"""

from types import SimpleNamespace

import torch.nn.functional as F


def cross_entropy(logits, labels):
    return (logits.logsumexp(-1) - logits.gather(-1, labels[:, None])[:, 0]).mean()


F.cross_entropy = cross_entropy


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
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
