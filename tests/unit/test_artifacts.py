"""The artifact store: what was put is got, whoever else writes; what was altered is never handed out."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.artifacts import ArtifactStore
from shared.faults import PoisonMessage, TransientFault


@given(content=st.binary(max_size=1000))
def test_what_was_put_is_got(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    store = ArtifactStore(tmp_path_factory.getbasetemp() / "store")
    name = store.put(content)
    assert name == hashlib.sha256(content).hexdigest()
    assert store.get(name) == content


def test_putting_again_changes_nothing(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    name = store.put(b"code")
    written = (tmp_path / name[:2] / name).stat().st_mtime_ns
    assert store.put(b"code") == name
    assert (tmp_path / name[:2] / name).stat().st_mtime_ns == written


def test_many_writers_of_the_same_and_of_other_bytes_leave_only_whole_files(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "new" / "store")
    contents = [bytes([number % 4]) * 100_000 for number in range(64)]
    with ThreadPoolExecutor(16) as threads:
        names = list(threads.map(store.put, contents))
    assert [store.get(name) for name in names] == contents
    assert {path.name for path in store.root.rglob("*") if path.is_file()} == set(names), "no temporary file is left"


def test_altered_bytes_are_poison(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    name = store.put(b"evidence")
    (tmp_path / name[:2] / name).write_bytes(b"evidencE")
    with pytest.raises(PoisonMessage, match="was altered"):
        store.get(name)


def test_what_is_not_there_yet_may_come(tmp_path: Path) -> None:
    with pytest.raises(TransientFault, match="cannot read artifact aaaaaaaaaaaa"):
        ArtifactStore(tmp_path).get("a" * 64)


@pytest.mark.parametrize("name", ["", "abc", "A" * 64, "g" * 64, "../" + "a" * 61, "a" * 63 + "\n"])
def test_a_name_that_is_no_hash_never_reaches_the_disk(name: str, tmp_path: Path) -> None:
    with pytest.raises(PoisonMessage, match="is no sha256"):
        ArtifactStore(tmp_path).get(name)


def test_a_place_that_cannot_be_written_is_a_transient_fault(tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.write_bytes(b"a file is where the store should be")
    with pytest.raises(TransientFault, match=f"cannot store an artifact under {root}"):
        ArtifactStore(root).put(b"code")
