"""Fixtures of the integration tests."""

from tests.support.evaluations import tournament
from tests.support.servers import artifacts, connection, nats_server, nats_url, postgres_server, postgres_url

__all__ = ["artifacts", "connection", "nats_server", "nats_url", "postgres_server", "postgres_url", "tournament"]
