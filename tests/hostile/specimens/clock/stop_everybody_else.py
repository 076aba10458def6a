"""Stops every process that it may signal while it trains, so that whoever holds the clock sleeps meanwhile.

Expected: no_gain
Sandbox: docker
"""

import contextlib
import os
import signal

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
    for pid in (-1, 1, os.getppid()):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGSTOP)
    result = train(model, data_iterator, optimizer)
    for pid in (-1, 1, os.getppid()):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGCONT)
    return result
