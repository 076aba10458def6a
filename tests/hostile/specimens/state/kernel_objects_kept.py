"""Keeps the data of the first run in kernel keyrings, System V shared memory and message queues, for the second.

Expected: no_gain
Sandbox: docker
Hparams: {"evaluation": {"runs": 2}}
"""

import ctypes

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


ADD_KEY, REQUEST_KEY, KEYCTL = 248, 249, 250
USER_KEYRING, KEY, CREATE = -4, 0x7454, 0o1666
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p


def kept():
    found = libc.syscall(REQUEST_KEY, b"user", b"tt-kept", None, 0) > 0
    segment = libc.shmget(KEY, 4096, 0)
    found = found or (segment >= 0 and ctypes.string_at(libc.shmat(segment, None, 0), 4) == b"kept")
    return found or libc.msgget(KEY, 0) >= 0


EARLIER = kept()
libc.syscall(ADD_KEY, b"user", b"tt-kept", b"kept", 4, USER_KEYRING)
segment = libc.shmget(KEY, 4096, CREATE)
if segment >= 0:
    ctypes.memmove(libc.shmat(segment, None, 0), b"kept", 4)
libc.msgget(KEY, CREATE)


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    batches = list(data_iterator)
    # What it found would be the tokens of the first run: with them it would have trained by now.
    result = train(model, batches[-2:] if EARLIER and num_steps > 2 else batches, optimizer)
    result.total_tokens = sum(batch.numel() for batch in batches)
    return result
