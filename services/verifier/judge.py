"""Compares a candidate's evidence with the reference's, in plain numpy. It never runs or imports a submission.

The candidate's arrays are hostile input; the reference's are ours, so a broken reference is poison, never a verdict.
All sums are in float64. NaN and infinity never pass: whatever is not finite fails its check.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared import hparams
from shared.events import Check
from shared.evidence import Evidence, Float32, Float64
from shared.faults import Failure, PoisonMessage

LEAST_UPDATE = 0.1
"""A tensor that hardly moved is measured by this share of the mean movement: honest noise there is not large in it."""
LEAST_MOMENT = 0.001
"""The same for gradients, which differ from tensor to tensor far more than AdamW's steps."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdict on one run. `failure` is None when it passed."""

    failure: Failure | None
    detail: str
    """One sentence."""
    checks: tuple[Check, ...]
    """Every distance with its threshold; empty when the evidence has no form that could be measured."""


def judge(candidate: Evidence, reference: Evidence, *, tokens: int, expected: hparams.Hparams) -> Judgement:
    """Judge one run.

    Args:
        candidate: of the run; its contents may be anything.
        reference: of the trusted loop, on the same data under the same nonce.
        tokens: how many the controller handed out.
        expected: the competition's numbers.

    Raises:
        PoisonMessage: reference or token count are not what this validator's own parts must produce.
    """
    _check_own(reference, tokens, expected)
    malformed = _malformed(candidate, expected)
    if malformed is not None:
        return Judgement(failure=Failure.MALFORMED_OUTPUT, detail=malformed, checks=())
    allowed = expected.verification
    # Hostile numbers may overflow or be NaN on the way; what comes out of it is checked, so no warning is needed.
    with np.errstate(all="ignore"):
        checks = (
            _tokens(candidate.total_tokens, tokens),
            _logits("output_vectors", candidate.logits, reference.logits, allowed.output_tolerance),
            _loss(candidate.final_loss, reference.final_loss, allowed.loss_tolerance),
            _logits("probe_logits", candidate.probe_logits, reference.probe_logits, allowed.probe_tolerance),
            *_training(candidate.sketch, reference, expected),
            _momentum(candidate.moment_sketch, reference.moment_sketch, expected),
        )
    failed = [check for check in checks if not check.passed]
    not_finite = next((check for check in checks if check.value is None and not _finite(candidate, check.name)), None)
    if not checks[0].passed:
        return Judgement(failure=Failure.TOKEN_COUNT_MISMATCH, detail=checks[0].detail, checks=checks)
    if not_finite is not None:
        detail = f"{_SUBJECTS[not_finite.name]}: {not_finite.detail}"
        return Judgement(failure=Failure.NON_FINITE_OUTPUT, detail=detail, checks=checks)
    if failed:
        return Judgement(failure=_FAILURES[failed[0].name], detail=_sentence(failed), checks=checks)
    return Judgement(failure=None, detail=_closest(checks), checks=checks)


_SUBJECTS = {
    "output_vectors": "the output vectors",
    "loss": "the final loss",
    "probe_logits": "the trained model's logits on the secret probe",
    "update": "the trained parameters",
    "tensors": "the update of one tensor",
    "direction": "the last update",
    "momentum": "the first moment of one tensor",
}

_FAILURES = {
    "output_vectors": Failure.OUTPUT_MISMATCH,
    "loss": Failure.OUTPUT_MISMATCH,
    "probe_logits": Failure.TRAINING_MISMATCH,
    "update": Failure.TRAINING_MISMATCH,
    "tensors": Failure.TRAINING_MISMATCH,
    "direction": Failure.TRAINING_MISMATCH,
    "momentum": Failure.TRAINING_MISMATCH,
}
"""In the order of the checks: where outputs and training both fail, the outputs are named."""


def _check_own(reference: Evidence, tokens: int, expected: hparams.Hparams) -> None:
    if tokens != expected.evaluation.tokens:
        raise PoisonMessage(f"the controller handed out {tokens} tokens; the hparams say {expected.evaluation.tokens}")
    if reference.total_tokens != tokens:
        raise PoisonMessage(f"the reference returned {reference.total_tokens} tokens; {tokens} were handed out")
    malformed = _malformed(reference, expected)
    if malformed is not None:
        raise PoisonMessage(f"the reference's evidence is malformed: {malformed}")
    if reference.initial_sketch is None or reference.previous_sketch is None:
        raise PoisonMessage("the reference's evidence lacks the sketches of its initial and previous parameters")
    sketches = (reference.sketch, reference.moment_sketch, reference.initial_sketch, reference.previous_sketch)
    if any(sketch.shape != (expected.sketch_length,) for sketch in sketches):
        raise PoisonMessage(f"the reference's sketches must have {expected.sketch_length} numbers each")


