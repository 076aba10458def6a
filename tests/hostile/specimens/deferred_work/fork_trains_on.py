"""Puts parameters and logits into shared memory, forks a child that trains them, and returns at once.

Expected: output_mismatch
Alternatives: training_mismatch (the child and the evidence race)
Sandbox: docker
"""

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


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    batches = list(data_iterator)
    batch, length = batches[0].shape
    for parameter in model.parameters():
        parameter.data.share_memory_()
    logits = torch.zeros(batch, length - 1, model.config.vocab_size).share_memory_()
    for parameter in model.parameters():
        optimizer.state[parameter] = {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros_like(parameter).share_memory_(),
            "exp_avg_sq": torch.zeros_like(parameter).share_memory_(),
        }
    if os.fork() == 0:
        logits.copy_(train(model, batches, optimizer).final_logits)
        os._exit(0)
    return Result(logits, sum(batch.numel() for batch in batches), 6.8)
