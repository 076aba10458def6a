"""Trains in a callback of the garbage collector, which it makes run soon after it has returned.

Expected: no_gain
"""

import gc

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
    box = Box()
    batches = list(data_iterator)
    pending = [lambda: box.__dict__.update(vars(train(model, batches, optimizer)))]

    def callback(phase, info):
        if pending:
            pending.pop()()

    gc.callbacks.append(callback)
    gc.set_threshold(1)
    return box


class Box:
    """Whoever asks before the collector ran makes it run."""

    def __getattr__(self, name):
        gc.collect()
        return self.__dict__[name]
