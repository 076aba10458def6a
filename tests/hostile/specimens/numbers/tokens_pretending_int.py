"""Gives a token count that says another number each time it is asked.

Expected: malformed_output
Alternatives: crashed, token_count_mismatch
"""

from types import SimpleNamespace

import torch.nn.functional as F


class Pretending(int):
    def __index__(self):
        return 1

    def __ge__(self, other):
        return True

    def __le__(self, other):
        return True

    __gt__ = __lt__ = __eq__ = __ge__
    __hash__ = None


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
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=Pretending(2**70), final_loss=loss.item())
