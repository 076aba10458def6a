"""Returns at once; a thread trains meanwhile and fills the returned tensor later.

Expected: output_mismatch
Alternatives: training_mismatch, crashed (the thread and the evidence race)
"""

import threading

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
    batch, length = batches[0].shape
    logits = torch.zeros(batch, length - 1, model.config.vocab_size)

    def work():
        logits.copy_(train(model, batches, optimizer).final_logits)

    for parameter in model.parameters():
        optimizer.state[parameter] = {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    threading.Thread(target=work, daemon=True).start()
    return Result(logits, sum(batch.numel() for batch in batches), 6.8)
