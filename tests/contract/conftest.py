"""Fixtures of the contract tests."""

from tests.support.probes import docker_opener, engine, opener, process_opener, short_tmp

__all__ = [
    "docker_opener",
    "engine",
    "opener",
    "process_opener",
    "short_tmp",
]
