"""Deploy step: makes the declared stream and consumers exist as declared. `python -m deploy.streams`, again at will.

Services only bind to what this creates. It never deletes anything.
"""

import os
from collections.abc import Iterable

import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from shared import environment, process, streams
from shared.streams import CONSUMERS, STREAM, Consumer

CONNECT_SECONDS = 5
CONNECT_ATTEMPTS = 10
"""One a second: a server that is started at the same moment is waited for."""


class StreamsError(Exception):
    """The server did not take the declaration. The message says why."""


async def apply(client: Client, *, consumers: Iterable[Consumer] = CONSUMERS, replicas: int = 1) -> None:
    """Create the stream and consumers, or update those that differ.

    Raises:
        StreamsError: the server refused.
    """
    manager = client.jetstream()
    wanted = streams.stream_config(replicas=replicas)
    try:
        try:
            await manager.stream_info(STREAM)
        except NotFoundError:
            await manager.add_stream(wanted)
        else:
            await manager.update_stream(wanted)
        for consumer in consumers:
            await manager.add_consumer(STREAM, streams.consumer_config(consumer))
    except (NatsError, OSError) as error:
        raise StreamsError(f"NATS did not take the stream's declaration: {error}") from error


async def main() -> None:
    url = environment.text(os.environ, "TOURNAMENT_NATS_URL")
    replicas = environment.integer(os.environ, "TOURNAMENT_NATS_REPLICAS", 1, least=1, most=5)
    client = await _connect(url)
    try:
        await apply(client, replicas=replicas)
    finally:
        await client.close()


async def _connect(url: str) -> Client:
    refusals: list[Exception] = []

    async def on_error(error: Exception) -> None:
        refusals.append(error)

    try:
        return await nats.connect(
            url,
            error_cb=on_error,
            allow_reconnect=False,
            max_reconnect_attempts=CONNECT_ATTEMPTS,
            reconnect_time_wait=1,
            connect_timeout=CONNECT_SECONDS,
        )
    except (NatsError, OSError) as error:
        why = refusals[-1] if refusals else error
        raise StreamsError(f"cannot connect to TOURNAMENT_NATS_URL: {why}") from error


if __name__ == "__main__":
    try:
        raise SystemExit(process.run("streams", main))
    except StreamsError as error:
        raise SystemExit(f"streams: {error}") from None
