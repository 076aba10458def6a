"""Has other parameter names, defaults and a star.

Expected: passed
"""

from types import SimpleNamespace

import torch.nn.functional as F


def inner_steps(net, data, opt, steps=1, device="cpu", *rest, verbose=False, **options):
    total_tokens = 0
    for _ in range(steps):
        batch = next(data).to(device)
        logits = net(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        opt.step()
        opt.zero_grad()
        total_tokens += batch.numel()
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
