"""The benchmark of the sandbox's cost, for real but tiny: it measures something, in both sandboxes."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import overhead
from tests.benchmarks.interpreter import PROJECT
from tests.benchmarks.overhead import MET, MISSED
from tests.support.tiny import TINY

pytestmark = pytest.mark.slow


def measured(sandbox: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    """In what the processes differed, after two pairs of a tiny competition, whose targets mean nothing."""
    path = folder / "tiny.json"
    path.write_bytes(TINY.encode())
    code = overhead.main(["--json", "--pairs", "2", "--sandbox", sandbox, "--hparams", str(path)])
    said = capsys.readouterr()
    assert code in (MET, MISSED), said.err
    report: dict[str, Any] = json.loads(said.out)
    assert report["machine"]["sandbox"] == sandbox
    (competition,) = report["competitions"]
    assert competition["sha256"] == TINY.sha256
    assert len(competition["pairs"]) == 2
    assert all(nanoseconds > 0 for pair in competition["pairs"] for nanoseconds in pair.values())
    assert said.err.count("\n") == 2
    differences: dict[str, list[str]] = report["differences"]
    return differences


def test_a_child_process_differs_from_the_bare_loop_in_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measured("process", tmp_path, capsys) == {}


@pytest.mark.docker
def test_a_container_has_the_same_python_and_torch_as_its_bare_loop(
    sandbox_image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sandbox_image
    differences = measured("docker", tmp_path, capsys)
    assert differences.keys() <= {"Seccomp", "Speculation_Store_Bypass", "SpeculationIndirectBranch"}
    assert not list((PROJECT / "build").glob("bare-*"))
