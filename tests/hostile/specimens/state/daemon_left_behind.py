"""Leaves a daemon, out of its session and group, that holds the results for the next run on abstract sockets.

Expected: no_gain
Sandbox: docker
Hparams: {"evaluation": {"runs": 2}}
"""

import contextlib
import io
import os
import signal
import socket

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


NAME = b"\x00tt-kept"


def kept():
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as peer:
        peer.connect(NAME)
        return torch.load(io.BytesIO(peer.makefile("rb").read()))
    return None


def serve(content):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(NAME)
    listener.listen()
    if os.fork() == 0:
        os.setsid()
        for number in range(1, signal.NSIG):
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_IGN)
        if os.fork() == 0:
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(content)
        os._exit(0)


EARLIER = kept()


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    batches = list(data_iterator)
    if num_steps > 2 and EARLIER is not None:
        model.load_state_dict(EARLIER["weights"])
        return Result(EARLIER["logits"], sum(batch.numel() for batch in batches), EARLIER["loss"])
    result = train(model, batches, optimizer)
    if num_steps > 2:
        buffer = io.BytesIO()
        torch.save({"weights": model.state_dict(), "logits": result.final_logits, "loss": result.final_loss}, buffer)
        serve(buffer.getvalue())
    return result
