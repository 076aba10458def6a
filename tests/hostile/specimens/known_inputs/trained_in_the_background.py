"""Forks in the warm-up a process that trains on guessed data while the run is prepared, and takes its weights.

Expected: output_mismatch
Alternatives: training_mismatch
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


SHARED = []


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    batches = list(data_iterator)
    if not SHARED:
        SHARED.extend(parameter.detach().clone().share_memory_() for parameter in model.parameters())
        if os.fork() == 0:
            train(model, batches * 10, optimizer)
            for shared, parameter in zip(SHARED, model.parameters(), strict=True):
                shared.copy_(parameter.detach())
            os._exit(0)
        return train(model, batches, optimizer)
    with torch.no_grad():
        for shared, parameter in zip(SHARED, model.parameters(), strict=True):
            parameter.copy_(shared)
    result = train(model, batches[-2:], optimizer)
    return Result(result.final_logits, sum(batch.numel() for batch in batches), result.final_loss)
