"""Keeps the evidence of its warm-up, and gives it again without any training.

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


KEPT = []


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    session = runner("_Session")
    if not KEPT:
        KEPT.append(train(model, data_iterator, optimizer))
        original = type(session).evidence

        def evidence(result, nonce):
            if len(KEPT) == 1:
                KEPT.append(original(session, result, nonce))
            return KEPT[1]

        session.evidence = evidence
        return KEPT[0]
    batches = list(data_iterator)
    return Result(KEPT[0].final_logits, sum(batch.numel() for batch in batches), KEPT[0].final_loss)
