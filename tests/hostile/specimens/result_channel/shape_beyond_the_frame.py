"""Sends RETURNED with 255 dimensions of 2^64 - 1 each.

Expected: protocol_violation
"""

import contextlib
import os
import socket
import stat
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


HEADER = struct.Struct(">4sBBHQ")
READY, RETURNED, EVIDENCE, FAILED = 18, 19, 20, 21


def frame(kind, payload=b""):
    return HEADER.pack(b"TTRN", 2, kind, 0, len(payload)) + payload


def returned(model, batches, loss=6.8):
    shape = (batches[0].shape[0], batches[0].shape[1] - 1, model.config.vocab_size)
    tokens = sum(batch.numel() for batch in batches)
    return frame(RETURNED, struct.pack(">qdBB8Q", tokens, loss, 0, 3, *shape, 0, 0, 0, 0, 0))


def evidence_bytes(model, job):
    rows, columns = job.evidence.sketch_rows, job.evidence.sketch_columns
    sketch = sum(rows * min(columns, p[0].numel()) for p in model.parameters())
    return 4 * (job.evidence.logit_positions + job.evidence.probe_positions) * model.config.vocab_size + 2 * 8 * sketch


def everywhere(data):
    """Write to every descriptor of this process that takes it."""
    for number in range(3, 64):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                socket.socket(fileno=os.dup(number)).sendall(data)


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    if num_steps > 2:
        everywhere(frame(RETURNED, struct.pack(">qdBB8Q", 10240, 6.8, 0, 255, *[2**64 - 1] * 8)))
    return train(model, data_iterator, optimizer)
