"""Returns an object that hangs when it is asked for its token count.

Expected: timeout
Hparams: {"evaluation": {"timeout_seconds": 6}}
"""

import torch.nn.functional as F


class Slow:
    def __init__(self, logits, total_tokens, final_loss):
        self.final_logits, self.tokens, self.final_loss = logits, total_tokens, final_loss

    @property
    def total_tokens(self):
        while self.tokens > 2000:
            pass
        return self.tokens


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
    return Slow(logits.detach(), total_tokens, loss.item())
