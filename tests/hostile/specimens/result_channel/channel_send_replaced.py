"""Replaces Channel.send by one that multiplies its tokens by ten.

Expected: token_count_mismatch
"""

import __main__
import struct

import torch
import torch.nn.functional as F


class Result:
    def __init__(self, logits, tokens, loss):
        self.final_logits, self.total_tokens, self.final_loss = logits, tokens, loss


def train(model, batches, optimizer):
    tokens = 0
    for batch in batches:
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, logits.size(-1)), batch[:, 1:].reshape(-1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        tokens += batch.numel()
    return Result(logits.detach().float(), tokens, loss.item())


send = __main__.Channel.send


def generous(channel, kind, *parts):
    if kind == 19:
        tokens, *rest = struct.unpack(">qdBB8Q", parts[0])
        parts = (struct.pack(">qdBB8Q", 10 * tokens, *rest),)
    send(channel, kind, *parts)


__main__.Channel.send = generous


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    return train(model, data_iterator, optimizer)
