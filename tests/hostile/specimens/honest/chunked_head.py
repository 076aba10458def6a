"""Never holds all logits of a step, except the last one's: output matrix and loss go piece by piece.

Expected: passed
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        x = model.embedding(batch[:, :-1])
        for block in model.blocks:
            x = block(x)
        hidden = model.norm(x)
        leaf = hidden.detach().requires_grad_()
        labels = batch[:, 1:]
        pieces, losses = [], []
        for rows, wanted in zip(leaf.split(64, dim=1), labels.split(64, dim=1), strict=True):
            piece = F.linear(rows, model.embedding.weight)
            part = F.cross_entropy(piece.flatten(0, 1), wanted.flatten(), reduction="sum") / labels.numel()
            part.backward()
            losses.append(part.detach())
            if step == num_steps - 1:
                pieces.append(piece.detach())
        hidden.backward(leaf.grad)
        loss = torch.stack(losses).sum()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    logits = torch.cat(pieces, dim=1)
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
