"""Fixtures of the end-to-end tests."""

from tests.support.docker import pytest_collection_finish, sandbox_image

__all__ = ["pytest_collection_finish", "sandbox_image"]
