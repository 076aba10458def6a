"""The operator's command: what a person decides about submissions and the emission, recorded with a reason."""

import argparse
import asyncio
import contextlib
import getpass
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from deploy.local import data_dir
from deploy.local.command import default_data_dir
from deploy.local.data_dir import DataDirError
from shared import bus, environment, logs, subjects
from shared.bus import Bus
from shared.environment import SettingsError
from shared.events import BurnSwitched, Disqualified, Event, Recorded, Reinstated, WeightsDecided, WeightsSet
from shared.faults import TransientFault, UnknownEvent
from shared.submission import Submission, fold

DECIDED, UNUSABLE = 0, 2
PATIENCE_SECONDS = 20.0
MOST_REASON_CHARACTERS = 1000

Decision = Callable[[list[Recorded]], Sequence[Event]]


class Unusable(Exception):
    """It cannot be decided. The message says what to do."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the command says at its end; with --json just so."""

    changed: bool
    """False: it was so already, and nothing was written."""
    detail: str
    sequence: int | None
    """Stream sequence of the decision that is in force; None where none was ever needed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 it is so now, 2 wrong usage, or nobody there to tell."""
    flags = _parser().parse_args(arguments)
    logs.configure("operator", level="ERROR")
    try:
        answer = asyncio.run(_decide(flags, os.environ))
    except (Unusable, SettingsError, DataDirError, TransientFault) as error:
        return _end(str(error), flags, code=UNUSABLE)
    except (UnknownEvent, msgspec.MsgspecError) as error:
        return _end(f"this command is older than what is in the stream ({error}); use that release's", flags, UNUSABLE)
    except KeyboardInterrupt:
        return _end("stopped; the same command again tells whether it was recorded", flags, code=128 + signal.SIGINT)
    sys.stdout.write((msgspec.json.encode(answer).decode() if flags.json else answer.detail) + "\n")
    return DECIDED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m neurons.operator",
        description="Record a decision of the validator's operator. Saying the same twice changes nothing.",
        epilog="It finds the validator that runs on this machine, or in TOURNAMENT_DATA_DIR, or the NATS server of "
        "TOURNAMENT_NATS_URL. Exit codes: 0 it is so now, 2 what you can mend.",
    )
    decisions = parser.add_subparsers(dest="decision", metavar="DECISION", required=True)
    burn = decisions.add_parser("burn", help="give the emission to the burn hotkey whoever leads, or stop that")
    burn.add_argument("switch", choices=("on", "off"))
    burn.add_argument("--netuid", type=int, metavar="N", help="the subnet; without it that of the last weights")
    for name, what in (
        ("disqualify", "take a submission out of the ranking"),
        ("reinstate", "take a disqualification back"),
    ):
        submission = decisions.add_parser(name, help=what)
        submission.add_argument("submission_id", type=_submission_id, metavar="SUBMISSION_ID")
    for decision in decisions.choices.values():
        decision.add_argument("--reason", required=True, type=_reason, metavar="TEXT", help="for everybody to read")
        decision.add_argument("--json", action="store_true", help="print the answer as one JSON object on stdout")
    return parser


def _submission_id(text: str) -> str:
    if re.fullmatch(r"[0-9a-f]{32}", text) is None:
        raise argparse.ArgumentTypeError("a submission's id is 32 lower-case hex digits")
    return text


def _reason(text: str) -> str:
    reason = text.strip()
    if not reason or not reason.isprintable() or len(reason) > MOST_REASON_CHARACTERS:
        raise argparse.ArgumentTypeError(f"say why, in one line of at most {MOST_REASON_CHARACTERS} characters")
    return reason


def disqualify(story: list[Recorded], *, reason: str, operator: str) -> list[Disqualified]:
    """Take a submission out of the ranking; nothing when it is out.

    Raises:
        Unusable: there is no such submission.
    """
    state = _known(story)
    if state.disqualified is not None:
        return []
    return [
        Disqualified(
            submission_id=state.submission_id, after_sequence=state.last_sequence, reason=reason, operator=operator
        )
    ]


def reinstate(story: list[Recorded], *, reason: str, operator: str) -> list[Reinstated]:
    """Take a disqualification back; nothing when there is none in force.

    Raises:
        Unusable: there is no such submission.
    """
    state = _known(story)
    if state.disqualified is None:
        return []
    return [
        Reinstated(
            submission_id=state.submission_id, after_sequence=state.last_sequence, reason=reason, operator=operator
        )
    ]


def switch_burn(story: list[Recorded], *, netuid: int, on: bool, reason: str, operator: str) -> list[BurnSwitched]:
    """Turn the burn switch; nothing when it stands so. Nobody has turned it: it is off."""
    if _burns(story) == on:
        return []
    after = story[-1].sequence if story else 0
    return [BurnSwitched(netuid=netuid, after_sequence=after, on=on, reason=reason, operator=operator)]


def _known(story: list[Recorded]) -> Submission:
    state = fold(story)
    if state is None:
        raise Unusable("no such submission is known to this validator; nothing was changed")
    return state


def _burns(story: list[Recorded]) -> bool:
    last = _last(story, BurnSwitched)
    return last is not None and isinstance(last.event, BurnSwitched) and last.event.on


