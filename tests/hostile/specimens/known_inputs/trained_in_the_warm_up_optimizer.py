"""Hides warmed-up weights and moments in the optimizer's state, as what the runner does not clear.

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
        result = train(model, batches * 10, optimizer)
        for parameter in model.parameters():
            state = optimizer.state[parameter]
            state["hidden"] = [parameter.detach().clone(), {key: value.clone() for key, value in state.items()}]
        return Result(result.final_logits, sum(batch.numel() for batch in batches), result.final_loss)
    with torch.no_grad():
        for parameter in model.parameters():
            weights, moments = optimizer.state[parameter].pop("hidden")
            parameter.copy_(weights)
            for key, value in moments.items():
                optimizer.state[parameter][key].copy_(value)
    result = train(model, batches[-2:], optimizer)
    return Result(result.final_logits, sum(batch.numel() for batch in batches), result.final_loss)
