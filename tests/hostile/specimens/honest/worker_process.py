"""Loads batches through a DataLoader with a worker process.

Expected: passed
"""

from types import SimpleNamespace

import torch.nn.functional as F
from torch.utils.data import DataLoader, IterableDataset


class Batches(IterableDataset):
    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    loaded = iter(
        DataLoader(Batches(list(data_iterator)), batch_size=None, num_workers=1, multiprocessing_context="fork")
    )
    total_tokens = 0
    for step in range(num_steps):
        batch = next(loaded).to(device)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
