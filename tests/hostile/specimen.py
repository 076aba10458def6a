"""What a specimen says of itself: its outcome, and what it needs. It runs nothing.

A specimen is a real train.py. Its docstring (or, where the file cannot carry one, a file NAME.expect beside it) has
lines `Expected:`, and where needed `Sandbox:`, `Alternatives:` and `Hparams:`. README.md explains each.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from shared import hparams
from shared.faults import Failure
from shared.hparams import Hparams

FOLDER = Path(__file__).with_name("specimens")
PASSED, NO_GAIN = "passed", "no_gain"
OUTCOMES = frozenset({PASSED, NO_GAIN, *Failure})
HEADER_BYTES = 4096

_LINE = re.compile(r"^(Expected|Sandbox|Alternatives|Hparams):[ \t]*(.*?)[ \t]*\r?$", re.MULTILINE)
_KINDS = ("docker", "any")


class SpecimenError(Exception):
    """A specimen does not say what it must. The message names the file and the line to write."""


@dataclass(frozen=True, kw_only=True)
class Specimen:
    """One file of the corpus."""

    path: Path
    expected: str
    alternatives: frozenset[str]
    """Other outcomes that are right too."""
    needs_docker: bool
    """Not safe, or not meant, for a child process."""
    overrides: dict[str, dict[str, Any]]
    """Hparams that differ, by section."""

    @property
    def family(self) -> str:
        return self.path.parent.name

    @property
    def name(self) -> str:
        return f"{self.family}/{self.path.stem}"

    @property
    def allowed(self) -> frozenset[str]:
        return self.alternatives | {self.expected}

    def parameters(self, base: Hparams) -> Hparams:
        """The competition in which this specimen takes part."""
        merged = msgspec.to_builtins(base)
        for section, values in self.overrides.items():
            merged[section] = merged[section] | values if isinstance(values, dict) else values
        return hparams.parse(json.dumps(merged).encode(), origin=str(self.path))


def read(path: Path) -> Specimen:
    """Parse one specimen's lines.

    Raises:
        SpecimenError: a line is missing or has a value that does not exist.
    """
    beside = path.with_suffix(".expect")
    # Bytes that are no text are somebody's specimen too.
    header = (beside if beside.exists() else path).read_bytes()[:HEADER_BYTES].decode("latin-1")
    lines = dict(_LINE.findall(header))
    if "Expected" not in lines:
        raise SpecimenError(f"{path}: write `Expected: CODE` into its docstring, or into {beside.name} beside it")
    alternatives = lines.get("Alternatives", "").partition("(")[0]
    outcomes = [lines["Expected"], *(word.strip() for word in alternatives.split(",") if word.strip())]
    for outcome in outcomes:
        if outcome not in OUTCOMES:
            raise SpecimenError(f"{path}: {outcome!r} is no outcome; choose from {', '.join(sorted(OUTCOMES))}")
    kind = lines.get("Sandbox", "any")
    if kind not in _KINDS:
        raise SpecimenError(f"{path}: Sandbox must be docker, or left out")
    try:
        overrides = json.loads(lines.get("Hparams", "{}"))
    except ValueError as error:
        raise SpecimenError(f"{path}: Hparams must be JSON in one line: {error}") from None
    return Specimen(
        path=path,
        expected=outcomes[0],
        alternatives=frozenset(outcomes[1:]),
        needs_docker=kind == "docker",
        overrides=overrides,
    )


def find(*wanted: str) -> list[Specimen]:
    """Specimens of the named families or files; all of them without a name. Sorted by family and name.

    Raises:
        SpecimenError: a name fits nothing, or a specimen is not as it must be.
    """
    paths = sorted(FOLDER.glob("*/*.py"))
    chosen: set[Path] = set()
    for word in wanted:
        # As `family`, `family/name`, or any path to the file.
        fitting = [
            path
            for path in paths
            if word in (path.parent.name, f"{path.parent.name}/{path.stem}") or Path(word).absolute() == path
        ]
        if not fitting:
            families = ", ".join(sorted({path.parent.name for path in paths}))
            raise SpecimenError(f"{word} is neither a specimen nor a family; families are {families}")
        chosen.update(fitting)
    return [read(path) for path in paths if not wanted or path in chosen]
