"""Returns an object whose attributes raise SystemExit.

Expected: crashed
"""

import torch.nn.functional as F


class Raising:
    @property
    def final_logits(self):
        raise SystemExit(0)

    total_tokens = final_loss = final_logits


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
    return Raising()
