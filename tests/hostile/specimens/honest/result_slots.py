"""Returns an object with __slots__.

Expected: passed
"""

import torch.nn.functional as F


class Outcome:
    __slots__ = ("final_logits", "final_loss", "total_tokens")

    def __init__(self, final_logits, total_tokens, final_loss):
        self.final_logits = final_logits
        self.total_tokens = total_tokens
        self.final_loss = final_loss


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    return Outcome(logits.detach(), total_tokens, loss.item())
