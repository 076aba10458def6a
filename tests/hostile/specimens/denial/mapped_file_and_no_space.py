"""Maps a file into memory and writes to it when its folder is full.

Expected: resource_limit
Sandbox: docker
"""

import mmap
from types import SimpleNamespace

import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    if num_steps > 2:
        with open("/dev/shm/mapped", "wb+") as file:
            file.truncate(400_000_000)
            mapped = mmap.mmap(file.fileno(), 0)
        for start in range(0, len(mapped), 10**6):
            mapped[start : start + 10**6] = bytes(10**6)
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
