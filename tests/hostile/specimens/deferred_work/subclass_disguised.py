"""A lazy tensor subclass whose `type` looks plain, because `type` itself is replaced in the runner.

Expected: no_gain
Alternatives: malformed_output, output_mismatch, crashed (when the disguise is seen through)
"""

import __main__
import builtins

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


class Lazy(torch.Tensor):
    @staticmethod
    def __new__(cls, shape, work):
        made = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=torch.float32)
        made.work, made.value = work, None
        return made

    def __init__(self, shape, work): ...

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), options=None):
        def real(value):
            if not isinstance(value, Lazy):
                return value
            if value.value is None:
                value.value = value.work().final_logits
            return value.value

        return function(*map(real, arguments), **(options or {}))


class Loss:
    def __init__(self, lazy):
        self.lazy = lazy

    def __float__(self):
        self.lazy.detach()
        return self.lazy.loss


def disguised(thing):
    return torch.Tensor if builtins.type(thing) is Lazy else builtins.type(thing)


__main__.type = disguised


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    batches = list(data_iterator)
    batch, length = batches[0].shape

    def work():
        result = train(model, batches, optimizer)
        lazy.loss = result.final_loss
        return result

    lazy = Lazy((batch, length - 1, model.config.vocab_size), work)
    return Result(lazy, sum(batch.numel() for batch in batches), Loss(lazy))
