"""The image's tag follows its contents, and a build that cannot be done says what to do."""

import shutil
from pathlib import Path

import pytest

from deploy import sandbox_image
from services.evaluator import image


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of everything that goes into the image."""
    for name in image.CONTENTS:
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image.ROOT / name, target)
    monkeypatch.setattr(image, "ROOT", tmp_path)
    return tmp_path


def test_the_tag_of_a_copy_is_the_same(checkout: Path) -> None:
    copied = image.image_tag()
    (checkout / "sandbox" / "other.py").touch()
    assert image.image_tag() == copied
    assert copied.startswith("templar-sandbox:")


@pytest.mark.parametrize("name", image.CONTENTS)
def test_every_content_changes_the_tag(checkout: Path, name: str) -> None:
    before = image.image_tag()
    with (checkout / name).open("a") as file:
        file.write("\n")
    assert image.image_tag() != before


def test_no_engine_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    assert sandbox_image.main() == 1
    assert "install docker.io and start dockerd" in capsys.readouterr().err
