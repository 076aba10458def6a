"""A competition whose runs last as long as importing torch does, and a submission that waits when a test says so."""

import os
from pathlib import Path

import msgspec

from shared import hparams

PROJECT = Path(__file__).parents[2]
BASIC = (PROJECT / "examples" / "basic.py").read_text()
DEMO = hparams.load(PROJECT / "hparams" / "demo.json")
TINY = msgspec.structs.replace(
    DEMO,
    name="tiny",
    model=hparams.Model(vocab_size=64, layers=1, width=16, heads=2, hidden=32, initial_seed=3),
    evaluation=msgspec.structs.replace(
        DEMO.evaluation,
        runs=2,
        num_steps=4,
        batch_size=1,
        sequence_length=32,
        prepare_timeout_seconds=60.0,
        timeout_seconds=60.0,
    ),
    evidence=hparams.Evidence(logit_positions=8, probe_positions=8, sketch_rows=8, sketch_columns=4),
)
"""Passed by `BASIC`, bit for bit, in the process sandbox."""
SINGLE = msgspec.structs.replace(TINY, evaluation=msgspec.structs.replace(TINY.evaluation, runs=1))
"""The same with one run, where a second one would tell nothing more."""

_BEGIN = "    total_tokens = 0\n"
_WAIT = f"""\
    if num_steps > {TINY.evaluation.warmup_steps}:
        import os, pathlib, time
        evaluator = pathlib.Path(os.environ["TMPDIR"]).parents[1]
        with open(evaluator / "began", "a") as file:
            file.write(f"{{os.getpid()}}\\n")
        while (evaluator / "hold").exists():
            time.sleep(0.01)
"""
assert BASIC.count(_BEGIN) == 1
WAITING = BASIC.replace(_BEGIN, _WAIT + _BEGIN).encode()
"""Right, but each timed run first notes its pid in `began` and waits while there is a `hold`, both in the temporary
directory of the evaluator that runs it. For the process sandbox: nothing can be told from inside a container.
"""


def begun(temporary: Path) -> list[int]:
    """The pids of the runs of WAITING that an evaluator with this temporary directory has begun."""
    path = temporary / "began"
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


def runners(temporary: Path) -> list[int]:
    """The pids of all that runs under a `process` sandbox of an evaluator with this temporary directory."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                command = (process / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if os.fsencode(temporary) + b"/" in command and b"sandbox.runner" in command:
                found.append(int(process.name))
    return found
