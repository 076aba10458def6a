"""Raises an exception with 100 MB of terminal commands, lone surrogates and direction marks as its message.

Expected: crashed
"""

import torch


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    raise RuntimeError("\x1b[2J\udfff\u202e\x00passed" * 8_000_000)
