"""Owns the sandboxes and holds the clock: turns EvalRequested into RunCompleted, one per run."""
