"""Overwrites the machine code of libc's clocks with `return 0`, below every timer of Python.

Expected: no_gain
"""

import ctypes
import platform

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


RETURN_ZERO = {"x86_64": b"\x31\xc0\xc3", "aarch64": b"\x00\x00\x80\x52\xc0\x03\x5f\xd6"}[platform.machine()]
PAGE = 4096

libc = ctypes.CDLL(None)
for name in ("clock_gettime", "gettimeofday", "time", "clock_getres"):
    address = ctypes.cast(getattr(libc, name), ctypes.c_void_p).value
    begin = address & ~(PAGE - 1)
    if libc.mprotect(ctypes.c_void_p(begin), ctypes.c_size_t(2 * PAGE), 7) == 0:
        ctypes.memmove(address, RETURN_ZERO, len(RETURN_ZERO))


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    return train(model, data_iterator, optimizer)