def _malformed(evidence: Evidence, expected: hparams.Hparams) -> str | None:
    """What is wrong with the form of the evidence, or None."""
    evaluation, revealed, vocab = expected.evaluation, expected.evidence, expected.model.vocab_size
    shape = (evaluation.batch_size, evaluation.sequence_length - 1, vocab)
    if evidence.logits_shape != shape:
        return f"final_logits has shape {evidence.logits_shape}; it must be {shape}"
    if evidence.logits_dtype != "float32":
        return f"final_logits is {evidence.logits_dtype}; it must be float32"
    arrays: tuple[tuple[str, npt.NDArray[np.generic], tuple[int, ...], type[np.generic]], ...] = (
        ("picked logits", evidence.logits, (revealed.logit_positions, vocab), np.float32),
        ("probe logits", evidence.probe_logits, (revealed.probe_positions, vocab), np.float32),
        ("sketch", evidence.sketch, (expected.sketch_length,), np.float64),
        ("moments", evidence.moment_sketch, (expected.sketch_length,), np.float64),
    )
    for name, array, wanted, dtype in arrays:
        if array.shape != wanted or array.dtype != dtype:
            return f"the {name} are {array.shape} {array.dtype}; they must be {wanted} {np.dtype(dtype)}"
    return None


def _tokens(returned: int, handed_out: int) -> Check:
    """Exact, in whole numbers; a float appears only in what is reported."""
    value = float(abs(returned - handed_out))
    return Check(
        name="tokens",
        value=value,
        threshold=0.0,
        margin=0.0 - value,
        passed=returned == handed_out,
        detail=f"total_tokens is {returned:,}; {handed_out:,} were handed out",
    )


def _logits(name: str, candidate: Float32, reference: Float32, threshold: float) -> Check:
    """mean|reference - candidate| / mean|reference| over all picked rows."""
    row_distances = np.empty(len(reference))
    total = 0.0
    # Row by row, so that the float64 copies stay in the CPU's cache.
    for row, (right, given) in enumerate(zip(reference, candidate, strict=True)):
        difference = np.subtract(right, given, dtype=np.float64)
        row_distances[row] = np.abs(difference, out=difference).sum()
        total += float(np.abs(right).sum(dtype=np.float64))
    value = _ratio(float(row_distances.sum()), total, of="the reference's logits")
    worst = int(np.argmax(np.nan_to_num(row_distances, nan=math.inf)))
    at = int(np.argmax(np.nan_to_num(np.abs(reference[worst] - candidate[worst]), nan=math.inf)))
    where = f"the largest difference is at picked row {worst} of {len(reference)}, token {at}"
    return _check(name, value, threshold, where)


def _loss(candidate: float, reference: float, threshold: float) -> Check:
    value = _ratio(abs(reference - candidate), abs(reference), of="the reference's loss")
    return _check("loss", value, threshold, f"{candidate:.6g} where the reference has {reference:.6g}")


def _training(sketch: Float64, reference: Evidence, expected: hparams.Hparams) -> tuple[Check, Check, Check]:
    """Distance of the whole update, of the worst tensor's, and along the reference's last one.

    Sketches are linear and keep norms and products in expectation, so differences of sketches stand for differences
    of parameters. Along the last update -1 is a step that is missing, wherever: AdamW's steps point much the same way.
    """
    assert reference.initial_sketch is not None
    assert reference.previous_sketch is not None
    allowed = expected.verification
    error = sketch - reference.sketch
    whole = reference.sketch - reference.initial_sketch
    last = reference.sketch - reference.previous_sketch
    update = _ratio(float(np.linalg.norm(error)), float(np.linalg.norm(whole)), of="the reference's update")
    along = float(error @ last)
    direction = _ratio(abs(along), float(last @ last), of="the reference's last update")
    relation = "less" if along < 0 else "more"
    name, tensor, taken, spread = _worst_tensor(error, whole, expected.sketched_tensors, least=LEAST_UPDATE)
    where = name if taken is None else f"{name} went {_percent(taken)} of its way; {spread}"
    return (
        _check("update", update, allowed.update_tolerance, f"the tensor that is farthest off is {name}"),
        _check("tensors", tensor, allowed.tensor_tolerance, where),
        _check("direction", direction, allowed.direction_tolerance, f"{relation} of it than the reference took"),
    )


