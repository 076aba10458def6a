"""Rounds every matrix to 8 bits for each forward and backward pass except the last.

Expected: training_mismatch
Alternatives: output_mismatch, passed (no nearer than that can be told)

One rounding of 8 bits for each row is nearly as near as bfloat16 is (see int8_products.py).
"""

from types import SimpleNamespace

import torch.nn.functional as F


def rounded(weight):
    scale = weight.abs().amax(dim=1, keepdim=True) / 127
    return (weight / scale).round() * scale


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        exact = [matrix.detach().clone() for matrix in matrices]
        if step < num_steps - 1:
            for matrix in matrices:
                matrix.data = rounded(matrix.data)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

        loss.backward()
        for matrix, value in zip(matrices, exact, strict=True):
            matrix.data.copy_(value)
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
