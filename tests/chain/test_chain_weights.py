"""Weights on a real chain: set, read back, waited for, refused, and never set twice."""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import bittensor
import msgspec
import pytest
from bittensor import calls
from bittensor.sp_core import Keypair

from services.weights import decide, handlers
from services.weights.chain import ChainWeigher
from shared import hparams, subjects
from shared.bus import Bus
from shared.clock import utc_now
from shared.events import BurnSwitched, LeaderboardChanged, Recorded, Standing, WeightsDecided, WeightsSet
from shared.faults import Conflict, TransientFault
from tests.support.chain import (
    MINER,
    NETUID,
    OWNER,
    VALIDATOR,
    finalize,
    new_block,
    sudo,
    transport,
    uid_of,
    wallet,
)
from tests.support.real_weigher import keep, limit, weighing
from tests.support.servers import NatsServer, connection, eventually, nats_server, nats_url

__all__ = ["connection", "nats_server", "nats_url"]

pytestmark = pytest.mark.servers
PROJECT = Path(__file__).parents[2]
DAY = msgspec.structs.replace(
    hparams.load(PROJECT / "hparams" / "demo.json"),
    economy=hparams.Economy(netuid=NETUID, submission_cost_rao=1, weights_interval_seconds=86_400),
)
"""One interval is as long as any test, but at midnight."""
BURN = OWNER.hotkey_address
WEIGHTS = subjects.weights(NETUID)


@pytest.fixture
async def weigher(chain_endpoint: str, client: bittensor.Client, tmp_path: Path) -> AsyncIterator[ChainWeigher]:
    await limit(client, 0)
    await finalize(client)
    async with weighing(chain_endpoint, tmp_path / "wallets") as opened:
        yield opened


async def lead(connection: Bus, hotkey: str) -> None:
    leader = Standing(rank=1, submission_id="s1", miner_hotkey=hotkey, miner_uid=77, score=1.0, submitted_sequence=1)
    change = LeaderboardChanged(
        competition=DAY.sha256, cause_sequence=secrets.randbelow(10**9), entry=leader, ranked=1, top=(leader,)
    )
    aggregate = subjects.leaderboard(DAY.sha256)
    last = await connection.last(aggregate)
    await connection.append(change, aggregate=aggregate, expected=0 if last is None else last.sequence)


async def advance(connection: Bus, weigher: ChainWeigher, *, instance: str = "a") -> decide.Wait | None:
    return await handlers.advance(connection, DAY, BURN, utc_now, weigher=weigher, instance=instance)


async def weights(connection: Bus) -> list[WeightsSet]:
    return [recorded.event for recorded in await connection.load(WEIGHTS) if isinstance(recorded.event, WeightsSet)]


async def last_update(client: bittensor.Client) -> int:
    uid = await uid_of(client, VALIDATOR)
    assert uid is not None
    return int((await client.query(("SubtensorModule", "LastUpdate"), [NETUID]))[uid])


async def row(client: bittensor.Client) -> list[tuple[int, int]]:
    uid = await uid_of(client, VALIDATOR)
    return [(int(to), int(weight)) for to, weight in await client.query(("SubtensorModule", "Weights"), [NETUID, uid])]


async def test_the_leader_by_its_uid_of_now_is_set_and_read_back_once(
    connection: Bus, weigher: ChainWeigher, client: bittensor.Client
) -> None:
    """The standing says uid 77: it was registered anew since."""
    await lead(connection, MINER.hotkey_address)
    await advance(connection, weigher)
    (event,) = await weights(connection)
    assert (event.outcome, event.reason, event.uid, event.weight) == ("set", "leader", await uid_of(client, MINER), 1.0)
    assert (event.hotkey, event.validator_hotkey) == (MINER.hotkey_address, VALIDATOR.hotkey_address)
    assert event.block_number == await last_update(client)
    assert await row(client) == [(event.uid, decide.FULL_WEIGHT)]
    assert event.extrinsic is not None
    block_hash, index = event.extrinsic.split("-")
    assert block_hash == await transport(client).get_block_hash(event.block_number)
    assert int(index) > 0
    assert await advance(connection, weigher) is None
    assert await last_update(client) == event.block_number


async def test_burn_when_nobody_leads_when_the_leader_is_gone_and_when_it_is_switched_on(
    connection: Bus, weigher: ChainWeigher, client: bittensor.Client
) -> None:
    owner = await uid_of(client, OWNER)

    async def later(days: int) -> WeightsSet:
        moment = utc_now() + timedelta(days=days)
        await handlers.advance(connection, DAY, BURN, lambda: moment, weigher=weigher, instance="a")
        event = (await weights(connection))[-1]
        assert await row(client) == [(owner, decide.FULL_WEIGHT)]
        return event

    found = [await later(0)]
    await lead(connection, Keypair.create_from_uri("//NeverRegistered").ss58_address)
    found.append(await later(1))
    await lead(connection, MINER.hotkey_address)
    switch = BurnSwitched(netuid=NETUID, after_sequence=0, on=True, reason="a hole", operator="me")
    await connection.append(switch, aggregate=subjects.economy(NETUID), expected=0)
    found.append(await later(2))
    assert [(event.reason, event.outcome, event.uid) for event in found] == [
        ("burn_no_leader", "set", owner),
        ("burn_leader_deregistered", "set", owner),
        ("burn_switched", "set", owner),
    ]


