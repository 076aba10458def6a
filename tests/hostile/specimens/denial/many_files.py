"""Makes empty files until there can be no more.

Expected: resource_limit
Alternatives: timeout, out_of_memory (gVisor counts no files, only their memory)
Sandbox: docker
Hparams: {"evaluation": {"timeout_seconds": 20}}
"""

from types import SimpleNamespace

import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    if num_steps > 2:
        for number in range(10**9):
            open(f"/tmp/{number}", "w").close()
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
