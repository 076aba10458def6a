"""What the miner's command reads of a validator, from the real services: they and it agree on every answer."""

import contextlib
import functools
from asyncio import to_thread
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from neurons.validator_client import Away, Refused, Validator
from shared import hparams, request
from shared.artifacts import ArtifactStore
from shared.events import LeaderboardChanged, Payment, Standing
from tests.support.ingest_process import ingest_running
from tests.support.read_model import HPARAMS, Api, publish, reached, serving, submission_id
from tests.support.servers import eventually
from tests.support.stories import ALICE, BOB, CODE, TRANSFER, claimed, credited, finished, paid, refused, story

pytestmark = pytest.mark.servers

COMPETITION = hparams.load(HPARAMS)
PASSED, WAITING = submission_id(0), request.submission_id(TRANSFER)
CREDIT = request.credit_reference("c" * 32)
SOURCE = b"def inner_steps(model, data_iterator, optimizer, num_steps, device): ...\n"


@pytest.fixture
async def api(nats_url: str, postgres_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    with serving(Api(nats_url=nats_url, postgres_url=postgres_url, log=tmp_path / "api.log")) as started:
        await started.until(status="ok")
        yield started


async def test_the_read_side(api: Api) -> None:
    entry = Standing(rank=1, submission_id=PASSED, miner_hotkey=ALICE, miner_uid=7, score=200.0, submitted_sequence=1)
    changed = LeaderboardChanged(competition=COMPETITION.sha256, cause_sequence=7, entry=entry, ranked=1, top=(entry,))
    mine = request.claim_id(TRANSFER, miner_hotkey=ALICE, code_sha256=CODE)
    stream = story(
        paid(PASSED, uid=7),
        *finished(PASSED, (100.0, 300.0), competition=COMPETITION.sha256),
        changed,
        claimed(mine, submission=WAITING),
        refused("k1", submission=WAITING, hotkey=BOB),
        credited("c" * 32, submission=PASSED),
    )
    await publish(api.nats_url, stream)
    await reached(api.postgres_url, stream[-1].sequence)
    with Validator(api.url) as validator:
        found = await to_thread(validator.submission, api.url, PASSED)
        assert (found.status, found.final_score, found.ended, found.runs_completed) == ("finished", 200.0, True, 2)
        listed = functools.partial(validator.submissions, api.url, miner_hotkey=ALICE)
        assert await to_thread(listed, code_sha256=CODE) == await to_thread(listed) == [found]
        assert await to_thread(listed, code_sha256="0" * 64) == []
        [row] = await to_thread(validator.leaderboard, api.url)
        assert (row.rank, row.submission_id, row.final_score, row.miner_uid) == (1, PASSED, 200.0, 7)
        [credit] = await to_thread(functools.partial(validator.credits, api.url, miner_hotkey=ALICE))
        assert (credit.reference, credit.spent_by, credit.detail) == (CREDIT, None, "the engine is away")
        waiting = await to_thread(validator.claim, api.url, TRANSFER, mine)
        assert waiting is not None
        assert (waiting.status, waiting.code) == ("waiting", None)
        other = await to_thread(validator.claim, api.url, TRANSFER, "k1")
        assert other is not None
        assert (other.status, other.code) == ("refused", "payment_too_small")
        assert await to_thread(validator.claim, api.url, CREDIT, mine) is None
        with pytest.raises(Refused) as unknown:
            await to_thread(validator.submission, api.url, "0" * 32)
        assert (unknown.value.status, unknown.value.code) == (404, "submission_not_found")

        bought = story(
            *(recorded.event for recorded in stream),
            msgspec.structs.replace(
                paid(WAITING),
                payment=Payment(reference=TRANSFER, amount_rao=10**8, payer=BOB, recipient=BOB, block_number=7),
            ),
        )
        await publish(api.nats_url, bought[-1:])
        await reached(api.postgres_url, bought[-1].sequence)
        accepted = await to_thread(validator.claim, api.url, TRANSFER, mine)
        assert accepted is not None
        assert accepted.status == "accepted"


async def test_the_submitting_side(nats_url: str, artifacts: ArtifactStore, tmp_path: Path) -> None:
    with (
        ingest_running(
            nats_url, artifacts, tmp_path / "ingest.log", TOURNAMENT_API_URL="https://tournament.example/"
        ) as url,
        Validator(url) as validator,
    ):

        async def info() -> Any:
            with contextlib.suppress(Away):
                return await to_thread(validator.info)

        told = await eventually(info, seconds=30.0)
        assert (told.hparams_sha256, told.payment_recipient) == (COMPETITION.sha256, None)
        assert (told.netuid, told.api_url) == (COMPETITION.economy.netuid, "https://tournament.example")
        send = functools.partial(validator.submit_unpaid, miner_hotkey=ALICE)

        async def accepted() -> Any:
            with contextlib.suppress(Away):
                return await to_thread(send, SOURCE)

        first = await eventually(accepted, seconds=30.0)
        assert first == await to_thread(send, SOURCE), "the same again is the same submission"
        assert first.status_url == f"https://tournament.example/submissions/{first.submission_id}"
        with pytest.raises(Refused) as wrong:
            await to_thread(send, b"def inner_steps(:")
        assert (wrong.value.status, wrong.value.code) == (422, "invalid_submission")
