"""Puts links to files of the host where a result might be looked for, and ends with success.

Expected: crashed
Sandbox: docker
"""

import contextlib
import os

import torch


NAMES = ("result.json", "evidence.npz", "output", "train.log", "s")


def inner_steps(model, data_iterator, optimizer, num_steps, device):
    for folder in (".", "/tmp", "/dev/shm", "/channel", os.environ["HOME"], os.path.dirname(__file__)):
        for name in NAMES:
            for target in ("/etc/shadow", "/proc/1/environ", "/var/run/docker.sock", "/dev/zero"):
                with contextlib.suppress(OSError):
                    os.symlink(target, f"{folder}/{name}.{target.replace('/', '-')}")
    os._exit(0)
