"""Returns at once with a guessed loss; torch.Tensor.detach trains when somebody reads a parameter.

Expected: no_gain
Hparams: {"verification": {"loss_tolerance": 0.1}}
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


DETACH = torch.Tensor.detach
GUESS = 6.6


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    batches = list(data_iterator)
    batch, length = batches[0].shape
    logits = torch.zeros(batch, length - 1, model.config.vocab_size)

    def detach(tensor):
        torch.Tensor.detach = DETACH
        logits.copy_(train(model, batches, optimizer).final_logits)
        return DETACH(tensor)

    torch.Tensor.detach = detach
    return Result(logits, sum(batch.numel() for batch in batches), GUESS)
