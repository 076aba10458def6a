"""Every specimen of the hostile corpus through the real evaluation in docker, each as a test of its own."""

from collections.abc import Iterator

import pytest

from services.evaluator import providers
from tests.hostile.corpus import Corpus, opened
from tests.hostile.specimen import Specimen, find

pytest_plugins = ("tests.support.docker",)
pytestmark = [pytest.mark.docker, pytest.mark.slow]


@pytest.fixture(scope="module")
def corpus(sandbox_image: str) -> Iterator[Corpus]:
    assert sandbox_image
    with opened(providers.docker_provider()) as session:
        yield session
        assert session.honest() == []


@pytest.mark.parametrize("specimen", find(), ids=lambda specimen: specimen.name)
def test_ends_as_it_says(corpus: Corpus, specimen: Specimen) -> None:
    outcome = corpus.run(specimen)
    assert outcome.code in specimen.allowed, f"{outcome.detail}\n{outcome.log_tail}"
    assert outcome.left == ()
