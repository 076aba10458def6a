"""Normalises over the true tokens and a random quarter of the vocabulary; the last batch gets all logits.

Expected: training_mismatch
Alternatives: output_mismatch
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        if step == num_steps - 1:
            logits = model(batch[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        else:
            labels = batch[:, 1:].flatten()
            weight = model.embedding.weight
            classes = torch.cat((labels, torch.randperm(weight.shape[0])[: weight.shape[0] // 4])).unique()
            hidden = {}
            handle = model.norm.register_forward_hook(lambda module, inputs, output: hidden.update(x=output))
            model(batch[:, :-1])
            handle.remove()
            loss = F.cross_entropy(hidden["x"].flatten(0, 1) @ weight[classes].T, torch.searchsorted(classes, labels))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
