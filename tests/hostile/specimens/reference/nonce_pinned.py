"""Makes the evidence code draw from a nonce of its own, for which it has the answers.

Expected: output_mismatch
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


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    from sandbox import evidence

    batches = list(data_iterator)
    if num_steps <= 2:
        return train(model, batches, optimizer)
    original = evidence.generator
    evidence.generator = lambda nonce, purpose: original(bytes(32), purpose)
    return train(model, batches, optimizer)