async def test_the_rate_limit_is_waited_for(connection: Bus, weigher: ChainWeigher, client: bittensor.Client) -> None:
    await lead(connection, MINER.hotkey_address)
    await weigher.send(2)
    await limit(client, 6)
    before = await last_update(client)
    waits = 0
    while (waiting := await advance(connection, weigher)) is not None and not await weights(connection):
        assert "the chain's limit is one in 6 blocks" in waiting.why
        waits += 1
        await new_block(client)
    (event,) = await weights(connection)
    assert (event.outcome, event.attempt) == ("set", 1)
    assert waits >= 1
    assert event.block_number is not None
    assert event.block_number >= before + 6
    await limit(client, 0)


async def test_a_limit_that_begins_between_reading_and_setting_is_an_attempt_that_failed(
    connection: Bus, weigher: ChainWeigher, client: bittensor.Client
) -> None:
    await weigher.send(2)
    await limit(client, 50)
    answer = await weigher.send(2)
    assert not answer.success
    assert "rate limit" in answer.message
    await limit(client, 0)


@pytest.mark.parametrize("registered", [True, False])
async def test_a_validator_that_may_not_says_why_and_sends_nothing(
    connection: Bus, chain_endpoint: str, client: bittensor.Client, tmp_path: Path, registered: bool
) -> None:
    nobody = wallet("//No", "//No//one")
    async with weighing(chain_endpoint, tmp_path, MINER if registered else nobody) as weigher:
        height = await client.block()
        await advance(connection, weigher)
        (event,) = await weights(connection)
        assert (event.outcome, event.reason, event.weight) == ("not_sent", "burn_no_leader", 0.0)
        assert ("has no validator permit on" if registered else "is not registered on subnet 3") in event.detail
        assert await advance(connection, weigher) is None
        assert await client.block() == height


async def test_a_subnet_that_wants_weights_committed_in_the_way_of_an_old_runtime_is_named(
    connection: Bus, weigher: ChainWeigher, client: bittensor.Client
) -> None:
    """A runtime that is new enough takes the SDK's intent, which commits."""
    await sudo(client, calls.AdminUtils.sudo_set_commit_reveal_weights_enabled(netuid=NETUID, enabled=True))
    try:
        can_commit = (await weigher.view([])).can_commit
        await advance(connection, weigher)
    finally:
        await sudo(client, calls.AdminUtils.sudo_set_commit_reveal_weights_enabled(netuid=NETUID, enabled=False))
    (event,) = await weights(connection)
    assert event.outcome == ("committed" if can_commit else "not_sent")
    assert can_commit or "this release does not know" in event.detail


async def test_two_replicas_send_one(connection: Bus, weigher: ChainWeigher, client: bittensor.Client) -> None:
    await lead(connection, MINER.hotkey_address)
    told = await asyncio.gather(
        *(advance(connection, weigher, instance=name) for name in "abcd"), return_exceptions=True
    )
    assert sum(isinstance(answer, Conflict) for answer in told) >= 3 - sum(
        isinstance(answer, decide.Wait) for answer in told
    )
    stored = [recorded.event for recorded in await connection.load(WEIGHTS)]
    assert [type(event) for event in stored] == [WeightsDecided, WeightsSet]
    assert isinstance(stored[1], WeightsSet)
    assert (stored[1].outcome, stored[1].block_number) == ("set", await last_update(client))


