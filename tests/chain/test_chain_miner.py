"""The miner's command on a real chain and a real ingest: it pays once and submits once, wherever it is killed."""

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bittensor
import httpx
import pytest
from bittensor import calls
from bittensor.sp_core import Keypair

from deploy.local.program import free_port
from shared import hparams
from shared.artifacts import ArtifactStore
from shared.bus import Bus
from shared.events import SubmissionPaid
from tests.support.chain import COST_RAO, MINER, VALIDATOR, Wallet, do, keep_wallet, new_block
from tests.support.imitation import Asked, Imitation, imitation
from tests.support.ingest_process import ingest_running
from tests.support.killed_miner import POINTS
from tests.support.servers import artifacts, connection, eventually, nats_server, nats_url

__all__ = ["artifacts", "connection", "nats_server", "nats_url"]

pytestmark = [pytest.mark.servers, pytest.mark.slow]
PROJECT = Path(__file__).parents[2]
DEMO = PROJECT / "hparams" / "demo.json"
DEADLINE_SECONDS = 120.0
BLOCK_SECONDS = 0.3


@dataclass(kw_only=True)
class World:
    """A validator that takes payments, and a miner with a wallet."""

    client: bittensor.Client
    endpoint: str
    folder: Path
    recipient: str
    miner: Wallet
    validator_url: str
    api: Imitation
    flags: tuple[str, ...]
    log: Path

    async def run(
        self, *arguments: str, killed_at: str | None = None, stopped_when: str | None = None
    ) -> tuple[int, dict[str, Any], str]:
        """The command, while the chain makes blocks; or with none, until it says something and gets a Ctrl-C."""
        program = ["neurons.miner"] if killed_at is None else ["tests.support.killed_miner", killed_at]
        said = self.folder / f"{secrets.token_hex(4)}.log"
        with said.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *program, *arguments, "--json"],
                cwd=PROJECT,
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(self.folder),
                    "XDG_STATE_HOME": str(self.folder / "state"),
                },
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while process.poll() is None:
                    if stopped_when is None:
                        await new_block(self.client)
                    elif stopped_when in said.read_text():
                        process.send_signal(signal.SIGINT)
                        stopped_when = "never said twice"
                    await asyncio.sleep(BLOCK_SECONDS)
        finally:
            process.kill()
            out, _ = process.communicate()
        return process.returncode, json.loads(out) if out else {}, said.read_text()

    def paying(self, **changes: str | None) -> list[str]:
        """Arguments that submit new code."""
        train = self.folder / f"{secrets.token_hex(4)}.py"
        train.write_text(f"# {train.name}\ndef inner_steps(model, data_iterator, optimizer, num_steps, device): ...\n")
        flags = {
            "--payment-recipient": self.recipient,
            "--validator": self.validator_url,
            "--chain": self.endpoint,
            "--hparams": str(DEMO),
        } | changes
        named = [part for name, value in flags.items() if value is not None for part in (name, value)]
        return [str(train), *self.flags, *named, "--skip-test", "--yes"]

    async def received(self) -> int:
        return int((await self.client.balances.get(self.recipient)).rao)

    def files(self) -> list[Path]:
        return list((self.folder / "state").rglob("*.json"))


def finished(asked: Asked) -> tuple[int, Any]:
    submission_id = asked.path.rpartition("/")[2]
    return 200, {
        "submission_id": submission_id,
        "miner_hotkey": "5F",
        "code_hash": "sha256:0",
        "status": "finished",
        "created_at": "2026-01-02T03:04:05Z",
        "final_score": 8012.5,
    }


@pytest.fixture
def api() -> Iterator[Imitation]:
    """The read side, for which every submission has passed."""
    with imitation() as made:
        made.on("GET", "/submissions", (200, []))
        made.on("GET", "/submissions/", finished)
        made.on("GET", "/credits", (200, []))
        made.on("GET", "/leaderboard", (200, []))
        yield made


@pytest.fixture
async def world(
    *,
    chain_endpoint: str,
    client: bittensor.Client,
    nats_url: str,
    artifacts: ArtifactStore,
    api: Imitation,
    tmp_path: Path,
) -> AsyncIterator[World]:
    recipient = str(Keypair.create_from_uri(f"//{secrets.token_hex(8)}").ss58_address)
    log = tmp_path / "ingest.log"
    settings = {
        "TOURNAMENT_API_URL": api.url,
        "TOURNAMENT_CHAIN_ENDPOINT": chain_endpoint,
        "TOURNAMENT_PAYMENT_RECIPIENT": recipient,
    }

    with ingest_running(nats_url, artifacts, log, **settings) as url:

        async def ready() -> bool | None:
            try:
                return httpx.get(f"{url}/info").json()["genesis_hash"] is not None or None
            except httpx.TransportError:
                return None

        await eventually(ready, seconds=60.0)
        yield World(
            client=client,
            endpoint=chain_endpoint,
            folder=tmp_path,
            recipient=recipient,
            miner=MINER,
            validator_url=url,
            api=api,
            flags=keep_wallet(tmp_path / "wallets", "miner", MINER),
            log=log,
        )


async def submissions(bus: Bus) -> list[SubmissionPaid]:
    """All in the stream."""
    story = await bus.load("tournament.submission.>")
    return [recorded.event for recorded in story if isinstance(recorded.event, SubmissionPaid)]


