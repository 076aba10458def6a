"""The calibration: how it judges what it measured, and that a few variants still run and fall on their side."""

import pytest

from services.evaluator.providers import process_provider
from shared.hparams import load
from tests.calibration import calibrate
from tests.calibration.calibrate import CONTROLS, DEMO, HONEST, CalibrationError, find, render, summary

PARAMETERS = load(DEMO)


def results(*distances: float) -> list[tuple[dict[str, tuple[float, float]], str]]:
    """One draw for each distance; the threshold is 1."""
    return [({"update": (distance, 1.0), "direction": (0.1, 1.0)}, "") for distance in distances]


@pytest.mark.parametrize(
    ("kind", "distances", "distance", "is_right"),
    [
        (HONEST, (0.2, 0.6), 0.6, True),
        (HONEST, (0.2, 0.7), 0.7, False),
        (HONEST, (0.2, float("inf")), float("inf"), False),
        (CONTROLS, (9.0, 1.6), 1.6, True),
        (CONTROLS, (9.0, 1.4), 1.4, False),
        (CONTROLS, (float("inf"), float("inf")), float("inf"), True),
    ],
)
def test_honest_code_counts_by_its_worst_draw_and_a_cheat_by_its_best(
    kind: str, distances: tuple[float, ...], distance: float, is_right: bool
) -> None:
    row = summary(kind, "some", results(*distances))
    assert (row.nearest, row.distances["update"], row.is_right) == ("update", distance, is_right)


@pytest.mark.parametrize("kind", [HONEST, CONTROLS])
def test_what_leaves_nothing_to_measure_is_never_right(kind: str) -> None:
    row = summary(kind, "some", [*results(0.1), ({}, "crashed: ValueError")])
    assert not row.is_right
    assert "| some | crashed: ValueError |" in render([summary(kind, "other", results(0.1)), row], PARAMETERS).replace(
        "| - ", ""
    )


def test_the_table_names_threshold_and_nearest_check() -> None:
    text = render([summary(HONEST, "eager", results(0.0005)), summary(CONTROLS, "lazy", results(2.0))], PARAMETERS)
    assert "| honest variant (worst draw) | update (100 %) | direction (100 %) | distance / threshold |" in text
    assert "| eager | 0.05 | 10 | 0.1 (direction) |" in text
    assert "| lazy | 200 | 10 | 2 (update) |" in text
    assert PARAMETERS.sha256 in text


def test_there_are_variants_enough() -> None:
    kinds = [path.parent.name for path in find()]
    assert kinds.count(HONEST) >= 12
    assert kinds.count(CONTROLS) >= 16
    with pytest.raises(CalibrationError, match="there is no variant nonsense"):
        find("nonsense")


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["--draws", "0"], ["--out", "/nowhere/x"], ["--hparams", "/nowhere"]]
)
def test_wrong_usage_is_one_sentence_before_anything_runs(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrate.main(arguments) == calibrate.UNUSABLE
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("calibrate: ")
    assert said.err.count("\n") == 1


@pytest.mark.slow
def test_a_few_variants_through_the_real_evaluation() -> None:
    wanted = find("fused_attention", "own_adamw", "skip_last_update", "freeze_one_norm", "learning_rate_down")
    rows = calibrate.calibrate(process_provider(), PARAMETERS, wanted, draws=1, report=print)
    assert [row.name for row in rows] == [path.stem for path in wanted]
    for row in rows:
        assert row.is_right, row
    excess = {row.name: {name: row.distances[name] / row.thresholds[name] for name in row.distances} for row in rows}
    for control, check in (("freeze_one_norm", "tensors"), ("skip_last_update", "direction")):
        # Both are told by the moments and, without them, by the check of the parameters that is there for it.
        assert excess[control].pop("momentum") >= calibrate.LEAST_EXCESS
        assert max(excess[control], key=lambda name: excess[control][name]) == check
        assert excess[control][check] >= calibrate.LEAST_EXCESS
