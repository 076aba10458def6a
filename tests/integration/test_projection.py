"""The projection on real servers: whatever is killed, doubled or replayed, the rows are those of the stream."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import nats
import pytest
import structlog

from deploy import migrate
from services.api import handlers
from services.api.handlers import Progress
from services.api.project import decode_state
from services.verifier.ranking import Ranking, apply
from shared import bus
from shared.events import Recorded, RunCompleted, encode
from shared.faults import Conflict
from shared.submission import Submission, evolve
from tests.support.read_model import (
    TABLES,
    Api,
    PostgresCluster,
    cancelled,
    database,
    life,
    looking,
    position,
    publish,
    reached,
    recorded,
    serving,
    whole,
)
from tests.support.servers import NatsServer, PostgresServer, eventually
from tests.support.stories import COMPETITION, abandoned, completed, paid, requested, started, story, verified

pytestmark = pytest.mark.servers

Tables = dict[str, list[tuple[object, ...]]]
STREAM = recorded([life(number) for number in range(90)])
END = STREAM[-1].sequence


@contextlib.asynccontextmanager
async def projecting(nats_url: str, postgres_url: str) -> AsyncIterator[Progress]:
    """One replica of the projection, in this process."""
    progress = Progress()
    async with bus.connect(nats_url, producer="api") as connection:
        task = asyncio.create_task(handlers.follow(connection, postgres_url, progress))
        try:
            yield progress
        finally:
            await cancelled(task)


async def rebuilt(nats_url: str, server: PostgresServer, end: int = END) -> Tables:
    """The read model that one replica makes of the whole stream in one go."""
    address = await database(server)
    async with projecting(nats_url, address):
        await reached(address, end)
    return await whole(address)


async def stopped(progress: Progress) -> str:
    async def why() -> str | None:
        return progress.stopped

    return await eventually(why)


async def waits(progress: Progress) -> str:
    async def why() -> str | None:
        return progress.waits

    return await eventually(why)


async def follows(progress: Progress) -> None:
    async def again() -> bool:
        return progress.waits is None

    await eventually(again)


def without_log(event: Recorded) -> Recorded:
    if not isinstance(event.event, RunCompleted):
        return event
    data = msgspec.structs.replace(event.event, log_tail="")
    return msgspec.structs.replace(event, envelope=msgspec.structs.replace(event.envelope, data=data))


async def test_the_read_model_is_the_fold_of_the_stream(nats_url: str, postgres_url: str) -> None:
    await publish(nats_url, STREAM)
    async with projecting(nats_url, postgres_url):
        await reached(postgres_url, END)
    states: dict[str, Submission] = {}
    ranking = Ranking()
    for event in STREAM:
        apply(ranking, event)
        _, category, name, _ = event.subject.split(".")
        if category == "submission" and (state := evolve(states.get(name), without_log(event))):
            states[name] = state
    async with looking(postgres_url) as connection:
        stored = {row["submission_id"]: row for row in await connection.fetch("SELECT * FROM submissions")}
        runs = await connection.fetch("SELECT submission_id, verified FROM evaluations")
        places = await connection.fetch(
            "SELECT submission_id, num_evaluations FROM standings WHERE competition = $1 "
            "ORDER BY score DESC, submitted_sequence",
            COMPETITION,
        )
        claims = await connection.fetch("SELECT claimed, refused, paid FROM claims")
    assert {name: decode_state(row["state"]) for name, row in stored.items()} == states
    assert all(
        (row["status"], row["final_score"]) == (states[n].status, states[n].final_score) for n, row in stored.items()
    )
    assert len(runs) == sum(len(state.runs) for state in states.values())
    assert all(run["verified"] is not None for run in runs)
    assert [row["submission_id"] for row in places] == [place.submission_id for place in ranking.places[COMPETITION]]
    # A third failed, and six of the others are disqualified. Whoever returned has its three runs again.
    assert [row["num_evaluations"] for row in places] == [3] * 54
    assert all(row["paid"] is not None and row["refused"] is None for row in claims)
    assert (len(claims), sum(row["claimed"] is not None for row in claims)) == (90, 13)


async def test_a_rebuild_gives_the_rows_of_the_live_projection(
    nats_url: str, postgres_url: str, postgres_server: PostgresServer
) -> None:
    cuts = [0, 1, 2, 40, 41, 300, END]
    async with projecting(nats_url, postgres_url):
        for begin, end in itertools.pairwise(cuts):
            await publish(nats_url, STREAM[begin:end])
            await reached(postgres_url, end)
    assert await whole(postgres_url) == await rebuilt(nats_url, postgres_server)


async def test_two_replicas_write_every_row_once(
    nats_url: str, postgres_url: str, postgres_server: PostgresServer
) -> None:
    with structlog.testing.capture_logs() as logs:
        async with projecting(nats_url, postgres_url), projecting(nats_url, postgres_url):
            for begin in range(0, END, 25):
                await publish(nats_url, STREAM[begin : begin + 25])
                await reached(postgres_url, min(begin + 25, END))
    assert await whole(postgres_url) == await rebuilt(nats_url, postgres_server)
    assert any(entry["event"] == "another replica went ahead" for entry in logs)
    # Whoever came too late reads on where it is, on the consumer that it has.
    assert sum(entry["event"] == "projection follows" for entry in logs) == 2


async def test_nothing_is_written_from_another_position(postgres_url: str) -> None:
    before = await whole(postgres_url)
    async with looking(postgres_url) as connection:
        with pytest.raises(Conflict, match="not at 5"):
            await handlers.write(connection, story(paid()), after=5)
        assert await whole(postgres_url) == before
        assert await handlers.write(connection, story(paid(), requested()), after=0) == 2
        assert await handlers.stored_position(connection) == 2


async def test_the_position_moves_only_with_the_rows(postgres_url: str) -> None:
    async with looking(postgres_url) as connection:
        await connection.execute("ALTER TABLE submissions ADD CHECK (status <> 'pending')")
        with pytest.raises(Exception, match="violates check constraint"):
            await handlers.write(connection, story(paid()), after=0)
        assert await handlers.stored_position(connection) == 0


async def test_kill_9_of_postgres_loses_nothing(nats_url: str, tmp_path: Path, postgres_server: PostgresServer) -> None:
    cluster = PostgresCluster(folder=tmp_path)
    cluster.prepare()
    await cluster.start()
    try:
        await migrate.apply(cluster.url)
        with structlog.testing.capture_logs() as logs:
            async with projecting(nats_url, cluster.url) as progress:
                for begin, end in itertools.pairwise((0, 100, 250, END)):
                    await publish(nats_url, STREAM[begin : begin + 50])
                    await reached(cluster.url, begin + 1)
                    cluster.kill()
                    await publish(nats_url, STREAM[begin + 50 : end])
                    assert "PostgreSQL does not answer" in await waits(progress)
                    await cluster.start()
                    await reached(cluster.url, end)
                    await follows(progress)
        assert await whole(cluster.url) == await rebuilt(nats_url, postgres_server)
        assert 3 <= sum(entry["event"] == "projection waits" for entry in logs) <= 12
    finally:
        cluster.kill()


async def test_kill_9_of_nats_loses_nothing(
    nats_server: NatsServer, postgres_url: str, postgres_server: PostgresServer
) -> None:
    async with projecting(nats_server.url, postgres_url):
        await publish(nats_server.url, STREAM[:300])
        await reached(postgres_url, 1)
        nats_server.kill()
        await asyncio.to_thread(nats_server.start)
        await publish(nats_server.url, STREAM[300:])
        await reached(postgres_url, END)
    assert await whole(postgres_url) == await rebuilt(nats_server.url, postgres_server)


@pytest.mark.parametrize("table", ["position", "submissions", "claims", "standings"])
async def test_kill_9_within_a_transaction(
    table: str, nats_url: str, postgres_url: str, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    await publish(nats_url, STREAM)
    api = Api(nats_url=nats_url, postgres_url=postgres_url, log=tmp_path / "api.log")
    async with looking(postgres_url) as holder:
        # SHARE: it is read, and whoever wants to write into it waits.
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute(f"LOCK TABLE {table} IN SHARE MODE")

        async def held() -> bool:
            found: int = await holder.fetchval(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = $1::text::regclass", table
            )
            return found > 0

        api.start()
        try:
            await eventually(held)
            committed = await whole(postgres_url)
        finally:
            api.kill()
        assert await whole(postgres_url) == committed
        await transaction.rollback()
    with serving(api):
        await reached(postgres_url, END)
    assert await whole(postgres_url) == await rebuilt(nats_url, postgres_server)


async def test_kill_9_in_the_middle_of_a_replay(
    nats_url: str, postgres_url: str, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    stream = recorded([life(number) for number in range(300)])
    end = stream[-1].sequence
    await publish(nats_url, stream)
    api = Api(nats_url=nats_url, postgres_url=postgres_url, log=tmp_path / "api.log")
    async with looking(postgres_url) as connection:
        # So that there is a middle: every batch takes longer than it takes to see one.
        await connection.execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql "
            "AS $$ BEGIN PERFORM pg_sleep(0.3); RETURN NEW; END $$;"
            "CREATE TRIGGER slow BEFORE UPDATE ON position FOR EACH ROW EXECUTE FUNCTION slow()"
        )
        for _ in range(2):
            begun_at = await position(postgres_url)
            api.start()
            try:
                await reached(postgres_url, begun_at + 1)
            finally:
                api.kill()
            assert begun_at < await position(postgres_url) < end
        await connection.execute("DROP TRIGGER slow ON position")
    with serving(api):
        await reached(postgres_url, end)
    assert await whole(postgres_url) == await rebuilt(nats_url, postgres_server, end)


async def test_an_event_of_a_newer_release_stops_it_right_there(
    nats_url: str, postgres_url: str, postgres_server: PostgresServer
) -> None:
    client = await nats.connect(nats_url)
    await publish(nats_url, STREAM[:10])
    newer = encode(STREAM[10].envelope).replace(b'"type":"', b'"type":"Better')
    await client.jetstream().publish(STREAM[10].subject, newer)
    await client.close()
    await publish(nats_url, STREAM[11:20])
    with structlog.testing.capture_logs() as logs:
        async with projecting(nats_url, postgres_url) as progress:
            why = await stopped(progress)
    assert f"unknown event type 'Better{STREAM[10].envelope.type}'" in why
    assert await position(postgres_url) == 10
    assert [entry["reason"] for entry in logs if entry["event"] == "projection stopped"] == [why]
    # After the upgrade it goes on from there; without one, it stops again.
    async with projecting(nats_url, postgres_url) as progress:
        assert await stopped(progress) == why
    assert await position(postgres_url) == 10


async def test_a_database_without_schema_is_waited_for(nats_url: str, postgres_server: PostgresServer) -> None:
    address = await database(postgres_server, migrated=False)
    await publish(nats_url, STREAM[:10])
    with structlog.testing.capture_logs() as logs:
        async with projecting(nats_url, address) as progress:
            assert "run `python -m deploy.migrate`" in await waits(progress)
            await migrate.apply(address)
            await reached(address, 10)
            await follows(progress)
    assert sum(entry["event"] == "projection waits" for entry in logs) == 1


async def test_a_read_model_that_is_emptied_while_it_runs_is_rebuilt(
    nats_url: str, postgres_url: str, postgres_server: PostgresServer
) -> None:
    async with projecting(nats_url, postgres_url):
        await publish(nats_url, STREAM[:-1])
        await reached(postgres_url, END - 1)
        async with looking(postgres_url) as connection:
            await connection.execute(
                f"BEGIN; TRUNCATE {', '.join(table for table in TABLES if table != 'position')}; "
                "UPDATE position SET sequence = 0; COMMIT"
            )
        await publish(nats_url, STREAM[-1:])
        await reached(postgres_url, END)
    assert await whole(postgres_url) == await rebuilt(nats_url, postgres_server)


async def test_a_read_model_of_another_stream_is_not_gone_on_with(nats_url: str, postgres_url: str) -> None:
    await publish(nats_url, STREAM[:10])
    async with looking(postgres_url) as connection:
        await connection.execute("UPDATE position SET sequence = 11")
    async with projecting(nats_url, postgres_url) as progress:
        assert "it was built from another stream" in await stopped(progress)


async def test_hostile_text_stops_nothing(nats_url: str, postgres_url: str) -> None:
    text = "\0\x1b[31m\N{REPLACEMENT CHARACTER}\\u0000'; DROP TABLE submissions; --\U0001f600" * 50
    crash = msgspec.structs.replace(completed(failure="crashed"), detail=text, log_tail=text)
    events = story(
        paid(hotkey=text),
        requested(),
        started(),
        crash,
        msgspec.structs.replace(verified(failure="crashed"), detail=text),
        paid("s2", hotkey=text),
        requested("s2", "e2"),
        msgspec.structs.replace(abandoned("s2", "e2"), detail=text),
    )
    await publish(nats_url, events)
    async with projecting(nats_url, postgres_url):
        await reached(postgres_url, events[-1].sequence)
    async with looking(postgres_url) as connection:
        (first, second) = await connection.fetch("SELECT state FROM submissions ORDER BY submission_id")
    assert decode_state(first["state"]).error_message == f"crashed: {text}"
    assert text in str(decode_state(second["state"]).error_message)
