"""Sets, slows and leaves the system's clocks: clock_settime, adjtimex, a time namespace of its own.

Expected: no_gain
Sandbox: docker
"""

import contextlib
import ctypes
import struct
import time

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


libc = ctypes.CDLL(None)
CLONE_NEWTIME = 0x80
for clock in (time.CLOCK_REALTIME, time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME):
    with contextlib.suppress(OSError):
        time.clock_settime(clock, 1.0)
libc.unshare(CLONE_NEWTIME)
with contextlib.suppress(OSError), open("/proc/self/timens_offsets", "w") as file:
    file.write("monotonic -1000 0\n")
slow = ctypes.create_string_buffer(struct.pack("=IxxxxqqqqqixxxxQ", 0x4000, 0, 0, 0, 0, 0, 0, 9000) + bytes(256))
libc.adjtimex(slow)


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    return train(model, data_iterator, optimizer)
