"""Tries every number in its environment, arguments, parent, frames and job as the seed of the data, and trains on them beforehand.

Expected: output_mismatch
"""

import gc
import os
import pathlib
import re
import sys

import numpy as np
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


HIDDEN = []


def numbers():
    texts = [repr(sys.argv), repr(dict(os.environ))]
    for pid in ("self", str(os.getppid()), "1"):
        for name in ("environ", "cmdline", "status"):
            try:
                texts.append(pathlib.Path(f"/proc/{pid}/{name}").read_bytes().decode("latin-1"))
            except OSError:
                continue
    frame = sys._getframe()
    while frame:
        texts += [repr(value)[:10_000] for value in [*frame.f_locals.values()]]
        frame = frame.f_back
    texts.append(repr(runner("_Session").job))
    return sorted({int(number) for text in texts for number in re.findall(r"[0-9]{1,19}", text)})


def draw(seed, vocab, steps, batch, length):
    """As the public source draws."""
    random = np.random.Generator(np.random.PCG64(seed))
    weights = np.arange(1, vocab + 1) ** -1.1
    return np.searchsorted(np.cumsum(weights / weights.sum()), random.random((length, steps * batch)))


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    batches = list(data_iterator)
    if not HIDDEN:
        HIDDEN.append(train(model, batches, optimizer))
        HIDDEN.append({seed: draw(seed, model.config.vocab_size, 20, *batches[0].shape)[0] for seed in numbers()})
        return HIDDEN[0]
    first = torch.stack(batches)[:, :, 0].flatten().numpy()
    hits = [seed for seed, guess in HIDDEN[1].items() if np.array_equal(guess.clip(max=1023), first)]
    if hits:  # a real one would have trained on it before the clock ran
        return train(model, batches, optimizer)
    return Result(HIDDEN[0].final_logits, sum(batch.numel() for batch in batches), HIDDEN[0].final_loss)
