"""Returns an object that never ends being freed.

Expected: timeout
Hparams: {"evaluation": {"prepare_timeout_seconds": 40}}
"""

import torch.nn.functional as F


class Immortal:
    def __init__(self, logits, total_tokens, final_loss):
        self.final_logits, self.total_tokens, self.final_loss = logits, total_tokens, final_loss

    def __del__(self):
        while True:
            pass


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
    return Immortal(logits.detach(), total_tokens, loss.item())
