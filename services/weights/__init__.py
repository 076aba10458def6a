"""Decides every interval who gets the emission, and records it."""