async def test_it_pays_and_submits(world: World, connection: Bus) -> None:
    code, answer, said = await world.run(*world.paying())
    assert code == 0, said
    assert (answer["verdict"], answer["tps"], answer["paid_rao"]) == ("passed", 8012.5, COST_RAO)
    assert await world.received() == COST_RAO
    assert len(await submissions(connection)) == 1
    [kept] = world.files()
    assert str(kept) == answer["state_file"]
    assert kept.stat().st_mode & 0o777 == 0o600
    recorded = json.loads(kept.read_bytes())
    assert (recorded["reference"], recorded["answer"]["submission_id"]) == (answer["payment"], answer["submission_id"])
    for name in ("coldkey", "hotkeys/hot"):
        key = json.loads((world.folder / "wallets" / "miner" / name).read_bytes())
        secret = [str(value).removeprefix("0x") for what, value in key.items() if value and "pri" in what.lower()]
        assert secret
        assert not any(value in kept.read_text() + said for value in secret)
    for line in ("recipient", "price 0.1 TAO", "wallet miner/hot is unlocked", "chain", "uid", "balance", "paid, and"):
        assert line in said


@pytest.mark.parametrize("point", POINTS)
async def test_killed_at_any_point_it_pays_once_and_submits_once(point: str, world: World, connection: Bus) -> None:
    code, _, said = await world.run(*world.paying(), killed_at=point)
    assert code == -9, said
    refused, answer, said = await world.run(*[part for part in world.paying() if part != "--yes"])
    assert refused == 2
    assert "unfinished payment of 0.1 TAO" in answer["error"]
    code, answer, said = await world.run("--resume")
    assert code == 0, said
    assert (answer["verdict"], answer["paid_rao"]) == ("passed", COST_RAO)
    assert await world.received() == COST_RAO
    assert len(await submissions(connection)) == 1
    again, repeated, said = await world.run("--resume", answer["payment"])
    assert (again, repeated["submission_id"]) == (0, answer["submission_id"]), said
    assert await world.received() == COST_RAO
    assert len(await submissions(connection)) == 1


async def test_who_stops_it_while_it_waits_goes_on_later(world: World, connection: Bus) -> None:
    code, answer, said = await world.run(*world.paying(), stopped_when="waiting for the transfer")
    assert code == 3, said
    assert answer["error"].startswith("stopped. The payment is kept in ")
    assert await submissions(connection) == []
    code, answer, said = await world.run("--resume")
    assert code == 0, said
    assert (await world.received(), len(await submissions(connection))) == (COST_RAO, 1)


async def test_without_enough_money_nothing_moves(world: World) -> None:
    has = int((await world.client.balances.get(world.miner.coldkey_address)).rao)
    away = has - COST_RAO

    def moving(whom: str) -> object:
        return calls.Balances.transfer_keep_alive(dest=whom, value=away)

    await do(world.client, moving(VALIDATOR.coldkey_address), world.miner)
    try:
        code, answer, _ = await world.run(*world.paying())
    finally:
        await do(world.client, moving(world.miner.coldkey_address), VALIDATOR)
    assert code == 2
    assert "are needed (0.1 TAO and a fee of" in answer["error"]
    assert (await world.received(), world.files()) == (0, [])


async def test_an_unregistered_hotkey_is_told_before_it_pays(world: World) -> None:
    stranger = Wallet(world.miner.coldkey, Keypair.create_from_uri(f"//{secrets.token_hex(8)}"))
    world.flags = keep_wallet(world.folder / "strange", "miner", stranger)
    code, answer, _ = await world.run(*world.paying())
    assert code == 2
    assert "is not registered on subnet 3" in answer["error"]
    assert (await world.received(), world.files()) == (0, [])


async def test_an_address_that_is_not_the_validators_is_not_paid(world: World) -> None:
    code, answer, _ = await world.run(*world.paying(**{"--payment-recipient": VALIDATOR.coldkey_address}))
    assert code == 2
    assert f"takes payments at {world.recipient}" in answer["error"]
    assert (await world.received(), world.files()) == (0, [])


async def test_a_transfer_whose_place_was_taken_is_known_to_have_paid_nothing(world: World) -> None:
    code, _, said = await world.run(*world.paying(), killed_at="before broadcast")
    assert code == -9, said
    await do(
        world.client,
        calls.Balances.transfer_keep_alive(dest=VALIDATOR.coldkey_address, value=COST_RAO),
        world.miner,
    )
    code, answer, said = await world.run("--resume")
    assert code == 2, said
    assert "another transaction of this coldkey took the transfer's place: nothing was paid" in answer["error"]
    assert (await world.received(), world.files()) == (0, [])


async def test_a_transfer_whose_time_is_over_is_known_to_have_paid_nothing(world: World) -> None:
    code, _, said = await world.run(*world.paying(), killed_at="before broadcast")
    assert code == -9, said
    last = json.loads(world.files()[0].read_bytes())["transfer"]["last_block"]
    while await world.client.finalized_block() <= last:
        await new_block(world.client)
    code, answer, said = await world.run("--resume")
    assert code == 2, said
    assert "its time is over: nothing was paid" in answer["error"]
    assert (await world.received(), world.files()) == (0, [])


async def test_a_payment_outlives_the_validators_absence(world: World, connection: Bus) -> None:
    code, _, said = await world.run(*world.paying(), killed_at="between finality and upload")
    assert code == -9, said
    away = f"http://127.0.0.1:{free_port()}"
    code, answer, said = await world.run("--resume", "--validator", away, "--timeout", "3")
    assert (code, answer["code"]) == (3, "try_again_later"), said
    assert "--resume" in answer["error"]
    code, answer, said = await world.run("--resume", str(world.files()[0]))
    assert code == 0, said
    assert (await world.received(), len(await submissions(connection))) == (COST_RAO, 1)


def test_the_demo_costs_what_these_tests_pay() -> None:
    assert hparams.load(DEMO).economy.submission_cost_rao == COST_RAO
