"""Composition root of the ingest service: takes its port, then answers miners, requests evaluations, checks claims and
grants credits until told to stop.
"""

import asyncio
import functools
import os
from contextlib import AsyncExitStack, closing

from services.ingest import chain, handlers, http
from services.ingest.check import SourceCheck
from services.ingest.settings import from_environment
from shared import bus, hparams, process, streams
from shared.artifacts import ArtifactStore
from shared.chain import Chain
from shared.clock import utc_now
from shared.environment import SettingsError
from shared.faults import TransientFault
from shared.http import listen, serve

SLOTS = 4
"""Messages of each queue that are worked on at the same time."""


async def main() -> None:
    settings = from_environment(os.environ)
    with closing(listen(settings.host, settings.port, setting="TOURNAMENT_INGEST_PORT")) as listener:
        competition = hparams.load(settings.hparams)
        artifacts = ArtifactStore(settings.artifacts)
        try:
            artifacts.put(competition.encode())  # before the first event that names it
        except TransientFault as fault:
            raise SettingsError(f"TOURNAMENT_ARTIFACTS_DIR cannot be used: {fault}") from None
        node = None if settings.paid is None else Chain(settings.paid.chain_endpoint)
        till = None
        if settings.paid is not None and node is not None:
            till = handlers.Till(
                recipient=settings.paid.recipient,
                economy=competition.economy,
                facts=functools.partial(chain.facts, node),
                uid_of=functools.partial(chain.uid_of, node),
            )
        loop = asyncio.get_running_loop()
        ingest = http.Ingest(
            bus=loop.create_future(),
            artifacts=artifacts,
            check=SourceCheck(max_bytes=competition.max_code_bytes),
            competition=competition,
            api_url=settings.api_url,
            till=till,
            genesis_hash=loop.create_future(),
            now=utc_now,
        )
        # The bus is opened while requests are answered already, and closed when the last of them was.
        async with AsyncExitStack() as resources, asyncio.TaskGroup() as tasks:
            resources.push_async_callback(ingest.check.close)
            tasks.create_task(serve(http.create(ingest), listener))
            if node is not None:
                resources.push_async_callback(node.close)
                ask_genesis = functools.partial(chain.genesis_hash, node)
                tasks.create_task(handlers.reach_chain(ask_genesis, ingest.genesis_hash))
            connection = await resources.enter_async_context(bus.connect(settings.nats_url, producer="ingest"))
            ingest.bus.set_result(connection)
            request = functools.partial(handlers.request_evaluation, connection, competition)
            give_up = functools.partial(handlers.give_up, connection, competition)
            tasks.create_task(connection.consume(streams.REQUEST_EVALUATIONS, request, slots=SLOTS, give_up=give_up))
            grant = functools.partial(handlers.grant_credit, connection)
            give_up = functools.partial(handlers.give_up_credit, connection)
            tasks.create_task(connection.consume(streams.GRANT_CREDITS, grant, slots=SLOTS, give_up=give_up))
            if till is not None:
                check_claim = functools.partial(handlers.check_claim, connection, till)
                tasks.create_task(connection.consume(streams.CHECK_CLAIMS, check_claim, slots=SLOTS))


if __name__ == "__main__":
    raise SystemExit(process.run("ingest", main))
