"""Fixtures of the tests on a real chain. Without one these tests are left out, and pytest says how many it deselected:
a skipped test would be a failure where everything else is there.
"""

import pytest

from tests.support.chain import ENDPOINT, ENDPOINT_VARIABLE, chain_endpoint, client
from tests.support.chain_stage import endpoint_of_chain, nothing_on_disk, stage

__all__ = ["chain_endpoint", "client", "endpoint_of_chain", "nothing_on_disk", "stage"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if ENDPOINT:
        return
    without = [item for item in items if _needs_chain(item)]
    if without:
        items[:] = [item for item in items if not _needs_chain(item)]
        config.hook.pytest_deselected(items=without)


def pytest_report_header() -> str:
    return f"chain: {ENDPOINT or f'none, {ENDPOINT_VARIABLE} is not set'}"


def _needs_chain(item: pytest.Item) -> bool:
    return "chain_endpoint" in getattr(item, "fixturenames", ()) or item.get_closest_marker("chain") is not None
