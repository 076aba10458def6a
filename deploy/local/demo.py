"""`just demo`: a whole tournament, from nothing to its leaderboard, with three real submissions over HTTP.

It knows of the services only what a miner could, by HTTP, and ends with exit code 0 only when the outcome is right.
"""

import argparse
import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import httpx
import msgspec

from deploy.local import board, command
from deploy.local.board import Board, Entry, Evaluation, Outcome, Row, Submission, Weights
from deploy.local.program import free_port
from deploy.local.stack import ROOT, Options, Tournament, tournament
from services.evaluator import providers
from services.evaluator.settings import runtime
from shared import hparams, logs

T = TypeVar("T")
POLL_SECONDS = 0.3
PATIENCE_SECONDS = 900.0
"""Far more than it takes: a slow machine is no failure."""
REQUEST_SECONDS = 30.0
HPARAMS = ROOT / "hparams" / "demo.json"
EXAMPLES = ROOT / "examples"
SUBMISSIONS = (
    ("basic.py", "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"),
    ("faster.py", "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty"),
    ("skips_work.py", "5FLSigC9HGRKVhB9FiEo4Y3koPsNmBmLJbpXg2mp1hXcS59Y"),
)
"""Each file with the hotkey of a public development account: nobody's money."""
CHEAT = "skips_work.py"


class DemoFailed(Exception):
    """It did not end as it must. The message says what was seen."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 when two submissions are ranked and the cheat is rejected, 1 when not, 2 for a fault
    that a person can mend.
    """
    flags = _parser().parse_args(arguments)
    logs.configure("demo", level="WARNING")
    return command.run("demo", _demo(flags))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="just demo", description="A whole tournament on this machine, in two minutes."
    )
    parser.add_argument(
        "--sandbox", choices=("docker", "process"), default=os.environ.get("TOURNAMENT_SANDBOX", "auto")
    )
    parser.add_argument("--hparams", type=Path, metavar="FILE", default=HPARAMS)
    return parser


async def _demo(flags: argparse.Namespace) -> int:
    began = time.monotonic()
    parameters = hparams.load(flags.hparams)
    entries = [Entry(file=file, hotkey=hotkey, runs=parameters.evaluation.runs) for file, hotkey in SUBMISSIONS]
    provider, sentence = providers.choose(flags.sandbox, runtime(os.environ))
    options = _options(flags.hparams, provider.kind)
    try:
        with board.shown(entries) as shown:
            shown.say(sentence)
            async with tournament(options, shown.say) as place:
                shown.say(f"the API answers at {place.api_url} (documentation: {place.api_url}/docs)")
                outcome = await _play(place, entries, shown)
        board.print_outcome(outcome, entries, elapsed_seconds=time.monotonic() - began)
        _check(outcome, entries)
    except DemoFailed as error:
        board.print_failure(str(error), logs=options.data_dir / "logs")
        return 1
    finally:
        board.print_data_dir(options.data_dir)
    return 0


def _options(parameters: Path, sandbox: str) -> Options:
    """On free ports, in a directory of its own, so that it disturbs nothing."""
    started = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return command.options(
        os.environ,
        hparams=parameters,
        sandbox=sandbox,
        data_dir=command.default_data_dir(f"demo-{started}"),
        api_port=free_port(),
        ingest_port=free_port(),
    )


async def _play(place: Tournament, entries: list[Entry], shown: Board) -> Outcome:
    """Submit, watch until all are settled, and wait for the weights that follow from it."""
    async with _patience(), httpx.AsyncClient(timeout=REQUEST_SECONDS) as client:
        for entry in entries:
            entry.submission = await _submit(client, place, entry)
            shown.refresh()
        while not all(entry.settled for entry in entries):
            await asyncio.sleep(POLL_SECONDS)
            for entry in entries:
                url = f"{place.api_url}/submissions/{entry.submission_id}"
                entry.submission = await _get(client, url, Submission)
                entry.evaluations = await _get(client, f"{url}/evaluations", list[Evaluation])
            shown.refresh()
        ranked = sum(entry.submission is not None and entry.submission.status == "finished" for entry in entries)
        shown.say("all are judged; waiting for the weights of this interval")
        while True:
            rows = await _get(client, f"{place.api_url}/leaderboard", list[Row])
            recorded = await _get(client, f"{place.api_url}/weights?limit=1", list[Weights])
            leader = rows[0].submission_id if rows else None
            if len(rows) >= ranked and recorded and recorded[0].leader_submission_id == leader:
                return Outcome(rows=rows, weights=recorded[0])
            await asyncio.sleep(POLL_SECONDS)


@contextlib.asynccontextmanager
async def _patience() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            yield
    except TimeoutError:
        raise DemoFailed(f"not all was settled within {PATIENCE_SECONDS:g} s") from None


async def _submit(client: httpx.AsyncClient, place: Tournament, entry: Entry) -> Submission:
    """Sent again for as long as the service is away: the same request is the same submission."""
    source = (EXAMPLES / entry.file).read_bytes()
    while True:
        try:
            answer = await client.post(
                f"{place.ingest_url}/submissions",
                files={"file": (entry.file, source)},
                data={"miner_hotkey": entry.hotkey},
            )
        except httpx.TransportError:
            answer = None
        if answer is not None and answer.is_success:
            return msgspec.json.decode(answer.content, type=Submission)
        if answer is not None and answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            raise DemoFailed(f"{entry.file} was refused: {answer.status_code} {answer.text}")
        await asyncio.sleep(POLL_SECONDS)


async def _get(client: httpx.AsyncClient, url: str, kind: type[T]) -> T:
    """Asked again for as long as the service is away or has not heard of it yet."""
    while True:
        try:
            answer = await client.get(url)
        except httpx.TransportError:
            answer = None
        if answer is not None and answer.is_success:
            return msgspec.json.decode(answer.content, type=kind)
        if answer is not None and answer.status_code not in (httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.NOT_FOUND):
            raise DemoFailed(f"{url} answered {answer.status_code} {answer.text}")
        await asyncio.sleep(POLL_SECONDS)


def _check(outcome: Outcome, entries: list[Entry]) -> None:
    """Raise DemoFailed unless all is as it must be."""
    honest = {entry.submission_id for entry in entries if entry.file != CHEAT}
    ranked = [row.submission_id for row in outcome.rows]
    if sorted(ranked) != sorted(honest):
        raise DemoFailed(f"ranked are {ranked}; it must be {sorted(honest)}")
    scores = [row.final_score for row in outcome.rows]
    if scores != sorted(scores, reverse=True):
        raise DemoFailed(f"the leaderboard is not in the order of its scores: {scores}")
    cheat = next(entry.submission for entry in entries if entry.file == CHEAT)
    if cheat is None or cheat.status != "failed_validation":
        raise DemoFailed(f"{CHEAT} must be rejected; it is {cheat}")


if __name__ == "__main__":
    raise SystemExit(main())
