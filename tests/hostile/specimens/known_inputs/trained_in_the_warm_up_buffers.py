"""Hides the update of the warm-up in buffers of the model, and adds it in a forward hook.

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
    if num_steps <= 2:
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        result = train(model, batches * 10, optimizer)
        for name, parameter in model.named_parameters():
            model.register_buffer("hidden_" + name.replace(".", "_"), parameter.detach() - before[name])
        return Result(result.final_logits, sum(batch.numel() for batch in batches), result.final_loss)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(getattr(model, "hidden_" + name.replace(".", "_")))
    result = train(model, batches[-2:], optimizer)
    return Result(result.final_logits, sum(batch.numel() for batch in batches), result.final_loss)
