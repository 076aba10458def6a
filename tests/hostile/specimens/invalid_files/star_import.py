"""Hopes that a star import brings inner_steps along.

Expected: invalid_submission
"""

from torch import *
