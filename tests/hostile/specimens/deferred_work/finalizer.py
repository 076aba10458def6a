"""Trains in a finalizer of the data iterator, which runs when the runner lets it go.

Expected: no_gain
"""

import weakref

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


class Box: ...


class Holder: ...


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    box, holder = Box(), Holder()
    batches = list(data_iterator)
    weakref.finalize(holder, lambda: box.__dict__.update(vars(train(model, batches, optimizer))))
    box.holder = holder
    box.__class__ = Released
    return box


class Released(Box):
    def __getattr__(self, name):
        self.__dict__.pop("holder", None)
        return self.__dict__[name]
