"""Tells the warm-up by its number of steps, is honest there, and skips half of the batches after it.

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


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    batches = list(data_iterator)
    result = train(model, batches if num_steps <= 2 else batches[1::2], optimizer)
    result.total_tokens = sum(batch.numel() for batch in batches)
    return result
