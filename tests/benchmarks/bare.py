"""The loop that a sandboxed run is compared with: same train.py, model and tokens, in a process without any harness.

`python -m tests.benchmarks.bare JOB` prints how many nanoseconds `inner_steps` took. The job is JSON, the tokens are on
stdin, and `train` can be imported. It warms up and restores as sandbox/runner.py does, and imports none of it.
"""

import gc
import importlib
import json
import os
import sys
import time
from typing import Any


def main(
    *,
    model: dict[str, Any],
    optimizer: dict[str, Any],
    shape: tuple[int, int, int],
    warmup_steps: int,
    cpus: list[int],
    device: str,
) -> int:
    """Nanoseconds of the timed call. `shape` is that of the tokens: (steps, batch, sequence)."""
    os.sched_setaffinity(0, cpus)

    import torch  # noqa: PLC0415 - its threads inherit the CPUs

    from sandbox.benchmark.model import ModelConfig, build_model  # noqa: PLC0415

    torch.set_num_threads(len(cpus))
    place = torch.device(device)
    decoder = build_model(ModelConfig(**model), place)
    adamw = torch.optim.AdamW(decoder.parameters(), **optimizer)
    initial = [parameter.detach().clone() for parameter in decoder.parameters()]
    payload = bytearray(sys.stdin.buffer.read())
    batches = torch.frombuffer(payload, dtype=torch.uint16).reshape(tuple(shape)).to(torch.int64).unbind()
    train = importlib.import_module("train")

    throwaway = [torch.randint(0, model["vocab_size"], tuple(shape[1:])) for _ in range(warmup_steps)]
    train.inner_steps(decoder, iter(throwaway), adamw, warmup_steps, place)
    with torch.no_grad():
        for parameter, value in zip(decoder.parameters(), initial, strict=True):
            parameter.copy_(value)
            parameter.grad = None
        for state in adamw.state.values():
            for value in state.values():
                value.zero_()
    initial.clear()
    gc.collect()

    if place.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter_ns()
    train.inner_steps(decoder, iter(batches), adamw, len(batches), place)
    if place.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter_ns() - began


if __name__ == "__main__":
    print(main(**json.loads(sys.argv[1])))
