"""Asks for real-time scheduling, a better priority, and CPUs that it was not given.

Expected: passed
Sandbox: docker

It ends as crashed if the attack works.
"""

import os
from types import SimpleNamespace

import torch.nn.functional as F


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    def refused(function, *arguments):
        try:
            function(*arguments)
        except OSError:
            return True
        return False

    assert refused(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1)), "real-time scheduling"
    assert refused(os.setpriority, os.PRIO_PROCESS, 0, -20), "priority"
    given = os.sched_getaffinity(0)
    refused(os.sched_setaffinity, 0, range(os.cpu_count()))
    assert os.sched_getaffinity(0) == given, "more CPUs"
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total_tokens += batch.numel()
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
