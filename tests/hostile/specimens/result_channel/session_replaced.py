"""Finds the runner's session among all objects, and makes it give evidence of weights it invented.

Expected: output_mismatch
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
    batches = list(data_iterator)
    if num_steps > 2:
        session = runner("_Session")
        original = session.evidence

        def evidence(result, nonce):
            return [b"\x3f" * len(part) for part in original(result, nonce)]

        session.evidence = evidence
        batch, length = batches[0].shape
        return Result(torch.zeros(batch, length - 1, model.config.vocab_size), sum(b.numel() for b in batches), 6.8)
    return train(model, batches, optimizer)
