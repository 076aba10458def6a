"""Replays logits and loss of an earlier call for data at the same address and of the same shape.

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


MEMO = {}


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    batches = list(data_iterator)
    key = (tuple(batches[0].shape), str(batches[0].dtype))
    if key in MEMO:
        return Result(MEMO[key].final_logits, sum(batch.numel() for batch in batches), MEMO[key].final_loss)
    MEMO[key] = train(model, batches, optimizer)
    return MEMO[key]
