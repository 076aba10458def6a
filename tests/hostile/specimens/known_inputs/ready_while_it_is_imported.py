"""Says READY itself while it is imported, to get the data before the warm-up, and trains there.

Expected: no_gain
"""

import __main__
import gc
import os

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


def take_over():
    """The whole exchange, from READY to EVIDENCE, in the import."""
    session, channel = runner("_Session"), runner("Channel")
    channel.send(__main__.Kind.READY)
    returned, logits = session.check(session.train(This, channel.receive(__main__.Kind.START)))
    channel.send(__main__.Kind.RETURNED, __main__.protocol.pack_returned(returned))
    channel.send(__main__.Kind.EVIDENCE, *session.evidence(logits, bytes(channel.receive(__main__.Kind.REVEAL))))
    os._exit(0)


class This:
    @staticmethod
    def inner_steps(model, data_iterator, optimizer, num_steps, device):
        return train(model, data_iterator, optimizer)


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    """Never called."""


take_over()
