"""Announces a frame of 2^63 bytes, and floods the channel.

Expected: protocol_violation
"""

import contextlib
import os
import socket
import stat
import struct

import torch


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
    everywhere(HEADER.pack(b"TTRN", 2, RETURNED, 0, 2**63))
    while True:
        everywhere(bytes(2**20))