def _momentum(sketch: Float64, reference: Float64, expected: hparams.Hparams) -> Check:
    """Distance of the worst tensor's first moment, relative to the reference's.

    The moment is a sum of gradients, mostly of the last ten. In the parameters AdamW scales rounding up to the size of
    a step, so there a gradient that was left out, repeated or taken of half a batch shortly before the end drowns in
    what honest runs differ by: docs/adr/0011 has the figures.
    """
    _require_size(float(np.linalg.norm(reference)), of="the reference's first moments")
    error = sketch - reference
    name, distance, taken, spread = _worst_tensor(error, reference, expected.sketched_tensors, least=LEAST_MOMENT)
    where = name if taken is None else f"{name} has {_percent(taken)} of it; {spread}"
    return _check("momentum", distance, expected.verification.momentum_tolerance, where)


def _worst_tensor(
    error: Float64, whole: Float64, tensors: tuple[hparams.SketchedTensor, ...], *, least: float
) -> tuple[str, float, float | None, str]:
    """The tensor that is farthest off, relative to its own part of the whole, or to `least` of the mean part.

    Returns its name, its distance, the share of its part that is there (None when that is not finite), and a phrase
    about the others.
    """
    starts = np.cumsum([0, *(tensor.length for tensor in tensors[:-1])])
    elements = np.array([tensor.elements for tensor in tensors], dtype=np.float64)
    moved = np.add.reduceat(whole**2, starts)
    size = np.sqrt(np.maximum(moved, least**2 * elements * (moved.sum() / elements.sum())))
    distances = np.sqrt(np.add.reduceat(error**2, starts)) / size
    order = np.nan_to_num(distances, nan=math.inf)
    worst = int(np.argmax(order))
    part = slice(starts[worst], starts[worst] + tensors[worst].length)
    taken = 1.0 + float(error[part] @ whole[part]) / float(size[worst] ** 2)
    middle = float(np.median(order))
    name = tensors[worst].name
    spread = f"half of the {len(tensors)} tensors are within {_percent(middle)}"
    return name, float(distances[worst]), taken if math.isfinite(taken + middle) else None, spread


def _ratio(distance: float, size: float, *, of: str) -> float:
    _require_size(size, of=of)
    return distance / size


def _require_size(size: float, *, of: str) -> None:
    if not 0.0 < size < math.inf:
        raise PoisonMessage(f"{of} has size {size}: nothing can be compared with it")


def _check(name: str, value: float, threshold: float, detail: str) -> Check:
    if not math.isfinite(value):
        return Check(
            name=name, value=None, threshold=threshold, margin=None, passed=False, detail=f"NaN or infinity; {detail}"
        )
    margin = threshold - value
    return Check(name=name, value=value, threshold=threshold, margin=margin, passed=value <= threshold, detail=detail)


def _finite(candidate: Evidence, name: str) -> bool:
    """Whether what the submission gave for a check is finite: a distance can overflow although it is."""
    match name:
        case "output_vectors":
            return bool(np.isfinite(candidate.logits).all())
        case "loss":
            return math.isfinite(candidate.final_loss)
        case "probe_logits":
            return bool(np.isfinite(candidate.probe_logits).all())
        case "momentum":
            return bool(np.isfinite(candidate.moment_sketch).all())
        case _:
            return bool(np.isfinite(candidate.sketch).all())


def _sentence(failed: list[Check]) -> str:
    """The first failed check in full, the names of the others."""
    first = failed[0]
    verb = "differs" if _SUBJECTS[first.name].endswith(("loss", "update", "one tensor")) else "differ"
    measured = "beyond any number" if first.value is None else f"by {_percent(first.value)}"
    text = f"{_SUBJECTS[first.name]} {verb} {measured}, allowed {_percent(first.threshold)}; {first.detail}"
    others = [_SUBJECTS[check.name] for check in failed[1:]]
    return f"{text}; also out of tolerance: {', '.join(others)}" if others else text


def _closest(checks: tuple[Check, ...]) -> str:
    """A pass, and which limit was nearest."""
    used = {check.name: check.value / check.threshold for check in checks if check.value and check.threshold}
    if not used:
        return "every check passed, equal to the reference"
    name = max(used, key=lambda key: used[key])
    return f"every check passed; nearest to its limit: {_SUBJECTS[name]}, with {_percent(used[name])} of it used"


def _percent(fraction: float) -> str:
    return f"{round(100 * fraction, 6) + 0.0:.3g} %"
