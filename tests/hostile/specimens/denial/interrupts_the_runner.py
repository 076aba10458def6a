"""Raises from a signal handler, again and again, while the runner is at work, and leaves a thread that never ends.

Expected: crashed
Alternatives: timeout
"""

import signal
import threading
import time
from types import SimpleNamespace

import torch.nn.functional as F


def interrupt(number, frame):
    raise KeyboardInterrupt


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    threading.Thread(target=time.sleep, args=(10**6,)).start()
    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
