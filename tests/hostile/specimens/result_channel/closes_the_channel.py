"""Closes every descriptor of the process, and goes on running.

Expected: crashed
"""

import os
import time

import torch


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    os.closerange(0, 4096)
    time.sleep(3600)
