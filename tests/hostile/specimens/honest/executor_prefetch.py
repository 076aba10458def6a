"""Fetches the next batch in a pool of threads that outlives the call.

Expected: passed
"""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import torch.nn.functional as F

POOL = ThreadPoolExecutor(1)


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    fetched = POOL.submit(next, data_iterator, None)
    total_tokens = 0
    for step in range(num_steps):
        batch = fetched.result().to(device)
        fetched = POOL.submit(next, data_iterator, None)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
