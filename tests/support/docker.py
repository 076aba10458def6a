"""The Docker engine and the sandbox image for tests: skipped loudly where there is no engine, never where CI=true."""

import contextlib
import os

import pytest

from deploy.sandbox_image import BuildError, ensure_image
from services.evaluator.docker_sandbox import connect
from services.evaluator.sandbox import SandboxFault


def require_docker() -> None:
    """Skip the test without an engine; with CI=true that is a failure."""
    try:
        connect().close()
    except SandboxFault as fault:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI=true forbids skipping the Docker tests: {fault}")
        pytest.skip(f"DOCKER TESTS NOT RUN: {fault}")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the image before the first test, because a build takes longer than a test may."""
    if session.config.option.collectonly or not any(item.get_closest_marker("docker") for item in session.items):
        return
    with contextlib.suppress(BuildError):  # the fixture says why
        ensure_image()


@pytest.fixture(scope="session")
def sandbox_image() -> str:
    """The tag of this checkout's sandbox image, which is there."""
    require_docker()
    return ensure_image()
