"""inner_steps is an object that can be called.

Expected: passed
"""

from types import SimpleNamespace

import torch.nn.functional as F


class Trainer:
    def __init__(self):
        self.total_tokens = 0

    def step(self, model, optimizer, batch):
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        self.total_tokens += batch.numel()
        return logits.detach(), loss.item()

    def __call__(self, model, data_iterator, optimizer, num_steps, device):
        self.total_tokens = 0
        for _ in range(num_steps):
            logits, loss = self.step(model, optimizer, next(data_iterator).to(device))
        return SimpleNamespace(final_logits=logits, total_tokens=self.total_tokens, final_loss=loss)


inner_steps = Trainer()
