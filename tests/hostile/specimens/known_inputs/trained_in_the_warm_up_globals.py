"""Trains on its own guess of the data during the warm-up, and hides weights and logits in a global.

Expected: output_mismatch
"""

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


HIDDEN = []


def guess(model, steps, batch, length):
    """Sequences of the public synthetic source."""
    random = np.random.default_rng(0)
    vocab = model.config.vocab_size
    successor = np.random.Generator(np.random.PCG64(vocab)).permutation(vocab)
    tokens = np.minimum(random.zipf(1.1, (length, steps * batch)) - 1, vocab - 1)
    for position in range(1, length):
        follows = random.random(steps * batch) < 0.6
        tokens[position, follows] = successor[tokens[position - 1, follows]]
    return torch.from_numpy(tokens.T.reshape(steps, batch, length).copy()).unbind()


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    batches = list(data_iterator)
    if not HIDDEN:
        result = train(model, guess(model, 20, *batches[0].shape), optimizer)
        HIDDEN.append(result)
        HIDDEN.append([parameter.detach().clone() for parameter in model.parameters()])
        return result
    with torch.no_grad():
        for parameter, hidden in zip(model.parameters(), HIDDEN[1], strict=True):
            parameter.copy_(hidden)
    logits = model(batches[-1][:, :-1]).detach()
    loss = F.cross_entropy(logits.reshape(-1, logits.size(-1)), batches[-1][:, 1:].reshape(-1))
    return Result(logits.float(), sum(batch.numel() for batch in batches), loss.item())
