"""Wraps inner_steps in decorators, and steps in closures.

Expected: passed
"""

import functools
from types import SimpleNamespace

import torch.nn.functional as F


def named(name):
    def decorate(function):
        @functools.wraps(function)
        def wrapper(*arguments, **options):
            return function(*arguments, **options)

        wrapper.name = name
        return wrapper

    return decorate


def make_step(model, optimizer):
    def step(batch):
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return logits.detach(), loss.detach()

    return step


@named("training")
@functools.lru_cache(maxsize=None)
def settings():
    return {"log": False}


@named("inner steps")
def inner_steps(model, data_iterator, optimizer, num_steps, device):
    assert settings() == {"log": False}
    step, total_tokens = make_step(model, optimizer), 0
    for _ in range(num_steps):
        batch = next(data_iterator).to(device)
        logits, loss = step(batch)
        total_tokens += batch.numel()
    return SimpleNamespace(final_logits=logits, total_tokens=total_tokens, final_loss=loss.item())
