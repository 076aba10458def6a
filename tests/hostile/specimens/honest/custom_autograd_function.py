"""Computes loss and gradient of the logits in one autograd function of its own.

Expected: passed
"""

from types import SimpleNamespace

import torch


class CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, labels):
        logarithms = logits.log_softmax(-1)
        ctx.save_for_backward(logarithms, labels)
        return -logarithms.gather(1, labels[:, None]).mean()

    @staticmethod
    def backward(ctx, gradient):
        logarithms, labels = ctx.saved_tensors
        difference = logarithms.exp()
        difference.scatter_add_(1, labels[:, None], -torch.ones_like(difference[:, :1]))
        return difference * (gradient / len(labels)), None


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = model(batch[:, :-1])
        loss = CrossEntropy.apply(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
