"""Binds inner_steps to a number.

Expected: invalid_submission
"""

inner_steps = 3
