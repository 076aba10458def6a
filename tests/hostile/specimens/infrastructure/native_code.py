"""Compiles a program of its own, runs it, and lets it write into the training process.

Expected: passed

Native code may do what Python code may: nothing but train.
"""

import ctypes
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    if num_steps > 2:
        folder = Path(tempfile.mkdtemp())
        (folder / "code.c").write_text("int answer(void) { return 42; }\n")
        subprocess.run(["cc", "-shared", "-o", folder / "code.so", folder / "code.c"], check=True)
        assert ctypes.CDLL(str(folder / "code.so")).answer() == 42
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
