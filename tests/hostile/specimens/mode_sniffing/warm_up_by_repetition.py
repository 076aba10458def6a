"""Takes random data for the warm-up and learnable data for the run, and skips backward passes on the latter.

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


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    batches = list(data_iterator)
    counts = torch.bincount(batches[0].flatten(), minlength=model.config.vocab_size)
    timed = counts.max() > 8  # random tokens are flat
    result = train(model, batches[: max(1, len(batches) // 2)] if timed else batches, optimizer)
    result.total_tokens = sum(batch.numel() for batch in batches)
    return result
