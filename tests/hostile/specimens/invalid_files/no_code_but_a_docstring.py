"""Has a docstring and nothing else.

Expected: invalid_submission
"""

