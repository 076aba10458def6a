"""Takes the gradient of the last step from half of its batch.

Expected: training_mismatch
"""

from types import SimpleNamespace

import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        if step < num_steps - 1:
            loss.backward()
        else:
            half = batch[: batch.shape[0] // 2]
            F.cross_entropy(model(half[:, :-1]).flatten(0, 1), half[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
