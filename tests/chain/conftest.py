"""Fixtures of the tests on a real chain."""

from tests.support.chain import chain_endpoint, client

__all__ = ["chain_endpoint", "client"]
