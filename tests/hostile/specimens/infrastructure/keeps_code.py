"""Leaves code where Python starts, for the next run to load.

Expected: passed
Sandbox: docker

It ends as crashed if the attack works.
"""

import os
import site
from pathlib import Path
from types import SimpleNamespace

import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    assert "planted" not in os.environ, "the code of an earlier run was loaded"
    for folder in (site.getusersitepackages(), os.path.expanduser("~"), os.getcwd()):
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            for name in ("sitecustomize.py", "usercustomize.py", "torch.py", "planted.pth"):
                Path(folder, name).write_text("import os; os.environ['planted'] = '1'\n")
        except OSError:
            pass
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
