"""The projection: stream -> rows, with the position in the same transaction. It can be killed at any point and run in
any number of replicas; it never skips an event.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from services.api import database
from services.api.database import Connection
from services.api.project import decode_state, project, touched
from services.api.sql import SQL
from shared import subjects
from shared.bus import Bus
from shared.events import Recorded
from shared.faults import Conflict, TransientFault, UnknownEvent
from shared.logs import logger

RETRY_SECONDS = 1.0


class AnotherStream(Exception):
    """The read model is further than the stream: it was built from another one."""


@dataclass
class Progress:
    """What /health has to know of the projection: `follow` writes it, the route reads it."""

    bus: Bus | None = None
    waits: str | None = None
    """For what it waits; None while it does not."""
    stopped: str | None = None
    """Why it cannot go on without a person; None while it can."""


async def follow(bus: Bus, postgres_url: str, progress: Progress) -> None:
    """Keep the read model up with the stream until cancelled, or until an event comes that must not be skipped."""
    progress.bus = bus
    while True:
        try:
            async with database.writer(postgres_url) as connection:
                position = await stored_position(connection)
                await _check_stream(bus, position)
                logger().info("projection follows", position=position)
                progress.waits = None
                await _follow(bus, connection, position)
        except TransientFault as fault:
            if str(fault) != progress.waits:
                progress.waits = str(fault)
                logger().warning("projection waits", reason=progress.waits, error=repr(fault.__cause__))
            await asyncio.sleep(RETRY_SECONDS)
        except (UnknownEvent, msgspec.MsgspecError) as error:
            progress.stopped = f"an event, or a stored state, cannot be read by this release: {error}"
            break
        except AnotherStream as error:
            progress.stopped = str(error)
            break
    logger().error("projection stopped", reason=progress.stopped)


async def stored_position(connection: Connection) -> int:
    """The last sequence that the read model has taken in.

    Raises:
        TransientFault: PostgreSQL is away, or has no schema.
    """
    with database.faults():
        position: int | None = await connection.fetchval(SQL["position"])
    if position is None:
        raise TransientFault(database.NO_SCHEMA)
    return position


async def _check_stream(bus: Bus, position: int) -> None:
    try:
        last = await bus.last(subjects.ALL)
    except UnknownEvent:
        return  # whoever follows comes to it, after all that is before it
    end = 0 if last is None else last.sequence
    if end < position:
        raise AnotherStream(
            f"the read model is at {position} and the stream ends at {end}: it was built from another stream; "
            "empty the database and run `python -m deploy.migrate`"
        )


async def _follow(bus: Bus, connection: Connection, position: int) -> None:
    """Returns when the stored position went back: somebody emptied the read model, to have it rebuilt."""
    async with contextlib.aclosing(bus.follow(after=position)) as batches:
        async for batch in batches:
            while fresh := [recorded for recorded in batch if recorded.sequence > position]:
                try:
                    position = await write(connection, fresh, after=position)
                except Conflict:
                    position = await stored_position(connection)
                    logger().info("another replica went ahead", position=position)
                    if position + 1 < fresh[0].sequence:
                        return


async def write(connection: Connection, batch: Sequence[Recorded], *, after: int) -> int:
    """Project what follows position `after`, all or nothing; returns the new position.

    Raises:
        Conflict: the stored position is another.
        TransientFault: PostgreSQL is away; whether it was written is unknown, and the stored position tells.
    """
    position = batch[-1].sequence
    with database.faults():
        async with connection.transaction():
            # First, because it holds other replicas off until this is over.
            if await connection.execute(SQL["move_position"], after, position) != "UPDATE 1":
                raise Conflict(f"the read model is not at {after}")
            stored = await connection.fetch(SQL["states"], touched(batch))
            states = {state.submission_id: state for state in (decode_state(row["state"]) for row in stored)}
            rows = project(states, batch)
            for name, table in (
                ("save_submissions", rows.submissions),
                ("save_claims", rows.claims),
                ("save_credits", rows.credits),
                ("save_runs", rows.runs),
                ("save_verdicts", rows.verdicts),
                ("save_finishes", rows.finishes),
                ("remove_standings", rows.left),
                ("save_standings", rows.standings),
                ("save_weights", rows.weights),
                ("save_dead_letters", rows.dead_letters),
            ):
                if table:
                    await connection.execute(SQL[name], *zip(*table.values(), strict=True))
    return position
