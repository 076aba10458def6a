"""Composes the whole tournament on one machine: NATS, PostgreSQL, deploy steps, five services. It decides nothing."""

import asyncio
import contextlib
import functools
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import nats

from deploy import migrate, streams
from deploy.local import data_dir, postgres
from deploy.local import nats as local_nats
from deploy.local.program import LOOPBACK, Program, free_port
from deploy.local.supervisor import Report, keep_running
from shared.http import listen

ROOT = Path(__file__).parents[2]
PROBE_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class ChainOptions:
    """Real money: which chain, and whose wallet."""

    endpoint: str
    payment_recipient: str
    """The coldkey that miners pay."""
    wallet_name: str
    wallet_hotkey: str
    wallet_path: str
    hotkey: str
    """Its address: it signs the weights and names what was measured."""

    @property
    def settings(self) -> dict[str, str]:
        """What a service that sets weights needs."""
        return {
            "TOURNAMENT_CHAIN_ENDPOINT": self.endpoint,
            "TOURNAMENT_WALLET_NAME": self.wallet_name,
            "TOURNAMENT_WALLET_HOTKEY": self.wallet_hotkey,
            "TOURNAMENT_WALLET_PATH": self.wallet_path,
        }


@dataclass(frozen=True, kw_only=True)
class Options:
    """One local tournament."""

    data_dir: Path
    hparams: Path
    sandbox: str
    """docker or process."""
    host: str = LOOPBACK
    """Where the API and the ingest listen. NATS and PostgreSQL stay on loopback."""
    api_port: int
    ingest_port: int
    public_api_url: str | None = None
    """How miners reach the API; None: by host and port."""
    burn_hotkey: str | None = None
    chain: ChainOptions | None = None
    """None: unpaid local mode."""
    shards: str | None = None
    runtime: str = "runc"
    """Of the docker sandbox."""


@dataclass(frozen=True, kw_only=True)
class Tournament:
    """Where a running one is."""

    api_url: str
    ingest_url: str
    nats_url: str
    postgres_url: str


@contextlib.asynccontextmanager
async def tournament(options: Options, report: Report) -> AsyncIterator[Tournament]:
    """Everything, running and answering, until the block is left; then stopped in order, with all state kept.

    Raises:
        SettingsError, DataDirError, PostgresError, StreamsError, ProgramFailed: said in one sentence each.
    """
    folder = options.data_dir
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(data_dir.hold(folder))
        data_dir.reserve(folder, "unpaid" if options.chain is None else f"paid on {options.chain.endpoint}")
        _check_ports(options)
        secret = data_dir.secret(folder)
        nats_port, postgres_port = free_port(), free_port()
        place = Tournament(
            api_url=f"http://{options.host}:{options.api_port}",
            ingest_url=f"http://{options.host}:{options.ingest_port}",
            nats_url=local_nats.url(port=nats_port, token=secret),
            postgres_url=postgres.url(port=postgres_port, password=secret),
        )
        report("starting NATS and PostgreSQL")
        await asyncio.to_thread(postgres.prepare, folder / "postgres", password=secret)
        servers = (
            local_nats.server(folder / "nats", port=nats_port, token=secret),
            postgres.server(folder / "postgres", port=postgres_port, password=secret),
        )
        await stack.enter_async_context(keep_running(servers, folder, report))
        data_dir.publish_nats_url(folder, place.nats_url)
        report("applying streams and migrations")
        await _apply(place)
        report("starting the five services")
        await stack.enter_async_context(keep_running(_services(options, place), folder, report))
        yield place


def _check_ports(options: Options) -> None:
    """Beforehand, because whatever holds a port would answer in our service's place, another validator healthily."""
    listen(options.host, options.api_port, setting="TOURNAMENT_API_PORT").close()
    listen(options.host, options.ingest_port, setting="TOURNAMENT_INGEST_PORT").close()


def _services(options: Options, place: Tournament) -> list[Program]:
    """Each service gets what it needs and nothing more: only the api knows where the database is."""
    chain = options.chain
    hparams = {"TOURNAMENT_HPARAMS": str(options.hparams)}
    artifacts = {"TOURNAMENT_ARTIFACTS_DIR": str(options.data_dir / "artifacts")}
    evaluator = {
        "TOURNAMENT_SANDBOX": options.sandbox,
        "TOURNAMENT_SANDBOX_RUNTIME": options.runtime,
        "TOURNAMENT_SHARDS_DIR": options.shards or "",
        "TOURNAMENT_EVALUATOR_HOTKEY": "" if chain is None else chain.hotkey,
    }
    ingest = {
        "TOURNAMENT_INGEST_HOST": options.host,
        "TOURNAMENT_INGEST_PORT": str(options.ingest_port),
        "TOURNAMENT_API_URL": options.public_api_url or place.api_url,
        "TOURNAMENT_CHAIN_ENDPOINT": "" if chain is None else chain.endpoint,
        "TOURNAMENT_PAYMENT_RECIPIENT": "" if chain is None else chain.payment_recipient,
    }
    weights = {
        "TOURNAMENT_BURN_HOTKEY": options.burn_hotkey or "",
        **({} if chain is None else chain.settings),
    }
    api = {
        "TOURNAMENT_API_HOST": options.host,
        "TOURNAMENT_API_PORT": str(options.api_port),
        "TOURNAMENT_POSTGRES_URL": place.postgres_url,
    }
    programs = (
        _service("ingest", place, {**hparams, **artifacts, **ingest}, health=place.ingest_url),
        _service("evaluator", place, {**artifacts, **evaluator}),
        _service("verifier", place, artifacts),
        _service("weights", place, {**hparams, **weights}),
        _service("api", place, {**hparams, **api}, health=place.api_url),
    )
    return list(programs)


def _service(name: str, place: Tournament, settings: dict[str, str], *, health: str | None = None) -> Program:
    return Program(
        name=name,
        command=(sys.executable, "-m", f"services.{name}.main"),
        settings={"TOURNAMENT_NATS_URL": place.nats_url, **settings},
        folder=ROOT,
        ready=None if health is None else functools.partial(_is_healthy, health),
    )


async def _is_healthy(url: str) -> bool:
    async with httpx.AsyncClient(timeout=PROBE_SECONDS) as client:
        try:
            return (await client.get(f"{url}/health")).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False


async def _apply(place: Tournament) -> None:
    client = await nats.connect(place.nats_url)
    await streams.apply(client)
    await client.close()
    await migrate.apply(place.postgres_url)
