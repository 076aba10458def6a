"""Sets thread counts and precision at import, as many scripts do.

Expected: passed
"""

import os
import random
from types import SimpleNamespace

import torch
import torch.nn.functional as F

os.environ["OMP_NUM_THREADS"] = "4"
torch.set_num_threads(len(os.sched_getaffinity(0)))
torch.manual_seed(0)
random.seed(0)
torch.backends.cudnn.benchmark = True
torch.backends.cuda.matmul.allow_tf32 = True
torch.set_float32_matmul_precision("high")


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
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
