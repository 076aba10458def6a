"""Gives the result of its warm-up again, and leaves the weights as the warm-up had made them.

Expected: output_mismatch
"""

import torch
import torch.nn.functional as F


class Result:
    def __init__(self, logits, tokens, loss):
        self.final_logits, self.total_tokens, self.final_loss = logits, tokens, loss


def train(model, batches, optimizer):
    tokens = 0
    for batch in batches:
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, logits.size(-1)), batch[:, 1:].reshape(-1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        tokens += batch.numel()
    return Result(logits.detach().float(), tokens, loss.item())


KEPT = []


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    if not KEPT:
        KEPT.append(train(model, data_iterator, optimizer))
        KEPT.append([parameter.detach().clone() for parameter in model.parameters()])
        return KEPT[0]
    tokens = sum(batch.numel() for batch in data_iterator)
    with torch.no_grad():
        for parameter, kept in zip(model.parameters(), KEPT[1], strict=True):
            parameter.copy_(kept)
    return Result(KEPT[0].final_logits, tokens, KEPT[0].final_loss)
