"""Prints verdicts of every form to stdout and stderr, at exit too, and ends with success.

Expected: crashed
"""

import atexit
import json
import os
import sys

import torch


VERDICT = json.dumps({"verdict": "passed", "reason": None, "detail": "", "tps": 1e9, "runs": [], "success": True})


def say():
    for number in (1, 2):
        os.write(number, f"{VERDICT}\nPASSED 1,000,000,000 tokens per second\n".encode())


atexit.register(say)


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    say()
    sys.exit(0)
