"""The miner's command, which kills itself with SIGKILL at a point that is named: `python -m tests.support.killed_miner
POINT …`.
"""

import os
import signal
import sys
from typing import Any

from neurons import miner, transfer, validator_client
from neurons.payment import Transfer
from shared.chain import Chain

POINTS = ("before broadcast", "between broadcast and finality", "between finality and upload", "after upload")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _arm(point: str) -> None:
    broadcast, submit = transfer.broadcast, validator_client.Validator.submit

    async def deadly_broadcast(chain: Chain, transfer: Transfer) -> str | None:
        if point == "before broadcast":
            _die()
        answer = await broadcast(chain, transfer)
        if point == "between broadcast and finality":
            _die()
        return answer

    def deadly_submit(*arguments: Any, **named: Any) -> Any:
        if point == "between finality and upload":
            _die()
        answer = submit(*arguments, **named)
        if point == "after upload":
            _die()
        return answer

    transfer.broadcast = deadly_broadcast
    validator_client.Validator.submit = deadly_submit  # type: ignore[method-assign]


if __name__ == "__main__":
    assert sys.argv[1] in POINTS
    _arm(sys.argv[1])
    raise SystemExit(miner.main(sys.argv[2:]))
