"""Replaces every timer of Python by one that runs at a tenth of the speed, so that a clock in this process is fooled.

Expected: no_gain
"""

import time

import torch
import torch.nn.functional as F

REAL = {name: getattr(time, name) for name in ("perf_counter", "monotonic", "time", "process_time", "thread_time")}


def slowed(real, unit):
    began = real()
    return lambda: began + unit((real() - began) / 10)


for name, real in REAL.items():
    setattr(time, name, slowed(real, float))
    setattr(time, f"{name}_ns", slowed(getattr(time, f"{name}_ns"), int))


class Result:
    def __init__(self, logits, tokens, loss):
        self.final_logits, self.total_tokens, self.final_loss = logits, tokens, loss


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    tokens = 0
    for _ in range(num_steps):
        batch = next(data_iterator)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, logits.size(-1)), batch[:, 1:].reshape(-1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        tokens += batch.numel()
    return Result(logits.detach().float(), tokens, loss.item())
