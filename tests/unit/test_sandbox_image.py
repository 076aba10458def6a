"""The image's tag follows its contents, its packages are pinned, and a build that cannot be done says what to do."""

import hashlib
import re
import shutil
from pathlib import Path
from zipfile import ZipFile

import pytest

from deploy import sandbox_image, sandbox_requirements
from services.evaluator import image

LISTS = ("sandbox/requirements.txt", "sandbox/requirements-cpu.txt", "sandbox/requirements-cuda.txt")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of everything that goes into the image."""
    for name in image.CONTENTS:
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image.ROOT / name, target)
    monkeypatch.setattr(image, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel in the only place where pip looks."""
    built = tmp_path / "index" / "thing-1.0-py3-none-any.whl"
    built.parent.mkdir()
    with ZipFile(built, "w") as archive:
        archive.writestr("thing.py", "")
        archive.writestr("thing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
        archive.writestr("thing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("thing-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(built.parent))
    return built


def pin(tmp_path: Path, *digests: str) -> Path:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(" \\\n    ".join(["thing==1.0", *(f"--hash=sha256:{digest}" for digest in digests)]) + "\n")
    return requirements


def test_the_tag_of_a_copy_is_the_same(checkout: Path) -> None:
    copied = image.image_tag()
    (checkout / "sandbox" / "other.py").touch()
    assert image.image_tag() == copied
    assert copied.startswith("templar-sandbox:")


@pytest.mark.parametrize("name", image.CONTENTS)
def test_every_content_changes_the_tag(checkout: Path, name: str) -> None:
    before, base_before = image.image_tag(), image.base_tag()
    with (checkout / name).open("a") as file:
        file.write("\n")
    assert image.image_tag() != before
    assert (image.base_tag() != base_before) == (name in image.BASE_CONTENTS)


def test_the_lists_are_what_the_lock_says() -> None:
    kept = {Path(name).name: (image.ROOT / name).read_text() for name in LISTS}
    assert kept == sandbox_requirements.lists(), "run `python -m deploy.sandbox_requirements`"


@pytest.mark.parametrize("name", LISTS)
def test_every_package_is_pinned_by_its_files(name: str) -> None:
    text = re.sub(r"^#.*\n", "", (image.ROOT / name).read_text(), flags=re.MULTILINE)
    entry = r"[a-z0-9-]+==[0-9.]+(?:\+cpu)?(?: \\\n    --hash=sha256:[0-9a-f]{64})+\n"
    assert re.fullmatch(f"(?:{entry})+", text)


def test_the_public_base_is_pinned_by_its_digest() -> None:
    assert re.fullmatch(r"python@sha256:[0-9a-f]{64}", sandbox_image.PUBLIC_BASE)


def test_a_pinned_wheel_is_taken(wheel: Path, tmp_path: Path) -> None:
    assert sandbox_image.download(pin(tmp_path, "0" * 64, hashlib.sha256(wheel.read_bytes()).hexdigest()), tmp_path)
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


def test_another_build_of_a_package_is_refused_by_name(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(sandbox_image.BuildError) as refused:
        sandbox_image.download(pin(tmp_path, "0" * 64, "1" * 64), tmp_path)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert f"thing==1.0 from {wheel.as_uri()} has the sha256 {digest}" in str(refused.value)
    assert "Let pip take it from pypi.org" in str(refused.value)
    assert not (tmp_path / wheel.name).exists()


def test_a_package_without_a_hash_is_not_taken(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(sandbox_image.BuildError, match=r"thing==1\.0 --hash"):
        sandbox_image.download(pin(tmp_path), tmp_path)
    assert not (tmp_path / wheel.name).exists()


def test_a_package_that_no_index_has_is_not_found(wheel: Path, tmp_path: Path) -> None:
    wheel.unlink()
    assert not sandbox_image.download(pin(tmp_path, "0" * 64), tmp_path)


def test_packages_that_differ_are_named() -> None:
    assert sandbox_image.differences(["gcc 1", "libc6 2.36-9", "perl 5"], ["gcc 1", "libc6 2.36-10", "sed 4"]) == [
        "libc6: 2.36-10 instead of 2.36-9",
        "perl: absent instead of 5",
        "sed: 4 instead of absent",
    ]


def test_debian_mirror_names_the_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEBIAN_MIRROR", "http://mirror.example/debian/")
    assert sandbox_image.debian_archive() == "http://mirror.example/debian"


def test_without_the_snapshot_the_archive_of_today_is_taken_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DEBIAN_MIRROR", raising=False)
    monkeypatch.setattr(sandbox_image, "SNAPSHOT", "http://127.0.0.1:9/debian")
    assert sandbox_image.debian_archive() == sandbox_image.MIRROR
    assert "WARNING: http://127.0.0.1:9/debian does not answer" in capsys.readouterr().out


def test_no_engine_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    assert sandbox_image.main() == 1
    assert "install docker.io and start dockerd" in capsys.readouterr().err
