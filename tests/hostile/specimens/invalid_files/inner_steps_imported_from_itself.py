"""Imports inner_steps from itself.

Expected: crashed
"""

from train import inner_steps
