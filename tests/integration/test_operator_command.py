"""The operator's command as it is typed, on a real NATS server: what it decides is recorded once, and found by all."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.local import data_dir
from shared import subjects
from shared.bus import Bus
from shared.events import BurnSwitched, Disqualified, Event, Reinstated, WeightsSet
from shared.submission import Submission, fold
from tests.support.servers import NatsServer
from tests.support.stories import finished, paid

pytestmark = pytest.mark.servers

PROJECT = Path(__file__).parents[2]
NAME = "0123456789abcdef" * 2


async def decide(*arguments: str, **settings: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of the command."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "neurons.operator", *arguments),
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], "LOGNAME": "somebody", **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def answer(nats_url: str, *arguments: str) -> dict[str, Any]:
    code, out, err = await decide(*arguments, "--json", TOURNAMENT_NATS_URL=nats_url)
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


async def tell(connection: Bus, *events: Event) -> None:
    for event in events:
        aggregate = ".".join(subjects.subject_of(event).split(".")[:3]) + ".>"
        last = await connection.last(aggregate)
        await connection.append(event, aggregate=aggregate, expected=0 if last is None else last.sequence)


async def state(connection: Bus) -> Submission:
    found = fold(await connection.load(subjects.submission(NAME)))
    assert found is not None
    return found


def weights(netuid: int) -> WeightsSet:
    return WeightsSet(
        netuid=netuid,
        interval=1,
        interval_seconds=600,
        reason="nothing_to_set",
        hotkey=None,
        uid=None,
        weight=0.0,
        leader_submission_id=None,
        outcome="no_chain",
        detail="",
    )


async def test_a_submission_is_disqualified_and_reinstated(nats_url: str, connection: Bus) -> None:
    await tell(connection, paid(NAME), *finished(NAME, (100.0,)))
    end = (await state(connection)).last_sequence
    code, out, err = await decide("disqualify", NAME, "--reason", "it reads the clock", TOURNAMENT_NATS_URL=nats_url)
    assert (code, err) == (0, "")
    assert out == (
        f"{NAME} is disqualified: it reads the clock. It leaves the leaderboard; the weights follow at their next "
        "interval\n"
    )
    found = await state(connection)
    assert (found.status, found.error_message) == ("failed_validation", "disqualified: it reads the clock")
    assert isinstance(found.disqualified, Disqualified)
    assert (found.disqualified.after_sequence, found.disqualified.operator.split("@")[0]) == (end, "somebody")

    again = await answer(nats_url, "disqualify", NAME, "--reason", "another")
    assert (again["changed"], again["sequence"]) == (False, end + 1)
    assert again["detail"].startswith(f"{NAME} is disqualified already (it reads the clock, by somebody@")
    assert (await state(connection)).last_sequence == end + 1

    back = await answer(nats_url, "reinstate", NAME, "--reason", "it does not")
    assert (back["changed"], back["sequence"]) == (True, end + 2)
    assert (await state(connection)).status == "finished"
    again = await answer(nats_url, "reinstate", NAME, "--reason", "it does not")
    assert (again["changed"], again["detail"]) == (False, f"{NAME} is not disqualified; nothing was changed")
    assert (await state(connection)).last_sequence == end + 2


async def test_what_is_not_known_is_an_error(nats_url: str, connection: Bus) -> None:
    for decision in ("disqualify", "reinstate"):
        code, out, err = await decide(decision, NAME, "--reason", "x", "--json", TOURNAMENT_NATS_URL=nats_url)
        assert (code, err) == (2, "operator: no such submission is known to this validator; nothing was changed\n")
        assert json.loads(out) == {"error": "no such submission is known to this validator; nothing was changed"}
    code, out, err = await decide("burn", "on", "--reason", "x", TOURNAMENT_NATS_URL=nats_url)
    assert (code, out) == (2, "")
    assert err == "operator: this validator has not decided on any weights yet; name its subnet with --netuid\n"
    assert await connection.last(subjects.ALL) is None


async def test_the_burn_switch(nats_url: str, connection: Bus) -> None:
    named = await answer(nats_url, "burn", "off", "--netuid", "7", "--reason", "x")
    assert named == {
        "changed": False,
        "detail": "the burn switch of subnet 7 is off already; nothing was changed",
        "sequence": None,
    }
    await tell(connection, weights(3))
    assert (await answer(nats_url, "burn", "on", "--reason", "a bug"))["detail"] == (
        "the burn switch of subnet 3 is on: a bug. From the next interval the burn hotkey gets the emission"
    )
    assert not (await answer(nats_url, "burn", "on", "--reason", "a bug"))["changed"]
    assert (await answer(nats_url, "burn", "off", "--reason", "mended"))["changed"]
    found = [recorded.event for recorded in await connection.load(subjects.economy(3))]
    assert [(event.on, event.after_sequence, event.reason) for event in found if isinstance(event, BurnSwitched)] == [
        (True, 0, "a bug"),
        (False, 2, "mended"),
    ]


async def test_many_at_once_decide_once(nats_url: str, connection: Bus) -> None:
    await tell(connection, paid(NAME), weights(3))
    answers = await asyncio.gather(
        *(answer(nats_url, "disqualify", NAME, "--reason", f"reason {number}") for number in range(3)),
        *(answer(nats_url, "burn", "on", "--reason", f"reason {number}") for number in range(3)),
    )
    for three, aggregate, kind in (
        (answers[:3], subjects.submission(NAME), Disqualified),
        (answers[3:], subjects.economy(3), BurnSwitched),
    ):
        decided = [recorded for recorded in await connection.load(aggregate) if isinstance(recorded.event, kind)]
        assert len(decided) == 1
        assert [said["sequence"] for said in three] == [decided[0].sequence] * 3
        (first,) = (number for number, said in enumerate(three) if said["changed"])
        assert isinstance(decided[0].event, Disqualified | BurnSwitched | Reinstated)
        assert decided[0].event.reason == f"reason {first}"


async def test_the_validator_of_a_data_directory_is_found(nats_url: str, connection: Bus, tmp_path: Path) -> None:
    await tell(connection, paid(NAME))
    folder = tmp_path / "validator"
    wanted = ("disqualify", NAME, "--reason", "x")
    with data_dir.hold(folder):
        data_dir.publish_nats_url(folder, nats_url)
        code, _, err = await decide(*wanted, TOURNAMENT_DATA_DIR=str(folder))
        assert (code, err) == (0, "")
    assert (await state(connection)).disqualified is not None
    code, out, err = await decide(*wanted, TOURNAMENT_DATA_DIR=str(folder))
    assert (code, out) == (2, "")
    assert err.startswith(f"operator: no validator runs in {folder}; start it")


async def test_a_server_that_is_away_is_said_without_its_secret(nats_server: NatsServer) -> None:
    nats_server.kill()
    code, out, err = await decide("burn", "on", "--netuid", "3", "--reason", "x", TOURNAMENT_NATS_URL=nats_server.url)
    assert (code, out) == (2, "")
    assert err.startswith(f"operator: NATS does not answer at 127.0.0.1:{nats_server.port}")
    assert nats_server.token not in err


async def test_a_wrong_decision_ends_it() -> None:
    for wrong in (("disqualify", "*", "--reason", "x"), ("disqualify", NAME), ("burn", "up", "--reason", "x"), ()):
        code, out, err = await decide(*wrong, TOURNAMENT_NATS_URL="nats://127.0.0.1:1")
        assert (code, out) == (2, "")
        assert "usage: python -m neurons.operator" in err
