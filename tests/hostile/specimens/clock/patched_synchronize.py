"""Makes every way of waiting for the device, and of measuring it, do nothing.

Expected: no_gain
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


class Event:
    def __init__(self, *arguments, **options): ...
    def record(self, *arguments): ...
    def synchronize(self): ...
    def elapsed_time(self, other):
        return 0.001


def nothing(*arguments, **options): ...


torch.cuda.Event = torch.Event = torch.cpu.Stream = Event
torch.cuda.synchronize = torch.cpu.synchronize = torch.accelerator.synchronize = nothing


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    return train(model, data_iterator, optimizer)
