"""The API as miners see it: a real process over real HTTP, with its servers there, away and back again."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import httpx
import msgspec
import nats
import pytest
from pydantic import BaseModel

from deploy import migrate
from services.api import database, views
from shared import hparams, request
from shared.events import (
    BurnSwitched,
    Check,
    Event,
    LeaderboardChanged,
    MessageDeadLettered,
    Payment,
    Standing,
    WeightsSet,
    encode,
)
from shared.faults import TransientFault
from tests.support.read_model import (
    HPARAMS,
    PROJECT,
    Api,
    PostgresCluster,
    looking,
    publish,
    reached,
    serving,
    submission_id,
)
from tests.support.servers import NatsServer, eventually
from tests.support.stories import (
    ALICE,
    BOB,
    CODE,
    TRANSFER,
    abandoned,
    claimed,
    completed,
    credited,
    disqualified,
    finished,
    paid,
    refused,
    reinstated,
    requested,
    started,
    story,
    verified,
)

pytestmark = pytest.mark.servers

COMPETITION = hparams.load(HPARAMS).sha256
PASSED, FAILED, WAITING = (submission_id(number) for number in range(3))
GIVEN_UP = request.submission_id(TRANSFER)
CREDIT = request.credit_reference("c" * 32)
SPENT = request.submission_id(CREDIT)
CLAIM = request.claim_id(TRANSFER, miner_hotkey=ALICE, code_sha256=CODE)
FAR = Check(name="update", value=0.9, threshold=0.2, margin=-0.7, passed=False, detail="0.9 from the reference")


@pytest.fixture
async def api(nats_url: str, postgres_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    with serving(Api(nats_url=nats_url, postgres_url=postgres_url, log=tmp_path / "api.log")) as started_api:
        await started_api.until(status="ok")
        yield started_api


async def get(api: Api, path: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=api.url) as client:
        return await client.get(path)


async def tell(api: Api, *events: Event) -> None:
    """Append these to an empty stream and wait until the API knows."""
    stream = story(*events)
    await publish(api.nats_url, stream)
    await reached(api.postgres_url, stream[-1].sequence)


def ranked(
    name: str, score: float, *, submitted: int, cause: int = 0, competition: str = COMPETITION
) -> LeaderboardChanged:
    entry = Standing(
        rank=1, submission_id=name, miner_hotkey=ALICE, miner_uid=None, score=score, submitted_sequence=submitted
    )
    return LeaderboardChanged(
        competition=competition, cause_sequence=cause or submitted, entry=entry, ranked=1, top=(entry,)
    )


def weights(interval: int) -> WeightsSet:
    return WeightsSet(
        netuid=3,
        interval=interval,
        interval_seconds=600,
        reason="leader",
        hotkey=ALICE,
        uid=7,
        weight=1.0,
        leader_submission_id=PASSED,
        outcome="no_chain",
        detail="no chain is configured",
    )


def lives() -> list[Event]:
    """Four submissions, in four states; the last is paid for, others want its payment, and its credit buys one more."""
    transfer = Payment(reference=TRANSFER, amount_rao=123_000_000, payer=BOB, recipient=BOB, block_number=7)
    credit = Payment(reference=CREDIT, amount_rao=0)
    verdict = verified(submission=FAILED, evaluation="e-failed", failure="training_mismatch")
    passes = finished(PASSED, (100.0, 300.0), evaluation="e-passed", competition=COMPETITION)
    return [
        paid(PASSED, uid=7),
        *passes,
        ranked(PASSED, 200.0, submitted=1, cause=7),
        paid(FAILED),
        requested(FAILED, "e-failed", competition=COMPETITION),
        started(FAILED, "e-failed"),
        completed(submission=FAILED, evaluation="e-failed"),
        msgspec.structs.replace(verdict, checks=(FAR,)),
        paid(WAITING),
        refused("k1", submission=GIVEN_UP, hotkey=BOB),
        claimed(CLAIM, submission=GIVEN_UP),
        claimed("k2", submission=GIVEN_UP, hotkey=BOB),
        msgspec.structs.replace(paid(GIVEN_UP), payment=transfer),
        requested(GIVEN_UP, "e-given-up", competition=COMPETITION),
        abandoned(GIVEN_UP, "e-given-up"),
        weights(1),
        weights(2),
        MessageDeadLettered(consumer="c", sequence=3, subject="tournament.x", deliveries=5, error="poison"),
        credited("c" * 32, submission=GIVEN_UP),
        BurnSwitched(netuid=3, after_sequence=0, on=True, reason="a bug", operator="root@host"),
        msgspec.structs.replace(paid(SPENT), payment=credit),
    ]


async def test_health(api: Api) -> None:
    answer = await get(api, "/health")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ok",
        "nats": "connected",
        "postgres": "connected",
        "projection": "following",
        "position": 0,
        "dead_letters": 0,
        "detail": None,
        "code": None,
    }
    await tell(api, *lives())
    answer = await get(api, "/health")
    assert (answer.json()["position"], answer.json()["dead_letters"]) == (len(lives()), 1)


async def test_a_submission_for_its_whole_life(api: Api) -> None:
    await tell(api, *lives())
    found = {name: (await get(api, f"/submissions/{name}")).json() for name in (PASSED, FAILED, WAITING, GIVEN_UP)}
    assert {name: (answer["status"], answer["final_score"], answer["reason"]) for name, answer in found.items()} == {
        PASSED: ("finished", 200.0, None),
        FAILED: ("failed_validation", None, "training_mismatch"),
        WAITING: ("pending", None, None),
        GIVEN_UP: ("error", None, None),
    }
    assert (found[PASSED]["miner_hotkey"], found[PASSED]["miner_uid"]) == (ALICE, 7)
    assert found[PASSED]["created_at"] == "2026-01-02T03:04:06Z"
    assert found[FAILED]["error_message"] == "training_mismatch: it broke"
    assert found[FAILED]["failed_checks"] == [msgspec.to_builtins(FAR)]
    assert found[GIVEN_UP]["error_message"] == "given up for the validator's own fault: the engine is away"


async def test_evaluations(api: Api) -> None:
    await tell(api, *lives())
    runs = (await get(api, f"/submissions/{PASSED}/evaluations")).json()
    assert [(run["evaluation_id"], run["success"], run["tokens_per_second"]) for run in runs] == [
        ("e-passed-0", True, 100.0),
        ("e-passed-1", True, 300.0),
    ]
    (run,) = (await get(api, f"/submissions/{FAILED}/evaluations")).json()
    assert (run["success"], run["reason"], run["checks"]) == (False, "training_mismatch", [msgspec.to_builtins(FAR)])
    assert (await get(api, f"/submissions/{WAITING}/evaluations")).json() == []


async def test_a_retest_keeps_the_runs_and_counts_those_of_its_score(api: Api) -> None:
    first = [paid(PASSED), *finished(PASSED, (100.0, 300.0), evaluation="e1", competition=COMPETITION)]
    first.append(ranked(PASSED, 200.0, submitted=1, cause=len(first)))
    second = finished(PASSED, (500.0, 500.0, 500.0), evaluation="e2", competition=COMPETITION)
    await tell(api, *first, *second[:3])
    (row,) = (await get(api, "/leaderboard")).json()
    assert (row["final_score"], row["num_evaluations"]) == (200.0, 2)
    runs = (await get(api, f"/submissions/{PASSED}/evaluations")).json()
    assert [(run["evaluation_request_id"], run["run_index"], run["success"]) for run in runs] == [
        ("e1", 0, True),
        ("e1", 1, True),
        ("e2", 0, None),
    ]
    whole = [*first, *second, ranked(PASSED, 500.0, submitted=1, cause=len(first) + len(second))]
    stream = story(*whole)
    await publish(api.nats_url, stream[len(first) + 3 :])
    await reached(api.postgres_url, len(stream))
    (row,) = (await get(api, "/leaderboard")).json()
    assert (row["final_score"], row["num_evaluations"]) == (500.0, 3)


async def test_the_leaderboard_by_score_then_by_who_was_first(api: Api) -> None:
    names = [submission_id(number) for number in range(150)]
    entries = [
        ranked(name, float(number % 3), submitted=number + 1, cause=number + 1) for number, name in enumerate(names)
    ]
    elsewhere = ranked(names[0], 9.0, submitted=1, competition="c" * 64)
    await tell(api, *(paid(name) for name in names), *reversed(entries), elsewhere)
    rows = (await get(api, "/leaderboard")).json()
    expected = sorted(range(150), key=lambda number: (-(number % 3), number))
    assert [row["submission_id"] for row in rows] == [names[number] for number in expected[:100]]
    assert [row["rank"] for row in rows] == list(range(1, 101))
    assert rows[0]["final_score"] == 2.0
    assert len((await get(api, "/leaderboard?limit=1000")).json()) == 150
    assert (await get(api, "/leaderboard?limit=1")).json() == rows[:1]


async def test_an_empty_tournament(api: Api) -> None:
    for path in ("/leaderboard", "/weights", "/submissions", "/credits", f"/credits?miner_hotkey={ALICE}"):
        assert (await get(api, path)).json() == []


async def test_submissions_newest_first_and_filtered(api: Api) -> None:
    other = msgspec.structs.replace(paid(submission_id(9), hotkey=BOB), code_sha256="e" * 64)
    await tell(api, *lives(), other)

    async def names(query: str) -> list[str]:
        return [row["submission_id"] for row in (await get(api, f"/submissions{query}")).json()]

    assert await names("") == [other.submission_id, SPENT, GIVEN_UP, WAITING, FAILED, PASSED]
    assert await names("?limit=2") == [other.submission_id, SPENT]
    assert await names(f"?miner_hotkey={BOB}") == [other.submission_id]
    assert await names(f"?code_hash=sha256:{'e' * 64}") == [other.submission_id]
    assert await names(f"?miner_hotkey={ALICE}&code_hash=sha256:{CODE}&limit=3") == [SPENT, GIVEN_UP, WAITING]
    assert await names(f"?miner_hotkey={BOB}&code_hash=sha256:{CODE}") == []
    rows = (await get(api, "/submissions")).json()
    assert rows == [(await get(api, f"/submissions/{row['submission_id']}")).json() for row in rows]


async def test_a_payment_that_waits_is_refused_or_buys(api: Api) -> None:
    await tell(api, *lives())
    answer = (await get(api, f"/payments/{TRANSFER}")).json()
    assert (answer["reference"], answer["submission_id"]) == (TRANSFER, GIVEN_UP)
    assert [
        (claim["miner_hotkey"], claim["status"], claim["code"], claim["amount_rao"]) for claim in answer["claims"]
    ] == [
        (ALICE, "accepted", None, 123_000_000),
        (BOB, "refused", "payment_too_small", 50_000_000),
        (BOB, "waiting", None, None),
    ]
    assert answer["claims"][0]["claim_id"] == CLAIM
    answer = (await get(api, f"/payments/{CREDIT}")).json()
    assert [(claim["status"], claim["amount_rao"]) for claim in answer["claims"]] == [("accepted", 0)]
    bought = (await get(api, f"/submissions/{GIVEN_UP}")).json()
    assert (bought["payment_reference"], bought["amount_rao"], bought["credit_id"]) == (TRANSFER, 123_000_000, "c" * 32)


async def test_a_credit_before_and_after_it_is_spent(api: Api) -> None:
    events = lives()
    await tell(api, *events[:-1])
    (credit,) = (await get(api, f"/credits?miner_hotkey={ALICE}")).json()
    assert (credit["reference"], credit["submission_id"], credit["spent_by"]) == (CREDIT, GIVEN_UP, None)
    assert (await get(api, f"/credits?miner_hotkey={BOB}")).json() == []
    await publish(api.nats_url, story(*events)[-1:])
    await reached(api.postgres_url, len(events))
    assert (await get(api, "/credits")).json() == [credit | {"spent_by": SPENT}]


async def test_disqualified_and_reinstated(api: Api) -> None:
    before = lives()
    removal = LeaderboardChanged(
        competition=COMPETITION,
        cause_sequence=len(before) + 1,
        entry=None,
        ranked=0,
        top=(),
        removed_submission_id=PASSED,
    )
    back = [reinstated(PASSED), ranked(PASSED, 200.0, submitted=1, cause=len(before) + 3)]
    events = [*before, disqualified(PASSED), removal, *back]
    await tell(api, *events[:-2])
    assert (await get(api, "/leaderboard")).json() == []
    answer = (await get(api, f"/submissions/{PASSED}")).json()
    assert (answer["status"], answer["final_score"]) == ("failed_validation", None)
    assert answer["error_message"] == "disqualified: it reads the clock"
    await publish(api.nats_url, story(*events)[-2:])
    await reached(api.postgres_url, len(events))
    (row,) = (await get(api, "/leaderboard")).json()
    assert (row["submission_id"], row["final_score"], row["num_evaluations"]) == (PASSED, 200.0, 2)
    answer = (await get(api, f"/submissions/{PASSED}")).json()
    assert (answer["status"], answer["final_score"], answer["error_message"]) == ("finished", 200.0, None)


async def test_weights_newest_first(api: Api) -> None:
    await tell(api, *lives())
    rows = (await get(api, "/weights")).json()
    assert [row["interval"] for row in rows] == [2, 1]
    assert (await get(api, "/weights?limit=1")).json() == rows[:1]
    assert [row["sequence"] for row in rows] == sorted((row["sequence"] for row in rows), reverse=True)


WRONG: list[tuple[str, int, str]] = [
    ("/leaderboard?limit=0", 422, "invalid_request"),
    ("/leaderboard?limit=1001", 422, "invalid_request"),
    ("/leaderboard?limit=ten", 422, "invalid_request"),
    ("/leaderboard?limit=99999999999999999999999999", 422, "invalid_request"),
    ("/weights?limit=-1", 422, "invalid_request"),
    ("/submissions?limit=0", 422, "invalid_request"),
    ("/submissions?code_hash=sha256:x", 422, "invalid_request"),
    ("/submissions?miner_hotkey=a%00b", 422, "invalid_request"),
    ("/submissions?miner_hotkey=", 422, "invalid_request"),
    ("/credits?miner_hotkey=' OR true --", 422, "invalid_request"),
    (f"/payments/{TRANSFER[:-1]}3", 404, "payment_not_found"),
    (f"/payments/{TRANSFER.upper()}", 404, "payment_not_found"),
    ("/payments/credit:1", 404, "payment_not_found"),
    ("/payments/unpaid:x", 404, "payment_not_found"),
    ("/payments/%00", 404, "payment_not_found"),
    (f"/submissions/{'0' * 32}", 404, "submission_not_found"),
    (f"/submissions/{'0' * 32}/evaluations", 404, "submission_not_found"),
    (f"/submissions/{PASSED.upper()}", 404, "submission_not_found"),
    (f"/submissions/{PASSED}0", 404, "submission_not_found"),
    (f"/submissions/{PASSED}%0A", 404, "submission_not_found"),
    ("/submissions/%00/evaluations", 404, "submission_not_found"),
    ("/submissions/%F0%9F%98%80", 404, "submission_not_found"),
    ("/submissions/%ff%fe", 404, "submission_not_found"),
    ("/submissions/' OR true --", 404, "submission_not_found"),
    ("/submissions/", 404, "not_found"),
    ("/nothing", 404, "not_found"),
]


async def test_what_is_asked_wrongly_is_answered_with_what_to_do(api: Api) -> None:
    await tell(api, *lives())
    for path, status, code in WRONG:
        answer = await get(api, path)
        assert (answer.status_code, answer.json()["code"]) == (status, code), path
        assert answer.json().keys() == {"detail", "code"}
        assert answer.json()["detail"]
    async with httpx.AsyncClient(base_url=api.url) as client:
        answer = await client.post("/leaderboard")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")


async def test_every_answer_is_what_the_contract_says(api: Api) -> None:
    await tell(api, *lives())
    contract = (await get(api, "/openapi.json")).json()
    paths = {
        "/health": "/health",
        "/leaderboard": "/leaderboard",
        "/weights": "/weights",
        "/submissions": "/submissions",
        "/credits": "/credits",
        f"/payments/{TRANSFER}": "/payments/{reference}",
        **{f"/submissions/{name}": "/submissions/{submission_id}" for name in (PASSED, FAILED, WAITING, GIVEN_UP)},
        **{f"/submissions/{name}/evaluations": "/submissions/{submission_id}/evaluations" for name in (PASSED, FAILED)},
    }
    assert set(contract["paths"]) == set(paths.values())
    for path, template in paths.items():
        answer = await get(api, path)
        assert answer.headers["content-type"] == "application/json"
        documented = contract["paths"][template]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        rows = answer.json() if documented.get("type") == "array" else [answer.json()]
        assert rows, path
        reference = documented.get("items", documented)["$ref"].rsplit("/", 1)[-1]
        view: type[BaseModel] = getattr(views, reference)
        assert set(contract["components"]["schemas"][reference]["required"]) == set(view.model_fields)
        for row in rows:
            assert view.model_validate_json(json.dumps(row), strict=True).model_dump(mode="json") == row, path
    problem = contract["paths"]["/submissions/{submission_id}"]["get"]["responses"]
    assert {"404", "503"} <= problem.keys()
    assert contract["components"]["schemas"]["ProblemBody"]["required"] == ["detail", "code"]


async def test_the_contract_names_no_error_of_another_form(api: Api) -> None:
    contract = (await get(api, "/openapi.json")).json()
    assert "HTTPValidationError" not in contract["components"]["schemas"]
    docs = await get(api, "/docs")
    assert (docs.status_code, "text/html" in docs.headers["content-type"]) == (200, True)


async def test_postgres_away_and_back(nats_url: str, tmp_path: Path) -> None:
    cluster = PostgresCluster(folder=tmp_path)
    cluster.prepare()
    api = Api(nats_url=nats_url, postgres_url=cluster.url, log=tmp_path / "api.log")
    with serving(api):
        # It is not there at the start, and then it has no schema.
        answer = await api.until(status="unavailable", projection="waiting", nats="connected")
        assert (answer["postgres"], answer["code"], answer["position"]) == ("away", "try_again_later", None)
        try:
            await cluster.start()
            answer = await api.until(detail=database.NO_SCHEMA)
            assert "python -m deploy.migrate" in str(answer["detail"])
            assert (await get(api, "/leaderboard")).status_code == 503

            async def said_so() -> bool:
                return api.said("deploy.migrate") > 0

            await eventually(said_so)
            await migrate.apply(cluster.url)
            await api.until(status="ok")
            await tell(api, *lives())
            cluster.kill()
            for path in (
                "/leaderboard",
                "/weights",
                "/submissions",
                f"/payments/{TRANSFER}",
                "/credits",
                f"/submissions/{PASSED}",
                f"/submissions/{PASSED}/evaluations",
            ):
                refused = await get(api, path)
                assert (refused.status_code, refused.json()["code"]) == (503, "try_again_later"), path
                assert refused.headers["retry-after"] == "5"
                # Nobody outside is told where the database is.
                assert str(cluster.port) not in refused.text
            assert (await get(api, "/health")).status_code == 503
            await cluster.start()
            await api.until(status="ok", position=len(lives()))
            assert (await get(api, f"/submissions/{PASSED}")).status_code == 200
            # Each of them was said once, however long it took.
            assert api.said("projection waits") <= 4, api.log.read_text()
            assert api.said("deploy.migrate") == 1
        finally:
            cluster.kill()


async def test_reads_go_on_without_nats(nats_server: NatsServer, api: Api) -> None:
    await tell(api, *lives())
    nats_server.kill()
    answer = await api.until(status="degraded", nats="away", projection="waiting", code="nats_away")
    assert answer["position"] == len(lives())
    assert (await get(api, "/health")).status_code == 200
    assert len((await get(api, "/leaderboard")).json()) == 1
    await asyncio.to_thread(nats_server.start)
    await api.until(status="ok")


async def test_reads_need_no_nats_at_the_start(nats_server: NatsServer, api: Api, tmp_path: Path) -> None:
    await tell(api, *lives())
    nats_server.kill()
    with serving(Api(nats_url=api.nats_url, postgres_url=api.postgres_url, log=tmp_path / "second.log")) as second:
        await second.until(status="degraded", nats="away")
        assert (await get(second, f"/submissions/{FAILED}")).json()["reason"] == "training_mismatch"
        await asyncio.to_thread(nats_server.start)
        await second.until(status="ok")


async def test_an_event_of_a_newer_release_is_visible_and_reads_go_on(api: Api) -> None:
    await tell(api, *lives())
    client = await nats.connect(api.nats_url)
    newer = encode(story(weights(3))[0].envelope).replace(b'"type":"WeightsSet"', b'"type":"WeightsBurnt"')
    await client.jetstream().publish("tournament.weights.3.burnt", newer)
    await client.close()
    answer = await api.until(status="unavailable", projection="stopped", code="projection_stopped")
    assert "unknown event type 'WeightsBurnt'" in str(answer["detail"])
    assert (answer["position"], answer["postgres"], answer["nats"]) == (len(lives()), "connected", "connected")
    assert (await get(api, "/health")).status_code == 503
    assert len((await get(api, "/leaderboard")).json()) == 1
    assert api.said("projection stopped") == 1


async def test_a_read_that_takes_too_long_is_given_up(api: Api) -> None:
    async with looking(api.postgres_url) as connection, connection.transaction():
        await connection.execute("LOCK TABLE standings IN ACCESS EXCLUSIVE MODE")
        answer = await get(api, "/leaderboard")
        assert (answer.status_code, answer.json()["code"]) == (503, "try_again_later")
        assert (await get(api, "/weights")).status_code == 200
    assert (await get(api, "/leaderboard")).status_code == 200


async def test_more_requests_than_connections(api: Api) -> None:
    await tell(api, *lives())
    async with httpx.AsyncClient(base_url=api.url) as client:
        answers = await asyncio.gather(*(client.get(f"/submissions/{PASSED}") for _ in range(60)))
    assert {answer.status_code for answer in answers} == {200}


async def test_routes_cannot_write(postgres_url: str) -> None:
    async with database.readers(postgres_url) as pool, pool.acquire() as connection:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await connection.execute("UPDATE position SET sequence = 1")


async def test_a_bug_is_no_transient_fault(postgres_url: str) -> None:
    async with database.readers(postgres_url) as pool:
        with pytest.raises(asyncpg.DataError):
            await database.read(pool, "leaderboard", "c" * 64, "ten")
        with pytest.raises(asyncpg.PostgresSyntaxError), database.faults():
            await pool.fetch("SELEKT")
        with pytest.raises(TransientFault, match="QueryCanceledError"), database.faults():
            await pool.fetch("SELECT pg_sleep(30)")


def ended(**settings: str) -> "subprocess.CompletedProcess[str]":
    known = {
        "TOURNAMENT_NATS_URL": "nats://127.0.0.1:1",
        "TOURNAMENT_POSTGRES_URL": "postgresql://u@127.0.0.1:1/d",
        "TOURNAMENT_HPARAMS": str(HPARAMS),
    }
    return subprocess.run(
        [sys.executable, "-m", "services.api.main"],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"]} | known | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_port_in_use_ends_it_with_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = ended(TOURNAMENT_API_PORT=str(port))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"api: cannot listen on 127.0.0.1 port {port}: Address already in use; choose another TOURNAMENT_API_PORT\n"
    )


def test_a_wrong_setting_ends_it_with_one_sentence(tmp_path: Path) -> None:
    done = ended(TOURNAMENT_NATS_URL="")
    assert (done.returncode, done.stderr) == (2, "api: TOURNAMENT_NATS_URL is not set\n")
    done = ended(TOURNAMENT_HPARAMS=str(tmp_path / "none.json"), TOURNAMENT_API_PORT="0")
    assert (done.returncode, done.stderr) == (2, f"api: {tmp_path}/none.json: No such file or directory\n")
