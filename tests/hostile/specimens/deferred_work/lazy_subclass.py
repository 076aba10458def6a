"""Returns a tensor subclass whose __torch_function__ trains when somebody computes with it.

Expected: malformed_output
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


class Lazy(torch.Tensor):
    work = None

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), options=None):
        if cls.work is not None and getattr(function, "__name__", "") != "__get__":
            work, cls.work = cls.work, None
            cls.value = work().final_logits
        return super().__torch_function__(function, types, arguments, options)


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    batches = list(data_iterator)
    batch, length = batches[0].shape
    logits = torch.empty(batch, length - 1, model.config.vocab_size).as_subclass(Lazy)
    Lazy.work = lambda: train(model, batches, optimizer)
    return Result(logits, sum(batch.numel() for batch in batches), 6.8)
