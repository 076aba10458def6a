"""From an empty wallet to weights read back from the chain: the commands that people type, a real chain, Docker."""

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import bittensor
import httpx
import pytest
from bittensor.sp_core import Keypair

from deploy.local.program import LOOPBACK, free_port
from tests.support.chain import COST_RAO, NETUID, RECIPIENT, VALIDATOR, Wallet, do, keep_wallet, register, uid_of
from tests.support.docker import sandbox_image
from tests.support.local import PROJECT, started
from tests.support.tiny import BASIC, SINGLE

__all__ = ["sandbox_image"]

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.servers]
T = TypeVar("T")
DEADLINE_SECONDS = 180.0
FUNDS_RAO = 1000 * 10**9


def until(look: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (answer := look()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.2)
    return answer


def get(url: str) -> Any:
    """The answer, or None while there is none to have."""
    try:
        answer = httpx.get(url)
    except httpx.TransportError:
        return None
    return answer.json() if answer.is_success else None


async def test_a_paid_submission_from_an_empty_wallet_to_weights_on_the_chain(
    chain_endpoint: str, client: bittensor.Client, sandbox_image: str, tmp_path: Path
) -> None:
    assert sandbox_image
    seed = secrets.token_hex(8)
    miner = Wallet(Keypair.create_from_uri(f"//{seed}"), Keypair.create_from_uri(f"//{seed}//hot"))
    wallets = tmp_path / "wallets"
    validator_flags, miner_flags = keep_wallet(wallets, "validator", VALIDATOR), keep_wallet(wallets, "miner", miner)
    hparams, train = tmp_path / "hparams.json", tmp_path / "train.py"
    hparams.write_bytes(SINGLE.encode())
    train.write_text(BASIC)
    api, ingest = free_port(), free_port()
    api_url = f"http://{LOOPBACK}:{api}"

    def mine(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "neurons.miner", *arguments],
            cwd=PROJECT,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")},
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )

    pay = (
        *(str(train), *miner_flags, "--payment-recipient", RECIPIENT, "--validator", f"http://{LOOPBACK}:{ingest}"),
        *("--chain", chain_endpoint, "--hparams", str(hparams), "--skip-test", "--yes", "--json"),
    )
    with started(
        *("neurons.validator", "--sandbox", "docker", "--hparams", str(hparams), *validator_flags),
        *("--chain", chain_endpoint, "--burn-hotkey", VALIDATOR.hotkey_address),
        folder=tmp_path / "data",
        TOURNAMENT_API_PORT=str(api),
        TOURNAMENT_INGEST_PORT=str(ingest),
    ):
        until(lambda: get(f"{api_url}/health"))
        # Nobody leads: the burn hotkey's uid.
        burnt = until(lambda: [row for row in get(f"{api_url}/weights") or [] if row["outcome"] == "set"])
        assert (burnt[0]["reason"], burnt[0]["uid"]) == ("burn_no_leader", await uid_of(client, VALIDATOR))

        empty = mine(*pay)
        assert empty.returncode == 2, empty.stderr
        assert "not registered" in empty.stderr, empty.stderr

        await do(
            client, bittensor.calls.Balances.transfer_keep_alive(dest=miner.coldkey_address, value=FUNDS_RAO), VALIDATOR
        )
        uid = await register(client, miner)
        before = int((await client.balances.get(RECIPIENT)).rao)
        paid = mine(*pay)
        assert paid.returncode == 0, paid.stderr
        ended = json.loads(paid.stdout)
        assert (ended["verdict"], ended["paid_rao"], ended["rank"]) == ("passed", COST_RAO, 1)
        assert int((await client.balances.get(RECIPIENT)).rao) == before + COST_RAO

        again = mine(*pay)
        assert again.returncode == 2, again.stderr
        assert "already" in again.stderr

        leading = until(
            lambda: [row for row in get(f"{api_url}/weights") or [] if (row["outcome"], row["uid"]) == ("set", uid)]
        )
        assert leading[0]["reason"] == "leader"
        assert leading[0]["leader_submission_id"] == ended["submission_id"]
        rows = dict(await client.query_map(("SubtensorModule", "Weights"), [NETUID]))
        assert [tuple(pair) for pair in rows[await uid_of(client, VALIDATOR)]] == [(uid, 65_535)]
        assert get(f"{api_url}/leaderboard")[0]["miner_uid"] == uid
        found = get(f"{api_url}/submissions/{ended['submission_id']}")
        assert (found["payment_reference"], found["amount_rao"]) == (ended["payment"], COST_RAO)
