"""Returns a proxy that trains when its first attribute is read.

Expected: no_gain
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


class Proxy:
    def __init__(self, work):
        object.__setattr__(self, "work", work)
        object.__setattr__(self, "result", None)

    def __getattribute__(self, name):
        if object.__getattribute__(self, "result") is None:
            object.__setattr__(self, "result", object.__getattribute__(self, "work")())
        return getattr(object.__getattribute__(self, "result"), name)


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    return Proxy(lambda: train(model, data_iterator, optimizer))
