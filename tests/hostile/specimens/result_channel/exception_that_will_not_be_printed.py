"""Raises an exception whose text, representation, and type raise SystemExit in turn.

Expected: crashed
"""

import torch


class Hostile(BaseException):
    def __str__(self):
        raise SystemExit(0)

    __repr__ = __str__
    __class__ = property(__str__)

    @property
    def __cause__(self):
        raise SystemExit(0)

    __context__ = __traceback__ = __notes__ = __cause__


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    raise Hostile
