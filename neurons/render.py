"""What a miner reads: progress on stderr, the verdict on stdout. It decides nothing."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from neurons.local import Run, Verdict
from neurons.submitting import Ended
from neurons.validator_client import Row, Submission
from shared.events import Phases

WIDE = 250


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Shows what happens: a live line on a terminal, one plain line for each step otherwise."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda line: console.print(Text(line), soft_wrap=True)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console) as live:

        def finish() -> None:
            for task in live.task_ids:
                live.update(task, total=1, completed=1)

        def report(line: str) -> None:
            finish()
            live.add_task(line, total=None)

        yield report
        finish()


def line(text: str) -> None:
    """One step that is done."""
    Console(stderr=True, highlight=False).print(Text(text), soft_wrap=True)


def ended(found: Ended) -> None:
    """Print to stdout where a submission stands."""
    console = Console(highlight=False)
    if found.verdict == "passed":
        rank = "not ranked" if found.rank is None else f"rank {found.rank}"
        console.print(Text(f"PASSED  {found.tps:,.0f} tokens per second, {rank}", style="bold green"), soft_wrap=True)
    elif found.verdict == "failed":
        console.print(Text(f"FAILED  {found.reason or 'disqualified'}", style="bold red"), soft_wrap=True)
    else:
        console.print(Text(found.status.upper(), style="bold"), soft_wrap=True)
    console.print(Text(found.detail), soft_wrap=True)
    console.print(Text(f"submission {found.submission_id} of {found.miner_hotkey}: {found.status_url}"), soft_wrap=True)


def submissions(found: Sequence[Submission]) -> None:
    """Print one hotkey's submissions to stdout."""
    table = Table("submission", "created", "status", "tokens/s", "code", "")
    for one in found:
        table.add_row(
            one.submission_id,
            one.created_at[:19],
            one.status,
            "" if one.final_score is None else f"{one.final_score:,.0f}",
            one.code_hash[7:19],
            Text(one.error_message or ""),
        )
    _print_whole(table if found else "no submissions")


def leaderboard(rows: Sequence[Row]) -> None:
    """Print the ranked submissions to stdout."""
    table = Table("rank", "tokens/s", "hotkey", "uid", "submission", "created")
    for row in rows:
        table.add_row(
            str(row.rank),
            f"{row.final_score:,.0f}",
            row.miner_hotkey,
            "" if row.miner_uid is None else str(row.miner_uid),
            row.submission_id,
            row.created_at[:19],
        )
    _print_whole(table if rows else "nobody is ranked yet")


def _print_whole(shown: Table | str) -> None:
    """Ids are there to be copied: nothing is cut off, and a pipe has no width."""
    console = Console(highlight=False, markup=False, emoji=False)
    if isinstance(shown, Table):
        for column in shown.columns:
            column.overflow = "fold"
    if not console.is_terminal:
        console.width = WIDE
    console.print(shown)


def verdict(found: Verdict) -> None:
    """Print the whole verdict to stdout."""
    console = Console(highlight=False)
    for run in found.runs:
        _print_run(console, run)
    passed = found.verdict == "passed"
    headline = f"PASSED  {found.tps:,.0f} tokens per second on average" if passed else f"FAILED  {found.reason}"
    console.print(Text(headline, style="bold green" if passed else "bold red"), soft_wrap=True)
    console.print(Text(found.detail), soft_wrap=True)
    if found.machine is not None:
        where = f"{found.machine.accelerator}, {found.machine.sandbox} sandbox ({found.machine.image})"
        console.print(Text(f"measured under hparams {found.hparams} on {where}"), soft_wrap=True)


def _print_run(console: Console, run: Run) -> None:
    title = f"run {run.run_index + 1}: " + (f"{run.tps:,.0f} tokens per second" if run.tps else "not measured")
    console.print(Text(title, style="bold"))
    console.print(Text(f"  {_phases(run.phases)}"), soft_wrap=True)
    if run.checks:
        console.print(_checks(run))
    if run.failure is not None and run.log_tail.strip():
        console.print(Text("last lines that it printed:", style="bold"))
        console.print(Text(run.log_tail.rstrip("\n")), soft_wrap=True)


def _phases(phases: Phases) -> str:
    """Where the time went, as far as the run came; only training and evidence count."""
    named = {
        "start": phases.start_ns,
        "import and warm-up": phases.prepare_ns,
        "training (timed)": phases.train_ns,
        "evidence (timed)": phases.evidence_ns,
    }
    return ", ".join(f"{name} {took_ns / 1e9:.2f} s" for name, took_ns in named.items() if took_ns)


def _checks(run: Run) -> Table:
    table = Table("check", "value", "threshold", "margin", "")
    for column in table.columns[1:4]:
        column.justify = "right"
    for check in run.checks:
        table.add_row(
            check.name,
            "not finite" if check.value is None else f"{check.value:.3g}",
            f"{check.threshold:.3g}",
            "" if check.margin is None else f"{check.margin:+.3g}",
            Text("passed", style="green") if check.passed else Text("failed", style="red"),
        )
    return table
