"""What the runner says of a result's form and of an exception. No sandbox, no channel: it only has to be fair here."""

import errno
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sandbox import runner
from sandbox.protocol import Loss
from sandbox.runner import MalformedOutput
from services.evaluator import controller
from tests.support.tiny import TINY

SHAPE = (TINY.evaluation.batch_size, TINY.evaluation.sequence_length - 1, TINY.model.vocab_size)


@pytest.fixture(scope="module")
def session() -> runner._Session:
    run = controller.Run(
        hparams=TINY,
        source=b"",
        is_reference=False,
        tokens=np.zeros((4, 1, 32), dtype=np.uint16),
        nonce=bytes(32),
        threads=torch.get_num_threads(),
        device="cpu",
    )
    built = runner._Session(runner._job(json.loads(json.dumps(controller._job(run)))))
    for parameter in built.parameters.values():
        built.optimizer.state[parameter]["exp_avg"] = torch.zeros_like(parameter)
    return built


def plain() -> torch.Tensor:
    return torch.ones(SHAPE)


def result(**changes: Any) -> Any:
    return SimpleNamespace(**{"final_logits": plain(), "total_tokens": 128, "final_loss": 3.2, **changes})


# --- logits ---


def inferred() -> torch.Tensor:
    with torch.inference_mode():
        return plain().mul(2)


def autograd_output() -> torch.Tensor:
    weight = torch.ones(SHAPE[-1], requires_grad=True)
    return plain() * weight


@pytest.mark.parametrize(
    "make",
    [
        plain,
        inferred,
        autograd_output,
        lambda: plain().requires_grad_(),
        lambda: torch.ones(SHAPE[::-1]).permute(2, 1, 0),
        lambda: torch.ones(1, 1, 1).expand(SHAPE),
        lambda: torch.ones(SHAPE[0] + 1, *SHAPE[1:])[1:],
        lambda: torch.from_numpy(np.ones(SHAPE, dtype=np.float32)),
        lambda: plain().share_memory_(),
    ],
    ids=["plain", "inference", "autograd", "leaf", "permuted", "expanded", "offset", "numpy", "shared"],
)
def test_ordinary_logits_are_taken_whatever_made_them(
    session: runner._Session, make: Callable[[], torch.Tensor]
) -> None:
    returned, logits = session.check(result(final_logits=make()))
    assert (returned.shape, returned.dtype) == (SHAPE, "float32")
    picked, *_ = session.evidence(logits, b"nonce")
    assert len(picked) == 4 * TINY.evidence.logit_positions * TINY.model.vocab_size


def leaked() -> torch.Tensor:
    """A tensor of a transform that has ended; it says that it has the right shape."""
    held: list[torch.Tensor] = []

    def keep(row: torch.Tensor) -> torch.Tensor:
        held.append(row.unsqueeze(0))
        return row

    torch.func.vmap(keep)(torch.ones(3, *SHAPE[1:]))
    return held[0]


class Subclass(torch.Tensor):
    """Another class, however harmless."""


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda: plain().to_sparse(),
        lambda: plain().to_sparse_csr(),
        lambda: plain().to("meta"),
        lambda: torch.nested.nested_tensor([plain()[0]] * SHAPE[0]),
        lambda: torch.nested.nested_tensor([plain()[0]] * SHAPE[0], layout=torch.jagged),
        lambda: torch.quantize_per_tensor(plain(), 0.01, 0, torch.qint8),
        lambda: torch.complex(plain(), plain()),
        lambda: torch.complex(plain(), plain()).conj(),
        lambda: torch.complex(plain(), plain()).conj().imag,
        lambda: plain().to_mkldnn(),
        lambda: torch._efficientzerotensor(SHAPE),
        lambda: torch._to_functional_tensor(plain()),
        leaked,
        lambda: plain().as_subclass(Subclass),
        lambda: torch.nn.Parameter(plain()),
        lambda: plain().bfloat16(),
        lambda: plain().double(),
        lambda: plain().int(),
        lambda: plain()[:, :-1],
        lambda: plain().flatten(),
        lambda: plain().numpy(),
        lambda: plain().tolist(),
        lambda: None,
    ],
)
def test_odd_logits_are_malformed_and_told_what_to_be(session: runner._Session, make: Callable[[], Any]) -> None:
    with pytest.raises(MalformedOutput, match=r"final_logits is .*it must be"):
        session.check(result(final_logits=make()))


