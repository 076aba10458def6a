"""Replaces the matrix product in torch's dispatcher by one that is cheap and wrong, for whoever computes after it.

Expected: output_mismatch
Alternatives: non_finite_output, training_mismatch, crashed
"""

import warnings

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


LIBRARY = torch.library.Library("aten", "IMPL")


def cheap(a, b):
    return a[:, :1] * b[:1, :]


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    if num_steps > 2:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            LIBRARY.impl("mm", cheap, "CPU")
    return train(model, data_iterator, optimizer)
