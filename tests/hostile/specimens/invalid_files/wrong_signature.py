"""Takes no arguments.

Expected: crashed
"""

def inner_steps():
    return None
