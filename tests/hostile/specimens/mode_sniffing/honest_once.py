"""Is honest in its first call only; later it trains the last layer alone.

Expected: output_mismatch
Alternatives: training_mismatch
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


CALLS = []


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    CALLS.append(num_steps)
    if len(CALLS) > 1:
        for block in model.blocks[:-1]:
            block.requires_grad_(False)
    return train(model, data_iterator, optimizer)