async def test_a_uid_that_is_somebody_elses_when_it_is_set_is_a_failure_and_the_next_attempt_pays_the_right_one(
    connection: Bus, weigher: ChainWeigher, client: bittensor.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader leaves between reading and setting: its uid is given to a newcomer, by the storage itself."""
    monkeypatch.setattr(decide, "PAUSE_SECONDS", 0.0)
    newcomer = Keypair.create_from_uri(f"//{secrets.token_hex(8)}").ss58_address
    uid = await uid_of(client, MINER)
    await lead(connection, MINER.hotkey_address)
    really = weigher.send

    async def replace(held_by: str, *, registered: bool) -> None:
        uids = [[[NETUID, MINER.hotkey_address], uid if registered else None]]
        await transport(client).rpc_request(
            "dev_setStorage", [{"SubtensorModule": {"keys": [[[NETUID, uid], held_by]], "uids": uids}}]
        )

    async def send(target: int) -> decide.Answer:
        await replace(newcomer, registered=False)
        answer = await really(target)
        await finalize(client)
        return answer

    monkeypatch.setattr(weigher, "send", send)
    try:
        await advance(connection, weigher)
        monkeypatch.setattr(weigher, "send", really)
        await advance(connection, weigher)
    finally:
        await replace(MINER.hotkey_address, registered=True)
        await new_block(client)
    first, second = await weights(connection)
    assert (first.outcome, first.reason, first.attempt) == ("failed", "leader", 1)
    assert "no longer that of" in first.detail
    assert (second.outcome, second.reason, second.attempt) == ("set", "burn_leader_deregistered", 2)
    assert await row(client) == [(await uid_of(client, OWNER), decide.FULL_WEIGHT)]


class Relay:
    """A way to the chain that can be cut, and set up again on the same port."""

    def __init__(self, endpoint: str) -> None:
        host, port = endpoint.removeprefix("ws://").rstrip("/").split(":")
        self._target = (host, int(port))
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.endpoint = f"ws://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    def cut(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(*self._target)
        self._writers |= {writer, there_writer}
        await asyncio.gather(self._pump(reader, there_writer), self._pump(there_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()


async def test_an_endpoint_that_dies_and_returns(
    connection: Bus, chain_endpoint: str, client: bittensor.Client, tmp_path: Path
) -> None:
    await limit(client, 0)
    await finalize(client)
    await lead(connection, MINER.hotkey_address)
    relay = Relay(chain_endpoint)
    await relay.start()
    async with weighing(relay.endpoint, tmp_path) as weigher:
        await weigher.view([])
        relay.cut()
        with pytest.raises(TransientFault):
            await advance(connection, weigher)
        assert await weights(connection) == []
        await relay.start()

        async def settled() -> bool:
            with contextlib.suppress(TransientFault):
                return await advance(connection, weigher) is None
            return False

        await eventually(settled)
        (event,) = await weights(connection)
        assert (event.outcome, event.block_number) == ("set", await last_update(client))
    relay.cut()


@contextlib.contextmanager
def service(url: str, endpoint: str, folder: Path, path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    keep(folder, VALIDATOR)
    settings = {
        "TOURNAMENT_NATS_URL": url,
        "TOURNAMENT_HPARAMS": str(path),
        "TOURNAMENT_BURN_HOTKEY": BURN,
        "TOURNAMENT_CHAIN_ENDPOINT": endpoint,
        "TOURNAMENT_WALLET_NAME": "w",
        "TOURNAMENT_WALLET_HOTKEY": "h",
        "TOURNAMENT_WALLET_PATH": str(folder),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "services.weights.main"],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], **settings},
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_kill_9_between_set_weights_and_weights_set_and_nothing_is_set_twice(
    connection: Bus, chain_endpoint: str, client: bittensor.Client, nats_server: NatsServer, tmp_path: Path
) -> None:
    """The stream is taken away once the attempt is in it, so that the service hears the chain and cannot say so."""
    await limit(client, 0)
    await finalize(client)
    path = tmp_path / "hparams.json"
    path.write_bytes(DAY.encode())
    await lead(connection, MINER.hotkey_address)
    before = await last_update(client)

    async def decided() -> Recorded | None:
        return await connection.last(WEIGHTS)

    async def arrived() -> bool:
        return await last_update(client) != before

    with service(nats_server.url, chain_endpoint, tmp_path / "of the service", path) as process:
        await eventually(decided)
        nats_server.kill()
        await eventually(arrived)
        process.send_signal(signal.SIGKILL)
        process.wait()
    await asyncio.to_thread(nats_server.start)
    stored = [recorded.event for recorded in await connection.load(WEIGHTS)]
    assert [type(event) for event in stored] == [WeightsDecided]
    at = await last_update(client)
    await finalize(client)

    async def reported() -> Recorded | None:
        last = await connection.last(WEIGHTS)
        return last if last is not None and isinstance(last.event, WeightsSet) else None

    with service(nats_server.url, chain_endpoint, tmp_path / "of the service", path) as process:
        found = await eventually(reported)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert isinstance(found.event, WeightsSet)
    assert (found.event.outcome, found.event.detail) == ("set", "found on the chain")
    assert (found.event.attempt, found.event.block_number) == (1, at)
    assert await last_update(client) == at
    async with weighing(chain_endpoint, tmp_path) as weigher:
        assert await advance(connection, weigher) is None


async def test_killed_before_anything_was_sent_another_attempt_follows_after_the_grace(
    connection: Bus, weigher: ChainWeigher, client: bittensor.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decide, "PAUSE_SECONDS", 0.0)
    await lead(connection, MINER.hotkey_address)

    async def dies(uid: int) -> decide.Answer:
        raise TransientFault(f"killed before it sent {uid}")

    with monkeypatch.context() as patch:
        patch.setattr(weigher, "send", dies)
        with pytest.raises(TransientFault):
            await advance(connection, weigher)
    before = await last_update(client)
    waiting = await advance(connection, weigher, instance="b")
    assert waiting is not None
    assert "not known yet" in waiting.why
    assert (await weights(connection), await last_update(client)) == ([], before)
    monkeypatch.setattr(decide, "GRACE_SECONDS", 0.0)
    await advance(connection, weigher, instance="b")
    await advance(connection, weigher, instance="b")
    first, second = await weights(connection)
    assert (first.outcome, first.attempt, second.outcome, second.attempt) == ("failed", 1, "set", 2)
    assert second.block_number == await last_update(client)
