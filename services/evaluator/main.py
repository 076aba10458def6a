"""Composition root of the evaluator: takes a sandbox, opens the bus, measures one submission after another until told
to stop.
"""

import functools
import os

from services.evaluator import handlers, providers
from services.evaluator.settings import from_environment
from shared import bus, process, streams
from shared.artifacts import ArtifactStore


async def main() -> None:
    settings = from_environment(os.environ)
    provide = await providers.wait_for(settings.sandbox, settings.runtime)
    async with bus.connect(settings.nats_url, producer="evaluator") as connection:
        evaluator = handlers.Evaluator(
            bus=connection,
            artifacts=ArtifactStore(settings.artifacts),
            provide=provide,
            hotkey=settings.hotkey,
            shards=settings.shards,
        )
        evaluate = functools.partial(handlers.evaluate, evaluator)
        give_up = functools.partial(handlers.give_up, evaluator)
        await connection.consume(streams.EVALUATE, evaluate, slots=1, give_up=give_up)


if __name__ == "__main__":
    raise SystemExit(process.run("evaluator", main))
