"""What hostile code does to the parent that its child-process sandbox gives it: the miner's command must still end."""

import sys
import time
from pathlib import Path

import pytest

from services.evaluator.process_sandbox import open_process
from tests.support.probes import CONNECT_SECONDS, PRELUDE, make_spec

STOPS_ONCE = "os.kill(os.getppid(), 19)\nsay('done')\ntime.sleep(600)"
STOPS_AGAIN_AND_AGAIN = "guard = os.getppid()\nsay('done')\nwhile True:\n    os.kill(guard, 19)"
KILLS = "os.kill(os.getppid(), 9)\ntime.sleep(600)"


@pytest.mark.parametrize("body", [STOPS_ONCE, STOPS_AGAIN_AND_AGAIN, KILLS])
def test_a_parent_that_is_stopped_or_killed_holds_nobody_up(body: str) -> None:
    program = f"{PRELUDE}connect()\nsay(os.getpid())\n{body}"
    with open_process(make_spec(), CONNECT_SECONDS, command=(sys.executable, "-P", "-c", program)) as sandbox:
        lines = sandbox.channel.makefile()
        pid = int(lines.readline())
        lines.readline()  # what it says once it has done so, or the end of the channel
        began = time.monotonic()
        sandbox.wait(0.5)
        assert time.monotonic() - began < 10.0
    deadline = time.monotonic() + 10.0
    while Path(f"/proc/{pid}").exists():  # a killed process is gone a moment later
        assert time.monotonic() < deadline, "the submission lives on"
        time.sleep(0.01)
