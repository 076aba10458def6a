"""What holds for every test: the sandbox image is there before the first; with CI=true a skipped one is a failure."""

import os
from collections.abc import Generator

import pytest

from tests.support.docker import pytest_collection_finish, sandbox_image

__all__ = ["pytest_collection_finish", "pytest_runtest_makereport", "sandbox_image"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"CI=true forbids skipping: {report.longreprtext}"
    return report
