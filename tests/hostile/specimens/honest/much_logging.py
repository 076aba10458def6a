"""Logs and prints several lines for each step, and warns.

Expected: passed
"""

import logging
import sys
import warnings
from types import SimpleNamespace

import torch.nn.functional as F

logging.basicConfig(level=logging.DEBUG)
log = logging.getLogger(__name__)


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    total_tokens = 0
    for step in range(num_steps):
        batch = next(data_iterator).to(device)
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

        log.info("step %d of %d", step, num_steps)
        log.debug("loss %s", loss)
        print("tokens", total_tokens, file=sys.stderr)
        for _ in range(50):
            print("." * 100)
        sys.stdout.flush()
        warnings.warn(f"step {step}", stacklevel=1)
        total_tokens += batch.numel()
    return SimpleNamespace(final_logits=logits.detach(), total_tokens=total_tokens, final_loss=loss.item())
