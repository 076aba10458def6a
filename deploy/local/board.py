"""What the demo shows: live progress on stderr, the outcome on stdout. It decides nothing."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

REFRESHES_PER_SECOND = 8
SETTLED = ("finished", "failed_validation", "error")


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown of a submission, as the services answer."""

    submission_id: str
    status: str
    final_score: float | None = None
    error_message: str | None = None


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """One run of it."""

    tokens_per_second: float
    success: bool | None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the leaderboard."""

    rank: int
    submission_id: str
    miner_hotkey: str
    final_score: float
    num_evaluations: int


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """The newest weights."""

    hotkey: str | None
    weight: float
    leader_submission_id: str | None
    outcome: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How it ended."""

    rows: list[Row]
    weights: Weights


@dataclass(kw_only=True)
class Entry:
    """One file on its way."""

    file: str
    hotkey: str
    runs: int
    """How many must pass."""
    submission: Submission | None = None
    evaluations: list[Evaluation] = field(default_factory=list)

    @property
    def submission_id(self) -> str:
        return "" if self.submission is None else self.submission.submission_id

    @property
    def settled(self) -> bool:
        return self.submission is not None and self.submission.status in SETTLED


class Board:
    """A live table on a terminal; elsewhere one line for each change."""

    def __init__(self, console: Console, entries: list[Entry], live: Live | None) -> None:
        self._console = console
        self._entries = entries
        self._live = live
        self._began = time.monotonic()
        self._said: dict[str, str] = {}

    def say(self, line: str) -> None:
        """One line about the whole."""
        self._console.print(Text(f"{self._clock()}  {line}"), soft_wrap=True)

    def refresh(self) -> None:
        """Show the entries as they are now."""
        if self._live is not None:
            self._live.update(_table(self._entries))
            return
        for entry in self._entries:
            state = _state(entry)
            if entry.submission is not None and self._said.get(entry.file) != state:
                self._said[entry.file] = state
                self.say(f"{entry.file}: {state}")

    def _clock(self) -> str:
        seconds = int(time.monotonic() - self._began)
        return f"{seconds // 60}:{seconds % 60:02}"


@contextlib.contextmanager
def shown(entries: list[Entry]) -> Iterator[Board]:
    """A board on stderr, until the block is left."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield Board(console, entries, None)
        return
    with Live(_table(entries), console=console, refresh_per_second=REFRESHES_PER_SECOND) as live:
        yield Board(console, entries, live)


def print_outcome(outcome: Outcome, entries: list[Entry], *, elapsed_seconds: float) -> None:
    """The leaderboard, who was rejected and why, and the weights, on stdout."""
    console = Console(highlight=False)
    files = {entry.submission_id: entry.file for entry in entries}
    table = Table("rank", "file", "miner", "tokens per second", "runs", title="Leaderboard", title_justify="left")
    for name in ("rank", "tokens per second", "runs"):
        next(column for column in table.columns if column.header == name).justify = "right"
    for row in outcome.rows:
        table.add_row(
            str(row.rank),
            files.get(row.submission_id, row.submission_id),
            _short(row.miner_hotkey),
            f"{row.final_score:,.0f}",
            str(row.num_evaluations),
        )
    console.print(table)
    for entry in entries:
        if entry.submission is not None and entry.submission.error_message is not None:
            console.print(
                Text(f"{entry.file} was rejected: {entry.submission.error_message}", style="red"), soft_wrap=True
            )
    weights = outcome.weights
    receiver = "nobody" if weights.hotkey is None else _short(weights.hotkey)
    console.print(
        Text(f"weights: {weights.weight:g} to {receiver} ({weights.outcome}: {weights.detail})"), soft_wrap=True
    )
    console.print(Text(f"took {elapsed_seconds:.0f} s; nothing is left running"), soft_wrap=True)


def print_failure(failure: str, *, logs: Path) -> None:
    """Why it did not end as it must."""
    Console(stderr=True, highlight=False).print(Text(f"demo: {failure}; the logs are in {logs}", style="bold red"))


def print_data_dir(data_dir: Path) -> None:
    """The last line."""
    Console(highlight=False).print(Text(f"data directory: {data_dir}"), soft_wrap=True)


def _table(entries: list[Entry]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for entry in entries:
        waits = entry.submission is not None and not entry.settled
        mark: RenderableType = Spinner("dots") if waits else Text(_MARKS.get(_status(entry), " "))
        table.add_row(mark, Text(entry.file, style="bold"), Text(_state(entry), style=_STYLES.get(_status(entry), "")))
    return Group(Text(), table)


_MARKS = {"finished": "✓", "failed_validation": "✗", "error": "!"}
_STYLES = {"finished": "green", "failed_validation": "red", "error": "yellow", "evaluating": "cyan"}


def _status(entry: Entry) -> str:
    return "" if entry.submission is None else entry.submission.status


def _state(entry: Entry) -> str:
    """Where it stands, in words."""
    submission, done = entry.submission, len(entry.evaluations)
    measured = ", ".join(f"{run.tokens_per_second:,.0f}" for run in entry.evaluations)
    match _status(entry):
        case "":
            return "not submitted yet"
        case "pending":
            return "submitted, waits for the evaluator"
        case "evaluating":
            return f"run {min(done + 1, entry.runs)} of {entry.runs}" + (f", so far {measured}" if measured else "")
        case "validating":
            return f"measured: {measured}; being judged"
        case "finished":
            assert submission is not None
            return f"passed, {submission.final_score or 0.0:,.0f} tokens per second on average of {measured}"
        case _:
            assert submission is not None
            return f"{submission.status}: {submission.error_message}"


def _short(address: str) -> str:
    return f"{address[:6]}…{address[-4:]}"
