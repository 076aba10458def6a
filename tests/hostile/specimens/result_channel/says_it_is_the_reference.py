"""Turns the runner into a reference run, whose evidence has parts of its own.

Expected: protocol_violation
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


def runner(name):
    """The runner's object of that class, wherever it is."""
    return next(thing for thing in gc.get_objects() if type(thing).__name__ == name)


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    session = runner("_Session")
    session.previous = [parameter.detach().clone() for parameter in model.parameters()]
    session.initial = session.initial or session.previous
    return train(model, data_iterator, optimizer)
