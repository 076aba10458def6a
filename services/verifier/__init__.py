"""Compares evidence with the reference, judges, and ranks."""
