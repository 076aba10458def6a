"""Gives right logits the first time that they are read, and others from then on.

Expected: passed

They are read once, and evidence is of what was read.
"""

import torch
import torch.nn.functional as F


class Changing:
    def __init__(self, logits, total_tokens, final_loss):
        self.logits, self.total_tokens, self.final_loss, self.asked = logits, total_tokens, final_loss, 0

    @property
    def final_logits(self):
        self.asked += 1
        return self.logits if self.asked == 1 else torch.zeros_like(self.logits)


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
    return Changing(logits.detach(), total_tokens, loss.item())