def test_each_attribute_is_read_once(session: runner._Session) -> None:
    class Once:
        left = vars(result())

        def __getattr__(self, name: str) -> Any:
            return self.left.pop(name)

    returned, logits = session.check(Once())
    assert (returned.total_tokens, returned.final_loss, logits.shape) == (128, 3.2, SHAPE)
    assert Once.left == {}


def test_the_evidence_is_of_the_tensor_that_was_checked(session: runner._Session) -> None:
    given = plain()
    _, logits = session.check(result(final_logits=given))
    given.set_(torch.zeros(3))  # type: ignore[call-overload]
    picked, *_ = session.evidence(logits, b"nonce")
    assert set(np.frombuffer(picked, dtype="<f4")) == {1.0}


@pytest.mark.parametrize(
    "moment",
    [
        None,
        [0.0],
        torch.zeros(TINY.model.width + 1),
        torch.zeros(TINY.model.width, dtype=torch.int64),
        torch.zeros(TINY.model.width, device="meta"),
        torch.zeros(TINY.model.width).to_sparse(),
        torch.nn.Parameter(torch.zeros(TINY.model.width)),
    ],
    ids=["none", "list", "shape", "integers", "meta", "sparse", "parameter"],
)
def test_a_moment_that_is_none_is_named(session: runner._Session, moment: Any) -> None:
    name = "norm.weight"
    state = session.optimizer.state[session.parameters[name]]
    there = state["exp_avg"]
    state["exp_avg"] = moment
    try:
        with pytest.raises(MalformedOutput, match=f"no first moment of {name}: step the optimizer that is given, or"):
            session.evidence(plain(), b"")
    finally:
        state["exp_avg"] = there


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_moment_may_be_of_any_precision(session: runner._Session, dtype: torch.dtype) -> None:
    state = session.optimizer.state[session.parameters["norm.weight"]]
    there = state["exp_avg"]
    state["exp_avg"] = there.to(dtype)
    try:
        assert session.moments()[-1].dtype == dtype
    finally:
        state["exp_avg"] = there


def test_an_optimizer_that_was_never_stepped_is_told(session: runner._Session) -> None:
    states = dict(session.optimizer.state)
    session.optimizer.state.clear()
    try:
        with pytest.raises(MalformedOutput, match=r"no first moment of embedding\.weight"):
            session.moments()
    finally:
        session.optimizer.state.update(states)


@pytest.mark.parametrize("name", ["final_logits", "total_tokens", "final_loss"])
def test_a_missing_attribute_is_named(session: runner._Session, name: str) -> None:
    lacking = result()
    delattr(lacking, name)
    with pytest.raises(MalformedOutput, match=f"returned SimpleNamespace without {name}; return final_logits"):
        session.check(lacking)


# --- the loss ---


@pytest.mark.parametrize(
    "value",
    [
        3.0,
        3,
        np.float64(3),
        np.float32(3),
        np.float16(3),
        np.int64(3),
        np.array(3.0),
        np.array([[3.0]]),
        torch.tensor(3.0),
        torch.tensor([3.0], requires_grad=True),
        torch.tensor([[3]], dtype=torch.bfloat16),
        torch.nn.Parameter(torch.tensor(3.0)),
    ],
)
def test_every_number_is_a_loss(value: Any) -> None:
    assert runner._as_float(value) == 3.0


@pytest.mark.parametrize(
    "value",
    [
        "3.2",
        b"3.2",
        bytearray(b"3.2"),
        memoryview(b"3.2"),
        np.str_("3.2"),
        np.array("3.2"),
        np.array(["3.2"]),
        True,
        np.bool_(True),
        torch.tensor(True),
        3j,
        torch.tensor(3j),
        torch.ones(2),
        torch.ones(0),
        np.ones(2),
        torch.ones(1, device="meta"),
        Decimal(3),
        [3.0],
        None,
        object(),
    ],
    ids=repr,
)
def test_what_is_no_number_is_no_loss(value: Any) -> None:
    with pytest.raises(MalformedOutput, match="it must be a float, or a tensor of one element"):
        runner._as_float(value)


