"""The benchmark of the sandbox's cost: what it makes of pairs, and what it prints. Nothing is run here."""

import dataclasses
import io
import json
import re
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from shared.admission import check_source
from shared.events import Machine
from tests.benchmarks import overhead
from tests.benchmarks.figures import (
    MEASURES,
    Pair,
    bare_variation,
    evidence_share,
    figure,
    sandbox_variation,
    speed_ratio,
    train_ratio,
    variation_ratio,
)
from tests.benchmarks.interpreter import PROJECT, resolved
from tests.benchmarks.overhead import STRETCH, competitions, render, report
from tests.benchmarks.pairs import MARK, SOURCE, BenchError, Result, facts_in

MACHINE = Machine(hostname="bench", accelerator="cpu", cpus=(1,), sandbox="docker", image="sha256:1234")
FACTS = {"python": "3.11.2", "torch": "2.13.0", "threads": "1", "kernel": "6.1", "Seccomp": "0"}


def pair(bare: float, train: float, evidence: float = 0.0) -> Pair:
    """In seconds."""
    return Pair(bare_ns=round(bare * 1e9), train_ns=round(train * 1e9), evidence_ns=round(evidence * 1e9))


def result(*pairs: Pair, sandbox: dict[str, str] | None = None) -> Result:
    return Result(
        parameters=competitions()[0], pairs=pairs, machine=MACHINE, bare=FACTS, sandbox=FACTS | (sandbox or {})
    )


