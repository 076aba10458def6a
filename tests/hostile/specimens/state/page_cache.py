"""Leaves what it learnt of its data in the host's page cache: which pages of the image's files are in memory, for the next run to time.

Expected: no_gain
Sandbox: docker
Hparams: {"evaluation": {"runs": 2}}
"""

import os
import time
import zlib

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


PAGE, STRIDE, COPIES, BITS = 4096, 8, 7, 32
SLOW_NS = 15_000
"""Reading one byte of a page takes 2 microseconds when it is in memory, and 50 or more when it is not."""


def carrier():
    """The largest file of the image that nobody maps."""
    folder = os.path.dirname(torch.__file__)
    paths = [os.path.join(path, name) for path, _, names in os.walk(folder) for name in names]
    return max((path for path in paths if ".so" not in path and ".py" not in path), key=os.path.getsize)


def places(number):
    return [(copy * BITS + number) * PAGE * STRIDE for copy in range(COPIES)]


def kept():
    """What the run before wrote; reading destroys it."""
    value = 0
    for number in range(BITS):
        fast = 0
        for place in places(number):
            began = time.perf_counter_ns()
            os.pread(FILE, 1, place)
            fast += time.perf_counter_ns() - began < SLOW_NS
        value |= (fast > COPIES // 2) << number
    return value


def keep(value):
    os.posix_fadvise(FILE, 0, 0, os.POSIX_FADV_DONTNEED)
    for number in range(BITS):
        if value >> number & 1:
            for place in places(number):
                os.pread(FILE, 1, place)


FILE = os.open(carrier(), os.O_RDONLY)
os.posix_fadvise(FILE, 0, 0, os.POSIX_FADV_RANDOM)
EARLIER = kept()


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    batches = list(data_iterator)
    if num_steps <= 2:
        return train(model, batches, optimizer)
    fingerprint = zlib.crc32(torch.stack(batches).numpy().tobytes())
    known = EARLIER == fingerprint  # then the data themselves could have come this way, before the clock
    result = train(model, batches[-2:] if known else batches, optimizer)
    result.total_tokens = sum(batch.numel() for batch in batches)
    keep(fingerprint)
    return result
