"""Fetches batches in a thread of its own, through a queue.

Expected: passed
"""

import queue
import threading
from types import SimpleNamespace

import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    waiting = queue.Queue(maxsize=2)

    def fetch():
        for batch in data_iterator:
            waiting.put(batch.to(device, non_blocking=True))
        waiting.put(None)

    threading.Thread(target=fetch, daemon=True).start()
    total_tokens = 0
    while (batch := waiting.get()) is not None:
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
