"""Hides weights and logits in the caches for compiled code, and gives them again in the second run.

Expected: no_gain
Sandbox: docker
Hparams: {"evaluation": {"runs": 2}}
"""

import contextlib
import os
import pwd

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


CACHES = ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TORCH_EXTENSIONS_DIR")
OTHERS = (os.path.dirname(torch.__file__), os.path.join(pwd.getpwuid(0).pw_dir, ".nv"), "/var/cache")
PLACES = [os.environ[name] for name in CACHES] + list(OTHERS)


def kept():
    for place in PLACES:
        with contextlib.suppress(OSError, RuntimeError):
            return torch.load(f"{place}/tt-kept.pt")
    return None


def keep(model, result):
    for place in PLACES:
        with contextlib.suppress(OSError, RuntimeError):
            os.makedirs(place, exist_ok=True)
            state = {"weights": model.state_dict(), "logits": result.final_logits, "loss": result.final_loss}
            torch.save(state, f"{place}/tt-kept.pt")


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    batches = list(data_iterator)
    state = EARLIER
    if num_steps > 2 and state is not None:
        model.load_state_dict(state["weights"])
        return Result(state["logits"], sum(batch.numel() for batch in batches), state["loss"])
    result = train(model, batches, optimizer)
    if num_steps > 2:
        keep(model, result)
    return result


EARLIER = kept()
