"""What holds for every test: the sandbox image is there before the first; with CI=true a skipped one is a failure."""

import os
from collections.abc import Generator, Iterator

import pytest
import structlog

from tests.support.docker import pytest_collection_finish, sandbox_image

__all__ = ["logging_as_it_was", "pytest_collection_finish", "pytest_runtest_makereport", "sandbox_image"]


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A command that a test runs in this process configures the logs for all that come after it."""
    yield
    structlog.reset_defaults()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"CI=true forbids skipping: {report.longreprtext}"
    return report
