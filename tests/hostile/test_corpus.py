"""A specimen of each family through the real evaluation in docker. `just hostile` runs all: over half an hour."""

from collections.abc import Iterator

import pytest

from services.evaluator import providers
from tests.hostile.corpus import Corpus, opened
from tests.hostile.specimen import NO_GAIN, Specimen, find

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(900)]


def sample() -> list[Specimen]:
    """The first of each family that is told by its code alone: a gain is a matter of time, and needs several runs."""
    first: dict[str, Specimen] = {}
    for specimen in find():
        if NO_GAIN not in specimen.allowed:
            first.setdefault(specimen.family, specimen)
    return list(first.values())


@pytest.fixture(scope="module")
def corpus(sandbox_image: str) -> Iterator[Corpus]:
    assert sandbox_image
    with opened(providers.docker_provider()) as session:
        yield session
        assert session.honest() == []


@pytest.mark.parametrize("specimen", sample(), ids=lambda specimen: specimen.name)
def test_ends_as_it_says(corpus: Corpus, specimen: Specimen) -> None:
    outcome = corpus.run(specimen)
    assert outcome.code in specimen.allowed, f"{outcome.detail}\n{outcome.log_tail}"
    assert outcome.left == ()
