"""Uses hasattr, super() and print, which scanners of source code have refused.

Expected: passed
"""

import torch
import torch.nn.functional as F


class Base:
    def __init__(self, logits):
        self.final_logits = logits


class Result(Base):
    def __init__(self, logits, total_tokens, final_loss):
        super().__init__(logits)
        self.total_tokens = total_tokens
        self.final_loss = final_loss


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    if hasattr(torch, "compile"):
        print("compile is there, and not used")
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step}: {loss.item():.4f}")
        total_tokens += batch.numel()
    return Result(logits.detach(), total_tokens, loss.item())
