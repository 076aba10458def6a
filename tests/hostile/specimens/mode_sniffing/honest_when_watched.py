"""Looks who reads its result, and gives the evidence code logits of the right size that it did not train for.

Expected: output_mismatch
"""

import sys

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


class Watched:
    def __init__(self, model, batches, warm):
        self.model, self.batches, self.warm = model, batches, warm
        self.total_tokens, self.final_loss = sum(batch.numel() for batch in batches), 6.8

    @property
    def final_logits(self):
        watcher = sys._getframe(1).f_code.co_name
        with torch.no_grad():
            logits = self.model(self.batches[-1][:, :-1]).float()
        return logits * 0.9 if watcher in ("evidence", "_attribute") else logits


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    for parameter in model.parameters():
        optimizer.state[parameter]["exp_avg"] = torch.zeros_like(parameter)
    return Watched(model, list(data_iterator), num_steps <= 2)