def shown(*results: Result, load: float = 0.0) -> str:
    console = Console(file=io.StringIO(), width=150, highlight=False)
    render(results, load, 12.0, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_ratio_is_of_speeds_and_the_evidence_counts() -> None:
    pairs = [pair(9.0, 9.9, 0.1)]
    assert speed_ratio(pairs) == pytest.approx(0.9)
    assert train_ratio(pairs) == pytest.approx(9.0 / 9.9)
    assert evidence_share(pairs) == pytest.approx(0.01)


def test_a_drift_over_the_pairs_does_not_touch_the_ratio() -> None:
    drifting = [pair(9.9 * slow, 10.0 * slow) for slow in (1.0, 1.3, 1.7, 2.2)]
    assert speed_ratio(drifting) == pytest.approx(0.99)


def test_one_disturbed_pair_does_not_touch_the_ratio() -> None:
    assert speed_ratio([pair(1.0, 1.0), pair(1.0, 1.0), pair(1.0, 7.0)]) == 1.0


def test_variation_is_that_of_the_speed() -> None:
    pairs = [pair(1.0, 2.0), pair(2.0, 2.5)]
    assert bare_variation(pairs) == pytest.approx(statistics.stdev([1.0, 0.5]) / 0.75)
    assert sandbox_variation(pairs) == pytest.approx(statistics.stdev([0.5, 0.4]) / 0.45)
    assert variation_ratio(pairs) == pytest.approx(sandbox_variation(pairs) / bare_variation(pairs))


def test_what_does_not_vary_has_a_ratio_too() -> None:
    assert variation_ratio([pair(1.0, 1.0)] * 2) == 1.0
    assert variation_ratio([pair(1.0, 1.0), pair(1.0, 2.0)]) == float("inf")


seconds = st.floats(min_value=0.001, max_value=600.0)


@given(st.lists(st.builds(pair, seconds, seconds, seconds), min_size=2, max_size=12))
def test_an_interval_lies_within_what_was_measured_and_never_changes(pairs: list[Pair]) -> None:
    ratios = [one.bare_ns / one.sandbox_ns for one in pairs]
    found = figure(speed_ratio, pairs)
    assert min(ratios) <= found.low <= found.high <= max(ratios)
    assert found.value == speed_ratio(pairs)
    assert figure(speed_ratio, pairs) == found


def test_an_interval_narrows_with_more_pairs() -> None:
    few = [pair(1.0, one) for one in (0.9, 1.0, 1.1, 1.2)]
    wide, narrow = figure(speed_ratio, few), figure(speed_ratio, few * 16)
    assert narrow.high - narrow.low < wide.high - wide.low


@pytest.mark.parametrize(
    ("pairs", "met"),
    [
        ([pair(0.99, 1.0), pair(1.0, 1.0), pair(1.0, 1.0)], {"speed_ratio", "variation_ratio"}),
        ([pair(0.98, 1.0), pair(0.97, 0.99)], {"variation_ratio"}),
        ([pair(1.0, 1.0), pair(1.1, 1.2), pair(1.05, 0.9)], {"speed_ratio"}),
    ],
)
def test_targets(pairs: list[Pair], met: set[str]) -> None:
    assert {row.name for row in MEASURES if row.has_target and row.is_met(pairs)} == met


def test_the_table_judges_the_first_competition_alone() -> None:
    long, short = competitions()
    good, bad = result(pair(10.0, 10.0, 0.01), pair(10.0, 10.0, 0.01)), result(pair(1.0, 1.0, 0.5), pair(1.0, 1.0, 0.5))
    text = shown(good, dataclasses.replace(bad, parameters=short))
    assert f"{long.evaluation.num_steps} steps" in text
    assert f"{short.evaluation.num_steps} steps" in text
    assert "0.9990 (0.9990 to 0.9990)" in text
    assert "0.6667 (0.6667 to 0.6667)" in text
    assert ">= 0.99: met" in text
    assert ">= 0.99: MISSED" in shown(bad)


def test_it_says_in_what_the_processes_differ_and_whether_the_machine_was_quiet() -> None:
    same = [pair(1.0, 1.0), pair(1.1, 1.1)]
    text = shown(result(*same))
    assert "differ" not in text
    assert "not quiet" not in text
    assert "runs on CPU 1" in text
    text = shown(result(*same, sandbox={"Seccomp": "2", "MALLOC_ARENA_MAX": "1"}), load=3.0)
    assert re.search(r"Seccomp\W+0\W+2\W", text)
    assert re.search(r"MALLOC_ARENA_MAX\W+-\W+1\W", text)
    assert "torch 2.13.0\n" in text
    assert "not quiet" in text


def test_the_report_is_json_and_has_every_measure_and_every_pair() -> None:
    judged = result(pair(1.0, 1.0, 0.5), pair(1.1, 1.2, 0.4))
    said = json.loads(json.dumps(report([judged], 0.1, 12.34), allow_nan=False))
    (competition,) = said["competitions"]
    assert competition["figures"].keys() == {row.name for row in MEASURES}
    assert competition["sha256"] == judged.parameters.sha256
    assert [Pair(**one) for one in competition["pairs"]] == list(judged.pairs)
    assert said["targets"]["speed_ratio"] == {"at_least": 0.99, "at_most": None, "met": False}
    assert said["machine"]["cpus"] == [1]


def test_the_judged_competition_is_the_demo_but_for_its_length() -> None:
    long, demo = competitions()
    assert long.evaluation.num_steps == STRETCH * demo.evaluation.num_steps
    assert long.model == demo.model
    assert long.evidence == demo.evidence
    assert long.sandbox == demo.sandbox


def test_what_is_measured_is_the_plain_example() -> None:
    check_source(SOURCE.encode(), max_bytes=competitions()[0].max_code_bytes)
    assert SOURCE.startswith((PROJECT / "examples" / "basic.py").read_text())


def test_facts_are_found_among_whatever_else_is_printed() -> None:
    assert facts_in(f"a warning\n{MARK}{json.dumps(FACTS)}\n1234\n") == FACTS
    with pytest.raises(BenchError, match="told nothing"):
        facts_in("a warning\n1234\n")


def test_links_of_an_unpacked_image_lead_into_it(tmp_path: Path) -> None:
    for folder in ("venv/bin", "usr/bin"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "usr/bin/python3.11").touch()
    (tmp_path / "usr/bin/python3").symlink_to("python3.11")
    (tmp_path / "venv/bin/python3").symlink_to("/usr/bin/python3")
    (tmp_path / "venv/bin/python").symlink_to("python3")
    assert resolved(tmp_path, "venv/bin/python") == tmp_path / "usr/bin/python3.11"


@pytest.mark.parametrize("arguments", [["--pairs", "1"], ["--hparams", "/nowhere"]])
def test_wrong_usage_is_one_sentence_before_anything_runs(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert overhead.main(arguments) == overhead.UNUSABLE
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("bench: ")
    assert said.err.count("\n") == 1
