"""What pairs of runs say: ratios, variation, and how sure either is. Pure."""

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

RESAMPLES = 2_000
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One run of the bare loop and one in the sandbox, one right after the other, on the same tokens."""

    bare_ns: int
    train_ns: int
    """In the sandbox, from the first byte of the data to the word that the submission has returned."""
    evidence_ns: int
    """From then to the last byte of the evidence."""

    @property
    def sandbox_ns(self) -> int:
        """What is scored."""
        return self.train_ns + self.evidence_ns


Statistic = Callable[[Sequence[Pair]], float]


def speed_ratio(pairs: Sequence[Pair]) -> float:
    """TPS in the sandbox over that of the bare loop: the median of the pairs, so that a slow drift cancels."""
    return statistics.median(pair.bare_ns / pair.sandbox_ns for pair in pairs)


def train_ratio(pairs: Sequence[Pair]) -> float:
    """The same without the evidence: what it still lacks is lost to the container, the runner and the way there."""
    return statistics.median(pair.bare_ns / pair.train_ns for pair in pairs)


def evidence_share(pairs: Sequence[Pair]) -> float:
    """How much of the scored time the evidence takes."""
    return statistics.median(pair.evidence_ns / pair.sandbox_ns for pair in pairs)


def bare_variation(pairs: Sequence[Pair]) -> float:
    """Coefficient of variation of the bare loop's TPS."""
    return _variation([1 / pair.bare_ns for pair in pairs])


def sandbox_variation(pairs: Sequence[Pair]) -> float:
    """Coefficient of variation of the TPS in the sandbox."""
    return _variation([1 / pair.sandbox_ns for pair in pairs])


def variation_ratio(pairs: Sequence[Pair]) -> float:
    """That in the sandbox over that of the bare loop."""
    bare, sandbox = bare_variation(pairs), sandbox_variation(pairs)
    if bare == 0.0:
        return 1.0 if sandbox == 0.0 else math.inf
    return sandbox / bare


def _variation(values: Sequence[float]) -> float:
    return statistics.stdev(values) / statistics.mean(values)


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One row of the table."""

    name: str
    statistic: Statistic
    at_least: float | None = None
    at_most: float | None = None

    @property
    def has_target(self) -> bool:
        return self.at_least is not None or self.at_most is not None

    def is_met(self, pairs: Sequence[Pair]) -> bool:
        """Whether the value itself, not its interval, is on the right side of its targets."""
        value = self.statistic(pairs)
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


MEASURES = (
    Measure(name="speed_ratio", statistic=speed_ratio, at_least=0.99),
    Measure(name="train_ratio", statistic=train_ratio),
    Measure(name="evidence_share", statistic=evidence_share),
    Measure(name="bare_variation", statistic=bare_variation),
    Measure(name="sandbox_variation", statistic=sandbox_variation),
    Measure(name="variation_ratio", statistic=variation_ratio, at_most=1.2),
)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A value, and the interval in which 95 % of its kind lie when the pairs are drawn again from those there are."""

    value: float
    low: float
    high: float


def figure(statistic: Statistic, pairs: Sequence[Pair]) -> Figure:
    """The statistic with its bootstrap interval; equal pairs give equal figures."""
    draw = random.Random(0)
    values = sorted(statistic(draw.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
    outside = round(RESAMPLES * (1 - CONFIDENCE) / 2)
    return Figure(value=statistic(pairs), low=values[outside], high=values[-1 - outside])
