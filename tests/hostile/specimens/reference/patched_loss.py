"""Patches cross_entropy for everybody to a constant, so that a reference which used it would learn nothing either.

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


original = F.cross_entropy


def constant(logits, labels, *arguments, **options):
    return logits.sum() * 0.0 + 6.8


F.cross_entropy = torch.nn.functional.cross_entropy = torch.ops.aten.cross_entropy_loss = constant


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    batches = list(data_iterator)
    if num_steps <= 2:
        return train(model, batches, optimizer)
    with torch.no_grad():
        logits = model(batches[-1][:, :-1])
    return Result(logits.float(), sum(batch.numel() for batch in batches), 6.8)
