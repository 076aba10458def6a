"""Returns before the last half of its training; the runner's own list of parameters is replaced by one that trains when it is read.

Expected: no_gain
Hparams: {"verification": {"loss_tolerance": 0.1}}
"""

import gc

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


def runner(name):
    """The runner's object of that class, wherever it is."""
    return next(thing for thing in gc.get_objects() if type(thing).__name__ == name)


GUESS = 6.6


class Pending(dict):
    """A dict of parameters whose reading trains first."""

    work = None

    def _train(self):
        if self.work:
            work, self.work = self.work, None
            work()

    def items(self):
        self._train()
        return super().items()

    def values(self):
        self._train()
        return super().values()


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    batches = list(data_iterator)
    batch, length = batches[0].shape
    logits = torch.zeros(batch, length - 1, model.config.vocab_size)
    session = runner("_Session")
    session.parameters = Pending(session.parameters)
    session.parameters.work = lambda: logits.copy_(train(model, batches, optimizer).final_logits)

    class Late:
        total_tokens, final_loss, reads = sum(batch.numel() for batch in batches), GUESS, 0

        @property
        def final_logits(self):
            Late.reads += 1
            if Late.reads > 2:  # after hasattr and the look at its form: somebody takes evidence
                session.parameters._train()
            return logits

    return Late()
