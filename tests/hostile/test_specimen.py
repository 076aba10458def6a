"""What the corpus says of itself: every file says what it must, and wrong words are refused with what to write."""

from collections import Counter
from pathlib import Path

import pytest

from services.evaluator.controller import Measured
from shared.events import Phases
from shared.faults import Failure
from tests.hostile import corpus, run
from tests.hostile.corpus import BASE, Outcome
from tests.hostile.specimen import FOLDER, SpecimenError, find, read

FAMILIES = {"clock", "deferred_work", "result_channel", "known_inputs", "reference", "mode_sniffing", "state"}


def write(folder: Path, *lines: str) -> Path:
    path = folder / "family" / "train.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(['"""Tries nothing.', "", *lines, '"""', ""]))
    return path


def test_every_specimen_says_what_it_must() -> None:
    specimens = find()
    assert {specimen.family for specimen in specimens} >= FAMILIES
    assert min(Counter(specimen.family for specimen in specimens).values()) >= 4
    for specimen in specimens:
        specimen.parameters(BASE)
    assert sum(specimen.allowed != {"passed"} for specimen in specimens) >= 60


def test_every_line_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "Expected: timeout",
        "Alternatives: crashed, out_of_memory (whichever comes first)",
        "Sandbox: docker",
        'Hparams: {"evaluation": {"timeout_seconds": 4}}',
    )
    specimen = read(path)
    assert (specimen.name, specimen.expected, specimen.needs_docker) == ("family/train", "timeout", True)
    assert specimen.allowed == {"timeout", "crashed", "out_of_memory"}
    parameters = specimen.parameters(BASE)
    assert parameters.evaluation.timeout_seconds == 4
    assert parameters.evaluation.num_steps == BASE.evaluation.num_steps


def test_a_file_that_is_no_text_has_its_lines_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "zeros.py"
    path.write_bytes(bytes(100))
    path.with_suffix(".expect").write_text("Expected: invalid_submission\n")
    assert read(path).allowed == {"invalid_submission"}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "write `Expected: CODE`"),
        ("Expected: fine", "'fine' is no outcome"),
        ("Expected: crashed\nAlternatives: fine", "'fine' is no outcome"),
        ("Expected: crashed\nSandbox: process", "Sandbox must be docker"),
        ("Expected: crashed\nHparams: {", "Hparams must be JSON"),
    ],
)
def test_a_wrong_line_is_told(tmp_path: Path, line: str, told: str) -> None:
    with pytest.raises(SpecimenError, match=told):
        read(write(tmp_path, line))


def test_specimens_are_found_by_family_name_and_path() -> None:
    path = FOLDER / "clock" / "patched_timers.py"
    assert [specimen.path for specimen in find("clock/patched_timers")] == [path]
    assert [specimen.path for specimen in find(str(path))] == [path]
    assert {specimen.family for specimen in find("clock", "state")} == {"clock", "state"}
    with pytest.raises(SpecimenError, match="families are"):
        find("nothing")


def test_an_outcome_counts_only_when_nothing_is_left() -> None:
    (specimen,) = find("clock/patched_timers")
    right = Outcome(specimen=specimen, code="no_gain", detail="", seconds=1.0)
    assert right.is_caught
    assert not Outcome(specimen=specimen, code="passed", detail="", seconds=1.0).is_caught
    assert not Outcome(specimen=specimen, code="no_gain", detail="", seconds=1.0, left=("process 7",)).is_caught


def test_a_cheat_that_got_through_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (specimen,) = find("clock/patched_timers")
    won = Outcome(
        specimen=specimen, code="passed", detail="9.00 times honest speed over 9 pairs", seconds=1.0, gain=9.0
    )
    monkeypatch.setattr(run, "_run", lambda provider, specimens: ([won], []))
    assert run.main(["--sandbox", "process", "clock/patched_timers"]) == run.GOT_THROUGH
    printed = capsys.readouterr().out
    assert "WRONG passed" in printed
    assert "9.00 times honest speed" in printed
    assert run.main(["--sandbox", "process", "nothing"]) == run.UNUSABLE


def measured(**phases: int) -> Measured:
    return Measured(
        failure=Failure.TIMEOUT,
        detail="",
        tokens=phases.pop("tokens", 0),
        elapsed_ns=0,
        phases=Phases(**phases),
        evidence=None,
    )


def test_the_deadline_is_that_of_the_phase_that_was_reached() -> None:
    prepare, timed = BASE.evaluation.prepare_timeout_seconds, BASE.evaluation.timeout_seconds
    assert corpus._deadline(BASE, measured(start_ns=2 * 10**9)) == 2 + prepare
    assert corpus._deadline(BASE, measured(start_ns=2 * 10**9, prepare_ns=3 * 10**9, tokens=9)) == 2 + 3 + timed
