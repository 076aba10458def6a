"""The deploy step that declares the stream: it can be repeated, changes what differs, and hides no refusal."""

import asyncio
import contextlib
import dataclasses
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.js.api import ConsumerConfig, ConsumerInfo, StreamConfig
from nats.js.errors import APIError

from deploy import streams as deployed
from deploy.streams import StreamsError
from shared import bus, streams, subjects
from shared.streams import CONSUMERS, STREAM, Consumer
from tests.support.servers import NatsServer
from tests.support.stories import paid, requested

pytestmark = pytest.mark.servers

PROJECT = Path(__file__).parents[2]
QUEUE = Consumer(name="test-queue", filter_subject="tournament.submission.*.paid", slots=64)


@pytest.fixture
def bare_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A server without any stream."""
    server = NatsServer(tmp_path)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
async def client(bare_server: NatsServer) -> AsyncIterator[Client]:
    connected = await nats.connect(bare_server.url)
    yield connected
    await connected.close()


async def declared(client: Client) -> tuple[StreamConfig, dict[str, ConsumerConfig]]:
    """What the server holds now, without the notes it adds itself."""
    context = client.jetstream()
    stream = (await context.stream_info(STREAM)).config
    consumers = {info.name: info.config for info in await context.consumers_info(STREAM)}
    return (
        stream.evolve(metadata=None),
        {name: config.evolve(metadata=None) for name, config in consumers.items() if config is not None},
    )


async def consumer(client: Client, name: str = QUEUE.name) -> ConsumerInfo:
    info: ConsumerInfo = await client.jetstream().consumer_info(STREAM, name)
    return info


async def store(url: str, *names: str) -> None:
    async with bus.connect(url, producer="test") as connection:
        for name in names:
            await connection.append(paid(name), aggregate=subjects.submission(name), expected=0)


async def test_it_declares_everything_and_can_be_repeated(client: Client, bare_server: NatsServer) -> None:
    await deployed.apply(client)
    first = await declared(client)
    assert set(first[1]) == {declaration.name for declaration in CONSUMERS}
    await store(bare_server.url, "s1", "s2")
    await deployed.apply(client)
    assert await declared(client) == first
    assert (await client.jetstream().stream_info(STREAM)).state.messages == 2


async def test_two_at_once_declare_the_same(client: Client, bare_server: NatsServer) -> None:
    async with contextlib.AsyncExitStack() as stack:
        clients = [client]
        for _ in range(3):
            clients.append(await nats.connect(bare_server.url))
            stack.push_async_callback(clients[-1].close)
        await asyncio.gather(*(deployed.apply(each) for each in clients))
    assert set((await declared(client))[1]) == {declaration.name for declaration in CONSUMERS}


async def test_a_changed_consumer_is_updated_and_keeps_its_place(client: Client, bare_server: NatsServer) -> None:
    await deployed.apply(client, consumers=[QUEUE])
    await store(bare_server.url, "s1", "s2", "s3")
    subscription = await client.jetstream().pull_subscribe_bind(QUEUE.name, stream=STREAM)
    for message in await subscription.fetch(2):
        await message.ack_sync()
    changed = dataclasses.replace(QUEUE, ack_wait_seconds=7.0, slots=3)
    await deployed.apply(client, consumers=[changed])
    info = await consumer(client)
    assert info.config is not None
    assert (info.config.ack_wait, info.config.max_ack_pending) == (7.0, 3)
    assert (info.num_pending, info.ack_floor.stream_seq if info.ack_floor else None) == (1, 2)


async def test_what_an_operator_changed_by_hand_is_put_right(client: Client) -> None:
    await deployed.apply(client, consumers=[QUEUE])
    first = await declared(client)
    context = client.jetstream()
    await context.update_stream(streams.stream_config().evolve(max_msgs=10, duplicate_window=1.0, allow_direct=False))
    await context.add_consumer(STREAM, streams.consumer_config(QUEUE).evolve(max_deliver=3, inactive_threshold=60.0))
    assert await declared(client) != first
    await deployed.apply(client, consumers=[QUEUE])
    assert await declared(client) == first


async def test_it_never_deletes_what_it_does_not_know(client: Client) -> None:
    await deployed.apply(client, consumers=[QUEUE])
    await deployed.apply(client, consumers=[])
    assert (await consumer(client)).name == QUEUE.name


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "storage": ({"storage": "memory"}, "can not change storage type"),
    "sealed": ({"sealed": True}, "can not unseal"),
}


@pytest.mark.parametrize(("existing", "why"), REFUSED.values(), ids=REFUSED)
async def test_a_stream_that_cannot_become_as_declared_is_an_error(
    client: Client, existing: dict[str, Any], why: str
) -> None:
    wanted = streams.stream_config()
    if "sealed" in existing:
        await client.jetstream().add_stream(wanted)
        await client.jetstream().update_stream(wanted.evolve(**existing))
    else:
        await client.jetstream().add_stream(wanted.evolve(**existing))
    with pytest.raises(StreamsError, match=why):
        await deployed.apply(client)


async def test_a_consumer_that_cannot_become_as_declared_is_an_error(client: Client) -> None:
    await deployed.apply(client, consumers=[])
    await client.jetstream().add_consumer(STREAM, streams.consumer_config(QUEUE).evolve(deliver_policy="new"))
    with pytest.raises(StreamsError, match="deliver policy can not be updated"):
        await deployed.apply(client, consumers=[QUEUE])


async def test_another_stream_on_the_same_subjects_is_an_error(client: Client) -> None:
    await client.jetstream().add_stream(name="OTHER", subjects=["tournament.submission.>"])
    with pytest.raises(StreamsError, match="subjects overlap"):
        await deployed.apply(client)


async def test_more_replicas_than_servers_are_an_error(client: Client) -> None:
    with pytest.raises(StreamsError, match="replicas > 1 not supported"):
        await deployed.apply(client, replicas=3)


async def test_nothing_can_be_deleted_or_purged_nor_that_be_allowed(client: Client, bare_server: NatsServer) -> None:
    await deployed.apply(client)
    await store(bare_server.url, "s1", "s2")
    context = client.jetstream()
    wanted = streams.stream_config()
    for forbidden in (
        lambda: context.delete_msg(STREAM, 1),
        lambda: context.purge_stream(STREAM),
        lambda: context.purge_stream(STREAM, subject="tournament.submission.s1.>"),
        lambda: context.update_stream(wanted.evolve(deny_delete=False)),
        lambda: context.update_stream(wanted.evolve(deny_purge=False)),
    ):
        with pytest.raises(APIError):
            await forbidden()
    async with bus.connect(bare_server.url, producer="test") as connection:
        assert [recorded.sequence for recorded in await connection.load(subjects.ALL)] == [1, 2]


async def test_nobody_can_store_more_than_the_largest_event(client: Client) -> None:
    await deployed.apply(client)
    context = client.jetstream()
    subject = subjects.subject_of(requested())
    await context.publish(subject, b"x" * streams.MAX_EVENT_BYTES)
    with pytest.raises(APIError, match="message size exceeds maximum allowed"):
        await context.publish(subject, b"x" * (streams.MAX_EVENT_BYTES + streams.MAX_HEADERS_BYTES + 1))


def test_the_largest_event_fits_into_what_the_server_accepts() -> None:
    configuration = (PROJECT / "deploy" / "nats.conf").read_text()
    assert "max_payload: 1MB" in configuration
    assert streams.MAX_EVENT_BYTES + streams.MAX_HEADERS_BYTES < 2**20


def command(**settings: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "deploy.streams"],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], **settings},
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )


def test_the_command_can_be_repeated(bare_server: NatsServer) -> None:
    for _ in range(2):
        ended = command(TOURNAMENT_NATS_URL=bare_server.url)
        assert (ended.returncode, ended.stderr) == (0, "")


def test_the_command_says_what_is_wrong_in_one_sentence(bare_server: NatsServer) -> None:
    url = bare_server.url
    for settings, code, sentence in (
        ({}, 2, "streams: TOURNAMENT_NATS_URL is not set"),
        (
            {"TOURNAMENT_NATS_URL": url, "TOURNAMENT_NATS_REPLICAS": "6"},
            2,
            "streams: TOURNAMENT_NATS_REPLICAS is 6; it must be from 1 to 5",
        ),
        (
            {"TOURNAMENT_NATS_URL": url, "TOURNAMENT_NATS_REPLICAS": "3"},
            1,
            "streams: NATS did not take the stream's declaration: nats: ServerError: code=500 err_code=10074 "
            "description='replicas > 1 not supported in non-clustered mode'",
        ),
        (
            {"TOURNAMENT_NATS_URL": url.replace(bare_server.token, "another")},
            1,
            "streams: cannot connect to TOURNAMENT_NATS_URL: nats: 'Authorization Violation'",
        ),
    ):
        ended = command(**settings)
        assert (ended.returncode, ended.stderr) == (code, f"{sentence}\n")


def test_the_command_waits_for_its_server_for_a_while(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    started = subprocess.Popen(
        [sys.executable, "-m", "deploy.streams"],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], "TOURNAMENT_NATS_URL": server.url},
    )
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            started.wait(2)
        server.start()
        try:
            assert started.wait(30) == 0
        finally:
            server.kill()
    finally:
        started.kill()
        started.wait()