def _last(story: list[Recorded], *kinds: type[Event]) -> Recorded | None:
    return next((recorded for recorded in reversed(story) if isinstance(recorded.event, kinds)), None)


async def _decide(flags: argparse.Namespace, environ: Mapping[str, str]) -> Answer:
    url = nats_url(environ)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS), bus.connect(url, producer="operator") as connection:
            if flags.decision == "burn":
                return await _switch_burn(connection, flags)
            return await _rule_on_submission(connection, flags)
    except TimeoutError:
        place = urlsplit(url)  # without the secret in it
        raise Unusable(
            f"NATS does not answer at {place.hostname}:{place.port}, or does not know the secret; once it does, the "
            "same command again tells whether this was recorded"
        ) from None


async def _rule_on_submission(connection: Bus, flags: argparse.Namespace) -> Answer:
    name, reason, operator = flags.submission_id, flags.reason, _operator()
    if flags.decision == "disqualify":
        changed, story = await _record(
            connection,
            subjects.submission(name),
            lambda story: disqualify(story, reason=reason, operator=operator),
        )
        done = f"{name} is disqualified: {reason}. It leaves the leaderboard; the weights follow at their next interval"
        already = f"{name} is disqualified already{_because(story, Disqualified)}; nothing was changed"
    else:
        changed, story = await _record(
            connection,
            subjects.submission(name),
            lambda story: reinstate(story, reason=reason, operator=operator),
        )
        done = f"{name} is reinstated: {reason}. It is ranked if it passed; the weights follow at their next interval"
        already = f"{name} is not disqualified; nothing was changed"
    last = _last(story, Disqualified, Reinstated)
    return Answer(
        changed=changed, detail=done if changed else already, sequence=None if last is None else last.sequence
    )


async def _switch_burn(connection: Bus, flags: argparse.Namespace) -> Answer:
    reason, on, operator = flags.reason, flags.switch == "on", _operator()
    netuid = await _subnet(connection) if flags.netuid is None else flags.netuid
    changed, story = await _record(
        connection,
        subjects.economy(netuid),
        lambda story: switch_burn(story, netuid=netuid, on=on, reason=reason, operator=operator),
    )
    who = "the burn hotkey gets the emission" if on else "the leader gets the emission"
    done = f"the burn switch of subnet {netuid} is {flags.switch}: {reason}. From the next interval {who}"
    already = (
        f"the burn switch of subnet {netuid} is {flags.switch} already{_because(story, BurnSwitched)}; "
        "nothing was changed"
    )
    last = _last(story, BurnSwitched)
    return Answer(
        changed=changed, detail=done if changed else already, sequence=None if last is None else last.sequence
    )


async def _record(connection: Bus, aggregate: str, decide: Decision) -> tuple[bool, list[Recorded]]:
    """Append what is decided. Whether that was written by us, and the story with it."""
    wanted: list[Event] = []

    def remember(story: list[Recorded]) -> list[Event]:
        wanted[:] = decide(story)
        return list(wanted)

    story = await connection.transact(aggregate, remember)
    # Not this very object: somebody else decided the same at the same moment, with a reason of their own.
    return bool(wanted) and story[-1].event is wanted[0], story


async def _subnet(connection: Bus) -> int:
    last = await connection.last(subjects.ALL_WEIGHTS)
    if last is None:
        raise Unusable("this validator has not decided on any weights yet; name its subnet with --netuid")
    assert isinstance(last.event, WeightsDecided | WeightsSet)
    return last.event.netuid


def _because(story: list[Recorded], kind: type[Disqualified] | type[BurnSwitched]) -> str:
    last = _last(story, kind)
    if last is None:
        return ""
    assert isinstance(last.event, Disqualified | BurnSwitched)
    return f" ({last.event.reason}, by {last.event.operator} on {last.envelope.time:%Y-%m-%d %H:%M} UTC)"


def nats_url(environ: Mapping[str, str]) -> str:
    """Where the validator's NATS server is.

    Raises:
        DataDirError, SettingsError: none runs, or it is not clear which of two is meant.
    """
    named = environment.optional_text(environ, "TOURNAMENT_NATS_URL")
    if named is not None:
        return named
    if environment.optional_text(environ, "TOURNAMENT_DATA_DIR") is not None:
        return data_dir.nats_url(environment.path(environ, "TOURNAMENT_DATA_DIR"))
    found: dict[Path, str] = {}
    for folder in (default_data_dir("validator"), default_data_dir("validator-paid")):
        with contextlib.suppress(DataDirError):
            found[folder] = data_dir.nats_url(folder)
    if not found:
        raise SettingsError(
            "no validator runs on this machine; start it, or set TOURNAMENT_DATA_DIR or TOURNAMENT_NATS_URL"
        )
    if len(found) > 1:
        raise SettingsError(f"two validators run; set TOURNAMENT_DATA_DIR to one of {', '.join(map(str, found))}")
    return next(iter(found.values()))


def _operator() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without a passwd entry
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _end(why: str, flags: argparse.Namespace, code: int) -> int:
    print(f"operator: {why}", file=sys.stderr)  # noqa: T201 - for the person who typed it
    if flags.json:
        sys.stdout.write(msgspec.json.encode({"error": why}).decode() + "\n")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