def test_a_loss_without_bounds_is_judged_later() -> None:
    assert runner._as_float(10**400) == math.inf
    assert math.isnan(runner._as_float(torch.tensor(math.nan)))


# --- exceptions ---


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def during(error: BaseException, context: BaseException) -> BaseException:
    error.__context__ = context
    return error


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("error", "loss"),
    [
        (os_error(errno.ENOSPC), Loss.RESOURCE_LIMIT),
        (os_error(errno.EDQUOT), Loss.RESOURCE_LIMIT),
        (os_error(errno.EFBIG), Loss.RESOURCE_LIMIT),
        (os_error(errno.EMFILE), Loss.RESOURCE_LIMIT),
        (RuntimeError("can't start new thread"), Loss.RESOURCE_LIMIT),
        (RuntimeError("unable to write to file </torch_1>: No space left on device (28)"), Loss.RESOURCE_LIMIT),
        (caused(ValueError("cache"), os_error(errno.ENOSPC)), Loss.RESOURCE_LIMIT),
        (during(KeyError("cache"), caused(ValueError(), os_error(errno.EMFILE))), Loss.RESOURCE_LIMIT),
        (os_error(errno.EAGAIN), Loss.CRASHED),
        (os_error(errno.ENOENT), Loss.CRASHED),
        (os_error(errno.ENOMEM), Loss.OUT_OF_MEMORY),
        (MemoryError(), Loss.OUT_OF_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory"), Loss.OUT_OF_MEMORY),
        (caused(RuntimeError("backend"), torch.OutOfMemoryError("CUDA")), Loss.OUT_OF_MEMORY),
        (RuntimeError("CUDA error: out of memory"), Loss.OUT_OF_MEMORY),
        (MalformedOutput("no"), Loss.MALFORMED_OUTPUT),
        (ValueError("no"), Loss.CRASHED),
        (SystemExit(0), Loss.CRASHED),
    ],
    ids=repr,
)
def test_an_exception_tells_what_was_lost(error: BaseException, loss: Loss) -> None:
    assert runner._loss(error) is loss


def test_a_process_too_many_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_can_start_thread", lambda: False)
    assert runner._loss(os_error(errno.EAGAIN)) is Loss.RESOURCE_LIMIT


def test_what_was_hidden_is_not_looked_at() -> None:
    error = during(ValueError(), os_error(errno.ENOSPC))
    error.__suppress_context__ = True
    assert runner._loss(error) is Loss.CRASHED


def test_a_ring_of_causes_ends() -> None:
    first, second = ValueError(1), ValueError(2)
    first.__cause__, second.__cause__ = second, first
    assert runner._loss(first) is Loss.CRASHED


# --- the file ---


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (b"def inner_steps(:", "SyntaxError: invalid syntax"),
        (b"return 1\n", "'return' outside function"),
        (b"# coding: none\n", "unknown encoding: none"),
        (b"a = '\0'\n", "null bytes"),
        (b"(" * 300, "too many nested parentheses"),
        (b"-" * 100_000 + b"1", "Error: "),
    ],
)
def test_a_file_that_is_no_python_is_said_to_be_none(
    source: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setitem(sys.modules, "train", ModuleType("train"))  # put back afterwards
    with pytest.raises(MalformedOutput, match="the file cannot be compiled") as refused:
        runner._load(source)
    assert said in str(refused.value)


# --- the GPU's memory ---


@pytest.mark.parametrize("there_bytes", [0, 1, 2**21 - 1, 2**21, 5 * 2**30 + 3 * 2**21 + 7])
def test_all_memory_is_overwritten_but_less_than_a_piece(there_bytes: int) -> None:
    held: list[int] = []

    def zeros(count: int) -> int:
        if sum(held) + count > there_bytes:
            raise torch.OutOfMemoryError
        held.append(count)
        return count

    runner.wipe(zeros, torch.OutOfMemoryError)
    assert there_bytes - sum(held) < runner.SMALLEST_WIPE_BYTES
    assert len(held) <= there_bytes // runner.LARGEST_WIPE_BYTES + 10
