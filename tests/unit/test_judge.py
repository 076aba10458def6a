"""The judge: every honest deviation passes, every wrong one fails with its own code, and no number slips through."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.verifier.judge import Judgement, judge
from shared.events import Check
from shared.evidence import Evidence
from shared.faults import Failure, PoisonMessage
from tests.support.evidence import EXPECTED, INITIAL, LAST_STEP, PREVIOUS, RANDOM, REFERENCE, TOKENS, altered

LENGTH = EXPECTED.sketch_length
MOMENTS = REFERENCE.moment_sketch
ALL = ("tokens", "output_vectors", "loss", "probe_logits", "update", "tensors", "direction", "momentum")


def judged(candidate: Evidence, reference: Evidence = REFERENCE, *, tokens: int = TOKENS) -> Judgement:
    return judge(candidate, reference, tokens=tokens, expected=EXPECTED)


def of(judgement: Judgement, name: str) -> Check:
    return next(check for check in judgement.checks if check.name == name)


def with_value(array: np.ndarray[Any, Any], place: tuple[int, ...], value: float) -> np.ndarray[Any, Any]:
    copy = array.copy()
    copy[place] = value
    return copy


def test_the_reference_passes_against_itself() -> None:
    judgement = judged(altered(initial_sketch=None, previous_sketch=None))
    assert judgement.failure is None
    assert judgement.detail == "every check passed, equal to the reference"
    assert tuple(check.name for check in judgement.checks) == ALL
    assert [check.value for check in judgement.checks] == [0.0] * len(ALL)
    assert all(check.margin == check.threshold for check in judgement.checks)


def test_a_small_deviation_passes_and_says_which_limit_is_nearest() -> None:
    judgement = judged(altered(logits=REFERENCE.logits * np.float32(1.005), final_loss=4.001))
    assert judgement.failure is None
    assert of(judgement, "output_vectors").value == pytest.approx(0.005, rel=1e-3)
    assert of(judgement, "output_vectors").margin == pytest.approx(0.005, rel=1e-3)
    assert judgement.detail == "every check passed; nearest to its limit: the output vectors, with 50 % of it used"


WRONG: list[tuple[str, dict[str, Any], Failure, tuple[str, ...]]] = [
    ("outputs too far", {"logits": REFERENCE.logits * np.float32(1.02)}, Failure.OUTPUT_MISMATCH, ("output_vectors",)),
    ("a loss too far", {"final_loss": 4.1}, Failure.OUTPUT_MISMATCH, ("loss",)),
    (
        "another model than was trained",
        {"probe_logits": REFERENCE.probe_logits * np.float32(0.98)},
        Failure.TRAINING_MISMATCH,
        ("probe_logits",),
    ),
    ("never trained", {"sketch": INITIAL}, Failure.TRAINING_MISMATCH, ("update", "tensors", "direction")),
    ("the last step skipped", {"sketch": PREVIOUS}, Failure.TRAINING_MISMATCH, ("update", "tensors", "direction")),
    (
        "the last step taken twice",
        {"sketch": PREVIOUS + 2 * LAST_STEP},
        Failure.TRAINING_MISMATCH,
        ("update", "tensors", "direction"),
    ),
    ("the last gradient left out", {"moment_sketch": 0.9 * MOMENTS}, Failure.TRAINING_MISMATCH, ("momentum",)),
    ("no moments", {"moment_sketch": np.zeros(LENGTH)}, Failure.TRAINING_MISMATCH, ("momentum",)),
    (
        "outputs and training both wrong",
        {"logits": -REFERENCE.logits, "sketch": INITIAL},
        Failure.OUTPUT_MISMATCH,
        ("output_vectors", "update", "tensors", "direction"),
    ),
    (
        "a loss and training wrong",
        {"final_loss": 5.0, "probe_logits": -REFERENCE.probe_logits},
        Failure.OUTPUT_MISMATCH,
        ("loss", "probe_logits"),
    ),
    ("a token too few", {"total_tokens": TOKENS - 1}, Failure.TOKEN_COUNT_MISMATCH, ("tokens",)),
    ("a token too many", {"total_tokens": TOKENS + 1}, Failure.TOKEN_COUNT_MISMATCH, ("tokens",)),
    (
        "tokens and outputs wrong",
        {"total_tokens": 0, "logits": -REFERENCE.logits},
        Failure.TOKEN_COUNT_MISMATCH,
        ("tokens", "output_vectors"),
    ),
    ("tokens beyond a float's exactness", {"total_tokens": 2**62}, Failure.TOKEN_COUNT_MISMATCH, ("tokens",)),
]


@pytest.mark.parametrize(("why", "changes", "failure", "failed"), WRONG, ids=[row[0] for row in WRONG])
def test_wrong_evidence_fails_with_its_code_and_all_margins(
    why: str, changes: dict[str, Any], failure: Failure, failed: tuple[str, ...]
) -> None:
    judgement = judged(altered(**changes))
    assert judgement.failure is failure, why
    assert tuple(check.name for check in judgement.checks) == ALL, "a miner sees every distance"
    assert tuple(check.name for check in judgement.checks if not check.passed) == failed
    for check in judgement.checks:
        assert check.value is not None
        assert check.margin is not None
        assert (check.margin < 0) == (not check.passed)


def test_a_skipped_last_step_is_the_whole_of_it() -> None:
    assert of(judged(altered(sketch=PREVIOUS)), "direction").value == pytest.approx(1.0)
    assert of(judged(altered(sketch=PREVIOUS)), "direction").detail == "less of it than the reference took"
    assert of(judged(altered(sketch=PREVIOUS + 2 * LAST_STEP)), "direction").value == pytest.approx(1.0)
    assert of(judged(altered(sketch=INITIAL)), "update").value == pytest.approx(1.0)


def test_a_failure_is_told_in_one_sentence() -> None:
    logits = with_value(REFERENCE.logits, (3, 17), 50.0)
    judgement = judged(altered(logits=logits, sketch=PREVIOUS))
    value = of(judgement, "output_vectors").value
    assert value is not None
    assert judgement.detail == (
        f"the output vectors differ by {100 * value:.3g} %, allowed 1 %; "
        "the largest difference is at picked row 3 of 6, token 17; also out of tolerance: "
        "the trained parameters, the update of one tensor, the last update"
    )


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"final_loss": 4.4}, "the final loss differs by 10 %, allowed 1 %; 4.4 where the reference has 4"),
        (
            {"sketch": PREVIOUS + 0.88 * LAST_STEP},
            "the last update differs by 12 %, allowed 10 %; less of it than the reference took",
        ),
        (
            {"sketch": PREVIOUS + 1.12 * LAST_STEP},
            "the last update differs by 12 %, allowed 10 %; more of it than the reference took",
        ),
        ({"total_tokens": 5_120}, "total_tokens is 5,120; 10,240 were handed out"),
        ({"logits_dtype": "bfloat16"}, "final_logits is bfloat16; it must be float32"),
        ({"logits_shape": (2, 256, 32)}, "final_logits has shape (2, 256, 32); it must be (2, 255, 32)"),
    ],
)
def test_details(changes: dict[str, Any], detail: str) -> None:
    assert judged(altered(**changes)).detail == detail


@pytest.mark.parametrize(
    "changes",
    [
        {"logits_shape": (1, 255, 32)},
        {"logits_shape": (2, 255, 32, 1)},
        {"logits_shape": ()},
        {"logits_dtype": "other"},
        {"logits": REFERENCE.logits[:5]},
        {"logits": REFERENCE.logits.astype(np.float64)},
        {"logits": np.zeros((0, 32), dtype=np.float32)},
        {"probe_logits": REFERENCE.probe_logits.ravel()},
        {"sketch": REFERENCE.sketch[:-1]},
        {"sketch": REFERENCE.sketch.astype(np.float32)},
        {"sketch": REFERENCE.sketch.astype(np.complex128)},
        {"moment_sketch": MOMENTS[:-1]},
        {"moment_sketch": MOMENTS.astype(np.float32)},
    ],
)
def test_wrong_form_comes_before_all_else(changes: dict[str, Any]) -> None:
    judgement = judged(altered(total_tokens=0, final_loss=math.nan, **changes))
    assert judgement.failure is Failure.MALFORMED_OUTPUT
    assert judgement.checks == ()


TENSORS = EXPECTED.sketched_tensors


@pytest.mark.parametrize("frozen", range(len(TENSORS)), ids=[tensor.name for tensor in TENSORS])
def test_a_tensor_that_was_not_trained_is_named(frozen: int) -> None:
    start = sum(tensor.length for tensor in TENSORS[:frozen])
    sketch = REFERENCE.sketch.copy()
    sketch[start : start + TENSORS[frozen].length] = INITIAL[start : start + TENSORS[frozen].length]
    judgement = judged(altered(sketch=sketch))
    assert judgement.failure is Failure.TRAINING_MISMATCH
    assert of(judgement, "tensors").value == pytest.approx(1.0)
    assert of(judgement, "tensors").detail == (
        f"{TENSORS[frozen].name} went 0 % of its way; half of the 11 tensors are within 0 %"
    )
    assert of(judgement, "update").detail == f"the tensor that is farthest off is {TENSORS[frozen].name}"
    assert TENSORS[frozen].name in judgement.detail


def test_a_tensor_nearly_right_is_told_from_a_wrong_one() -> None:
    sketch = REFERENCE.sketch.copy()
    sketch[-TENSORS[-1].length :] -= 0.05 * (REFERENCE.sketch - INITIAL)[-TENSORS[-1].length :]
    judgement = judged(altered(sketch=sketch))
    assert [check.name for check in judgement.checks if not check.passed] == ["tensors"]
    assert judgement.detail == (
        "the update of one tensor differs by 5 %, allowed 4 %; "
        "norm.weight went 95 % of its way; half of the 11 tensors are within 0 %"
    )


@pytest.mark.parametrize("stale", range(len(TENSORS)), ids=[tensor.name for tensor in TENSORS])
def test_a_tensor_without_its_last_gradient_is_named(stale: int) -> None:
    start = sum(tensor.length for tensor in TENSORS[:stale])
    moments = MOMENTS.copy()
    moments[start : start + TENSORS[stale].length] *= 0.9
    judgement = judged(altered(moment_sketch=moments))
    assert judgement.failure is Failure.TRAINING_MISMATCH
    assert judgement.detail == (
        "the first moment of one tensor differs by 10 %, allowed 1.4 %; "
        f"{TENSORS[stale].name} has 90 % of it; half of the 11 tensors are within 0 %"
    )


def test_gradients_a_hundred_times_smaller_are_still_compared() -> None:
    part = slice(LENGTH - TENSORS[-1].length, LENGTH)
    small = MOMENTS.copy()
    small[part] *= 0.01
    stale = small.copy()
    stale[part] *= 0.9
    judgement = judged(altered(moment_sketch=stale), altered(moment_sketch=small))
    assert of(judgement, "momentum").value == pytest.approx(0.1)


def test_moments_that_are_zero_are_compared_with_the_others() -> None:
    part = slice(LENGTH - TENSORS[-1].length, LENGTH)
    none = MOMENTS.copy()
    none[part] = 0.0
    assert judged(altered(moment_sketch=none), altered(moment_sketch=none)).failure is None
    assert judged(REFERENCE, altered(moment_sketch=none)).failure is Failure.TRAINING_MISMATCH


def test_noise_in_a_tensor_that_hardly_moved_weighs_little() -> None:
    part = slice(LENGTH - TENSORS[-1].length, LENGTH)
    still = REFERENCE.sketch.copy()
    still[part] = INITIAL[part]
    reference = altered(sketch=still)
    noisy = still.copy()
    noisy[part] += 1e-4
    checks = judged(altered(sketch=noisy), reference).checks
    assert all(check.passed for check in checks), checks


NOT_FINITE: list[tuple[str, dict[str, Any]]] = [
    (name, changes)
    for value in (math.nan, math.inf, -math.inf)
    for name, changes in (
        ("output_vectors", {"logits": with_value(REFERENCE.logits, (2, 5), value)}),
        ("output_vectors", {"logits": np.full_like(REFERENCE.logits, value)}),
        ("loss", {"final_loss": value}),
        ("probe_logits", {"probe_logits": with_value(REFERENCE.probe_logits, (1, 7), value)}),
        ("update", {"sketch": with_value(REFERENCE.sketch, (9,), value)}),
        ("momentum", {"moment_sketch": with_value(MOMENTS, (9,), value)}),
    )
]


@pytest.mark.parametrize(("name", "changes"), NOT_FINITE)
def test_what_is_not_finite_never_passes(name: str, changes: dict[str, Any]) -> None:
    judgement = judged(altered(**changes))
    assert judgement.failure is Failure.NON_FINITE_OUTPUT
    check = of(judgement, name)
    assert (check.value, check.margin, check.passed) == (None, None, False)
    assert "NaN or infinity" in judgement.detail
    assert of(judgement, "tokens").passed, "what can be measured is"


def test_where_the_nan_is() -> None:
    judgement = judged(altered(logits=with_value(REFERENCE.logits, (2, 5), math.nan)))
    assert judgement.detail == (
        "the output vectors: NaN or infinity; the largest difference is at picked row 2 of 6, token 5"
    )


def test_a_wrong_token_count_is_named_even_beside_nan() -> None:
    judgement = judged(altered(total_tokens=1, final_loss=math.nan))
    assert judgement.failure is Failure.TOKEN_COUNT_MISMATCH
    assert not of(judgement, "loss").passed


def test_finite_numbers_whose_distance_overflows_fail_as_a_mismatch() -> None:
    judgement = judged(altered(sketch=np.full(LENGTH, 1e200)))
    assert judgement.failure is Failure.TRAINING_MISMATCH
    assert of(judgement, "update").value is None
    assert "differ beyond any number, allowed 1.5 %" in judgement.detail
    assert judged(altered(final_loss=-1.7e308)).failure is Failure.OUTPUT_MISMATCH


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"logits": np.zeros_like(REFERENCE.logits)}, "the reference's logits has size 0"),
        ({"probe_logits": np.zeros_like(REFERENCE.probe_logits)}, "the reference's logits has size 0"),
        ({"final_loss": 0.0}, "the reference's loss has size 0"),
        ({"sketch": INITIAL, "previous_sketch": PREVIOUS}, "the reference's update has size 0"),
        ({"previous_sketch": REFERENCE.sketch}, "the reference's last update has size 0"),
        ({"logits": with_value(REFERENCE.logits, (0, 0), math.nan)}, "the reference's logits has size nan"),
        ({"probe_logits": with_value(REFERENCE.probe_logits, (0, 0), math.inf)}, "has size inf"),
        ({"final_loss": math.nan}, "the reference's loss has size nan"),
        ({"sketch": with_value(REFERENCE.sketch, (0,), math.nan)}, "update has size nan"),
        ({"initial_sketch": with_value(INITIAL, (0,), math.inf)}, "update has size inf"),
        ({"previous_sketch": with_value(PREVIOUS, (0,), math.nan)}, "last update has size nan"),
        ({"moment_sketch": np.zeros(LENGTH)}, "first moments has size 0"),
        ({"moment_sketch": with_value(MOMENTS, (0,), math.nan)}, "first moments has size nan"),
        ({"moment_sketch": MOMENTS[:-1]}, "the reference's evidence is malformed: the moments are"),
        ({"initial_sketch": None}, "lacks the sketches"),
        ({"previous_sketch": None}, "lacks the sketches"),
        ({"initial_sketch": INITIAL[:-1]}, "must have"),
        ({"total_tokens": TOKENS - 1}, "the reference returned 10239 tokens"),
        ({"logits": REFERENCE.logits[:2]}, "the reference's evidence is malformed"),
        ({"logits_dtype": "float16"}, "the reference's evidence is malformed"),
    ],
)
@pytest.mark.parametrize("candidate", ["equal", "honest"])
def test_a_broken_reference_is_our_own_fault(candidate: str, changes: dict[str, Any], why: str) -> None:
    broken = altered(**changes)
    with pytest.raises(PoisonMessage, match=why):
        judged(broken if candidate == "equal" else REFERENCE, broken)


def test_a_wrong_number_of_tokens_handed_out_is_our_own_fault() -> None:
    with pytest.raises(PoisonMessage, match="the controller handed out 1 tokens; the hparams say 10240"):
        judged(REFERENCE, tokens=1)


FLOATS = st.floats(width=32)


@given(
    loss=st.floats(),
    logit=FLOATS,
    probe=FLOATS,
    sketch=st.floats(),
    moment=st.floats(),
    tokens=st.integers(-(2**63), 2**63 - 1) | st.just(TOKENS),
)
@example(
    loss=4.0,
    logit=float(REFERENCE.logits[0, 0]),
    probe=math.nan,
    sketch=float(REFERENCE.sketch[0]),
    moment=float(MOMENTS[0]),
    tokens=TOKENS,
)
def test_whatever_comes_passes_only_within_every_threshold(
    *, loss: float, logit: float, probe: float, sketch: float, moment: float, tokens: int
) -> None:
    judgement = judged(
        altered(
            total_tokens=tokens,
            final_loss=loss,
            logits=with_value(REFERENCE.logits, (0, 0), logit),
            probe_logits=with_value(REFERENCE.probe_logits, (0, 0), probe),
            sketch=with_value(REFERENCE.sketch, (0,), sketch),
            moment_sketch=with_value(MOMENTS, (0,), moment),
        )
    )
    within = [check.value is not None and check.value <= check.threshold for check in judgement.checks]
    assert (judgement.failure is None) == all(within)
    assert [check.passed for check in judgement.checks] == within
    assert judgement.detail


def test_the_formula_is_the_one_that_was_published() -> None:
    noise = RANDOM.normal(size=REFERENCE.logits.shape).astype(np.float32)
    judgement = judged(altered(logits=REFERENCE.logits + noise, sketch=REFERENCE.sketch + 0.01))
    right, given_logits = REFERENCE.logits.astype(np.float64), (REFERENCE.logits + noise).astype(np.float64)
    error, last = np.full(LENGTH, 0.01), REFERENCE.sketch - PREVIOUS
    assert of(judgement, "output_vectors").value == pytest.approx(
        np.abs(right - given_logits).mean() / np.abs(right).mean()
    )
    assert of(judgement, "update").value == pytest.approx(
        np.linalg.norm(error) / np.linalg.norm(REFERENCE.sketch - INITIAL)
    )
    assert of(judgement, "direction").value == pytest.approx(abs(error @ last) / (last @ last))
