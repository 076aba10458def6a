"""Returns an object whose attributes recurse without end.

Expected: crashed
Alternatives: malformed_output
"""

import torch.nn.functional as F


class Deep:
    def __getattr__(self, name):
        return getattr(self, name + "_")


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
    return Deep()
