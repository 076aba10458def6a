"""Returns at once; a thread trains, and reading final_logits waits for it.

Expected: no_gain
"""

import concurrent.futures

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


class Lazy:
    def __init__(self, future):
        self._future = future

    final_logits = property(lambda self: self._future.result().final_logits)
    total_tokens = property(lambda self: self._future.result().total_tokens)
    final_loss = property(lambda self: self._future.result().final_loss)


EXECUTOR = concurrent.futures.ThreadPoolExecutor(1)


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    return Lazy(EXECUTOR.submit(train, model, list(data_iterator), optimizer))
