"""Sets LD_PRELOAD and PYTHONSTARTUP for whatever is started later.

Expected: passed

Only its own children ever see it: the next run starts from another environment.
"""

import os
import subprocess
import sys
from types import SimpleNamespace

import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    os.environ.update(
        LD_PRELOAD="/tmp/evil.so", PYTHONSTARTUP="/tmp/evil.py", PYTHONPATH="/tmp", LD_LIBRARY_PATH="/tmp"
    )
    subprocess.run([sys.executable, "-c", "pass"], stderr=subprocess.DEVNULL)
    assert num_steps > 2 or "MARK" not in os.environ
    os.environ["MARK"] = "1"
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
