"""Deploy step: makes the declared stream and consumers exist as declared. `python -m deploy.streams`, again at will.

Services only bind to what this creates. It never deletes anything.
"""

import dataclasses
import os
from collections.abc import Iterable

import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from shared import environment, process, streams
from shared.streams import CONSUMERS, STREAM, Consumer

CONNECT_SECONDS = 5


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
            await manager.add_consumer(STREAM, dataclasses.replace(streams.consumer_config(consumer)))
    except (NatsError, TimeoutError) as error:
        raise StreamsError(f"NATS did not take the stream's declaration: {error}") from error


async def main() -> None:
    url = environment.text(os.environ, "TOURNAMENT_NATS_URL")
    replicas = environment.integer(os.environ, "TOURNAMENT_NATS_REPLICAS", 1, least=1, most=5)
    client = await nats.connect(url, connect_timeout=CONNECT_SECONDS)
    try:
        await apply(client, replicas=replicas)
    finally:
        await client.close()


if __name__ == "__main__":
    raise SystemExit(process.run("streams", main))
