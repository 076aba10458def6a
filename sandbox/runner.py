"""The shim around a submission, inside the sandbox: no clock, no seed, no verdict. Nothing it says is believed.

It answers the controller's frames (sandbox/protocol.py): imports the submission, warms it up, restores the model,
runs it on fresh data, then computes the evidence that a nonce asks for. Everything here can be tampered with by the
submission it runs, and nothing here relies on that not happening.
"""

import contextlib
import errno
import gc
import importlib.util
import json
import math
import numbers
import operator
import os
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from sandbox import protocol
from sandbox.protocol import Failed, Kind, Loss, Returned, Stage

if TYPE_CHECKING:
    import torch

    from sandbox.benchmark.model import Decoder, ModelConfig
    from sandbox.evidence import EvidenceConfig

FROM_CONTROLLER = (0, 2**40)
"""The controller is trusted, so its frames are not capped tightly."""
LIMITS = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE))
"""What the kernel says when a limit of the sandbox on files is reached. Libraries put it into errors of their own."""
NO_THREAD = "can't start new thread"
MOST_CAUSES = 100
"""How far an exception's causes are looked into."""
LARGEST_WIPE_BYTES = 2**30
SMALLEST_WIPE_BYTES = 2**21
"""A CUDA driver hands out memory in pieces of this size."""


class MalformedOutput(Exception):
    """The submission's result is not what inner_steps must return."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What PREPARE asks for."""

    model: "ModelConfig"
    optimizer: dict[str, Any]
    evidence: "EvidenceConfig"
    num_steps: int
    batch_size: int
    sequence_length: int
    warmup_steps: int
    threads: int
    device: str
    is_reference: bool


class Channel:
    """The runner's end of the socket."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(path)

    def send(self, kind: Kind, *parts: bytes | memoryview) -> None:
        """Send a frame whose payload is the concatenation of the parts."""
        length = sum(len(part) for part in parts)
        self._socket.sendall(protocol.HEADER.pack(protocol.MAGIC, protocol.VERSION, kind, 0, length))
        for part in parts:
            self._socket.sendall(part)

    def receive(self, kind: Kind) -> bytearray:
        """Wait for the next frame, which must be of this kind."""
        return protocol.read_frame(self._read, {kind: FROM_CONTROLLER})[1]

    def fail(self, stage: Stage, loss: Loss, message: str) -> NoReturn:
        """Tell why the run is lost, and end this process without running anything more of the submission's."""
        with contextlib.suppress(OSError):
            self.send(Kind.FAILED, protocol.pack_failed(Failed(stage=stage, loss=loss, message=message)))
        sys.stderr.flush()
        os._exit(1)

    def _read(self, count: int) -> bytearray:
        buffer = bytearray(count)
        view = memoryview(buffer)
        while view:
            received = self._socket.recv_into(view)
            if received == 0:
                raise protocol.ChannelClosed
            view = view[received:]
        return buffer


def main(socket_path: str) -> None:
    """One run, from HELLO to EVIDENCE or FAILED."""
    _detach_standard_streams()
    channel = Channel(socket_path)
    channel.send(Kind.HELLO)
    job = channel.receive(Kind.PREPARE)
    with _failing_as(channel, Stage.BUILD):
        session = _Session(_job(json.loads(job)))
    channel.send(Kind.BUILT)
    source = channel.receive(Kind.SUBMISSION)
    with _failing_as(channel, Stage.IMPORT):
        submission = _load(bytes(source))
    # Its threads and its signal handlers go on while this waits for the controller, so waiting can fail by it too.
    with _failing_as(channel, Stage.WARMUP):
        session.warm_up(submission)
        channel.send(Kind.READY)
        tokens = channel.receive(Kind.START)
    with _failing_as(channel, Stage.TRAIN):
        returned, logits = session.check(session.train(submission, tokens))
        channel.send(Kind.RETURNED, protocol.pack_returned(returned))
        nonce = bytes(channel.receive(Kind.REVEAL))
    with _failing_as(channel, Stage.EVIDENCE):
        channel.send(Kind.EVIDENCE, *session.evidence(logits, nonce))
    sys.stderr.flush()
    os._exit(0)


class _Session:
    """Model, optimizer and what is needed to restore and to judge them. torch is imported here, after HELLO."""

    def __init__(self, job: Job) -> None:
        import torch  # noqa: PLC0415 - the controller waits for HELLO, not for torch

        from sandbox.benchmark.model import build_model  # noqa: PLC0415

        torch.set_num_threads(job.threads)
        self.job = job
        self.device = torch.device(job.device)
        self.plain = _kinds(torch.device("cpu")) | _kinds(self.device)
        if self.device.type == "cuda":
            wipe(lambda count: torch.zeros(count, dtype=torch.uint8, device=self.device), torch.OutOfMemoryError)
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        self.model: Decoder = build_model(job.model, self.device)
        self.parameters = dict(self.model.named_parameters())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), **job.optimizer)
        self.initial = [parameter.detach().clone() for parameter in self.parameters.values()]
        self.previous: list[torch.Tensor] | None = None

    def warm_up(self, submission: ModuleType) -> None:
        """One call on throw-away data, so that compilation is not timed; then everything is put back as it was."""
        import torch  # noqa: PLC0415

        states = (torch.get_rng_state(), torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [])
        shape = (self.job.batch_size, self.job.sequence_length)
        batches = [torch.randint(0, self.job.model.vocab_size, shape) for _ in range(self.job.warmup_steps)]
        _, logits = self.check(self._call(submission, batches))
        self.evidence(logits, nonce=b"warm-up")  # so that no library is loaded while the clock runs
        del logits
        with torch.no_grad():
            for parameter, initial in zip(self.parameters.values(), self.initial, strict=True):
                parameter.copy_(initial)
                parameter.grad = None
            for state in self.optimizer.state.values():
                for value in state.values():
                    if isinstance(value, torch.Tensor):
                        value.zero_()
        torch.set_rng_state(states[0])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state_all(states[1])
            torch.cuda.synchronize()
        if not self.job.is_reference:
            self.initial.clear()
        gc.collect()

    def train(self, submission: ModuleType, payload: bytearray) -> Any:
        """The scored call. The reference stops before its last step to keep the parameters, then takes it."""
        import torch  # noqa: PLC0415

        shape = (self.job.num_steps, self.job.batch_size, self.job.sequence_length)
        batches = torch.frombuffer(payload, dtype=torch.uint16).reshape(shape).to(torch.int64).unbind()
        if not self.job.is_reference:
            return self._call(submission, batches)
        first = self._call(submission, batches[:-1])
        self.previous = [parameter.detach().clone() for parameter in self.parameters.values()]
        result = self._call(submission, batches[-1:])
        result.total_tokens += first.total_tokens
        return result

    def check(self, result: Any) -> "tuple[Returned, torch.Tensor]":
        """What the controller is told about a result, and its logits once evidence can be taken from them.

        Each attribute is read once, because it may answer differently the next time.

        Raises:
            MalformedOutput: an attribute is missing, or of the wrong type or shape.
        """
        import torch  # noqa: PLC0415

        logits = _attribute(result, "final_logits")
        total_tokens = _as_int64(_attribute(result, "total_tokens"))
        final_loss = _as_float(_attribute(result, "final_loss"))
        if type(logits) is not torch.Tensor:
            raise MalformedOutput(f"final_logits is {type(logits).__name__}; it must be a plain torch.Tensor")
        if _kind(logits) not in self.plain:
            raise MalformedOutput(
                f"final_logits is a tensor of an unusual kind, {logits.layout} on {logits.device}, dispatched as "
                f"{torch._C._dispatch_keys(logits)}; it must be dense, with its values in the memory of {self.device} "
                "or of the CPU: return logits.detach().float() of what the model gave"
            )
        shape = tuple(logits.shape)
        expected = (self.job.batch_size, self.job.sequence_length - 1, self.job.model.vocab_size)
        if shape != expected or logits.dtype != torch.float32:
            raise MalformedOutput(
                f"final_logits is {shape} {logits.dtype}; it must be {expected} torch.float32: "
                "all logits of the last forward pass, converted with .float()"
            )
        returned = Returned(total_tokens=total_tokens, final_loss=final_loss, dtype="float32", shape=shape)
        return returned, logits.detach()

    def moments(self) -> "list[torch.Tensor]":
        """AdamW's first moments, in the order of the parameters.

        Raises:
            MalformedOutput: the given optimizer holds none for a parameter.
        """
        import torch  # noqa: PLC0415

        moments = []
        for name, parameter in self.parameters.items():
            state = self.optimizer.state.get(parameter, {})
            moment = state.get("exp_avg") if isinstance(state, dict) else None
            if (
                type(moment) is not torch.Tensor
                or _kind(moment) not in self.plain
                or moment.shape != parameter.shape
                or not moment.is_floating_point()
            ):
                raise MalformedOutput(
                    f"the optimizer has no first moment of {name}: step the optimizer that is given, or leave in "
                    f'optimizer.state[parameter]["exp_avg"] what AdamW leaves there, shape {tuple(parameter.shape)}'
                )
            moments.append(moment)
        return moments

    def evidence(self, logits: "torch.Tensor", nonce: bytes) -> list[bytes]:
        """Payload of EVIDENCE, little-endian: picked logits, probe logits (float32), sketches (float64)."""
        from sandbox import evidence  # noqa: PLC0415

        job = self.job
        picked = evidence.picked_logits(logits, job.evidence.logit_positions, nonce)
        probe = evidence.probe_logits(
            job.model,
            {name: parameter.detach() for name, parameter in self.parameters.items()},
            length=job.sequence_length,
            count=job.evidence.probe_positions,
            nonce=nonce,
            device=self.device,
        )
        tensors: list[Sequence[torch.Tensor]] = [list(self.parameters.values()), self.moments()]
        if self.previous is not None:
            tensors += [self.initial, self.previous]
        rows, columns = job.evidence.sketch_rows, job.evidence.sketch_columns
        sketches = [evidence.sketch(group, rows=rows, columns=columns, nonce=nonce) for group in tensors]
        return [part.contiguous().numpy().tobytes() for part in (picked, probe, *sketches)]

    def _call(self, submission: ModuleType, batches: "Sequence[torch.Tensor]") -> Any:
        iterator: Iterator[torch.Tensor] = iter(batches)
        return submission.inner_steps(self.model, iterator, self.optimizer, len(batches), self.device)


def wipe(zeros: Callable[[int], object], exhausted: type[Exception]) -> None:
    """Overwrite a GPU's memory: what others left there is not the submission's to read.

    Args:
        zeros: allocates so many bytes, all zero.
        exhausted: what it raises when there are not so many.
    """
    held = []
    size = LARGEST_WIPE_BYTES
    while size >= SMALLEST_WIPE_BYTES:
        try:
            held.append(zeros(size))
        except exhausted:
            size //= 2


def _job(payload: dict[str, Any]) -> Job:
    from sandbox.benchmark.model import ModelConfig  # noqa: PLC0415 - imports torch
    from sandbox.evidence import EvidenceConfig  # noqa: PLC0415

    payload["model"] = ModelConfig(**payload["model"])
    payload["evidence"] = EvidenceConfig(**payload["evidence"])
    return Job(**payload)


def _load(source: bytes) -> ModuleType:
    """Import the submission from a file of its own, so that tracebacks, inspect and torch.compile find its source."""
    path = Path(tempfile.mkdtemp(prefix="submission-")) / "train.py"
    path.write_bytes(source)
    spec = importlib.util.spec_from_file_location("train", path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train"] = module
    try:
        code = compile(source, str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise MalformedOutput(f"the file cannot be compiled: {type(error).__name__}: {error}") from None
    exec(code, module.__dict__)  # noqa: S102 - what this process is for
    if not callable(getattr(module, "inner_steps", None)):
        raise MalformedOutput("the file defines no callable inner_steps")
    return module


def _attribute(result: Any, name: str) -> Any:
    try:
        return getattr(result, name)
    except AttributeError:
        raise MalformedOutput(
            f"inner_steps returned {type(result).__name__} without {name}; "
            "return final_logits, total_tokens and final_loss"
        ) from None


def _kinds(device: "torch.device") -> set[int]:
    """The kinds of ordinary tensors of a device: those that autograd may follow, and those of inference mode."""
    import torch  # noqa: PLC0415

    kinds = set()
    for inference in (False, True):
        with torch.inference_mode(inference):
            kinds.add(_kind(torch.empty(0, device=device)))
    return kinds


def _kind(tensor: "torch.Tensor") -> int:
    """How torch dispatches it: in another way what is sparse, quantized, nested, negated, wrapped, without values."""
    import torch  # noqa: PLC0415

    return torch._C._dispatch_keys(tensor).raw_repr()


def _as_int64(value: Any) -> int:
    """An exact integer. A bool, a float or a number beyond 64 bits is no token count."""
    if isinstance(value, bool):
        raise MalformedOutput("total_tokens is a bool; it must be an int")
    try:
        number = operator.index(value)
    except TypeError:
        raise MalformedOutput(f"total_tokens is {type(value).__name__}; it must be an int") from None
    if not -(2**63) <= number < 2**63:
        raise MalformedOutput("total_tokens does not fit into 64 bits")
    return number


def _as_float(value: Any) -> float:
    """A real number: Python's, numpy's, or a tensor or an array of one element. Text and truth values are none."""
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415

    number = value
    if isinstance(value, torch.Tensor | np.ndarray):
        try:
            number = value.item()
        except torch.AcceleratorError:  # of the training, noticed only here
            raise
        except (RuntimeError, ValueError):
            number = None
    if isinstance(number, bool) or not isinstance(number, numbers.Real):
        raise MalformedOutput(
            f"final_loss is {type(value).__name__}; it must be a float, or a tensor of one element that is one"
        )
    try:
        return float(number)
    except OverflowError:
        return math.inf


@contextlib.contextmanager
def _failing_as(channel: Channel, stage: Stage) -> Iterator[None]:
    """Turn whatever the submission raises, SystemExit included, into a FAILED frame."""
    try:
        yield
    except BaseException as error:  # noqa: BLE001 - the submission may raise anything
        try:
            loss = _loss(error)
            message = str(error) if loss is Loss.MALFORMED_OUTPUT else traceback.format_exc()
        except BaseException:  # noqa: BLE001 - and that may raise again when it is looked at
            loss, message = Loss.CRASHED, "the submission raised an exception that cannot be printed"
        channel.fail(stage, loss, message)


def _loss(error: BaseException) -> Loss:
    """What an exception tells of, or else one that caused it."""
    if isinstance(error, MalformedOutput):
        return Loss.MALFORMED_OUTPUT
    link: BaseException | None = error
    for _ in range(MOST_CAUSES):
        if link is None:
            break
        if _is_out_of_memory(link):
            return Loss.OUT_OF_MEMORY
        if _is_limit(link):
            return Loss.RESOURCE_LIMIT
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return Loss.CRASHED


def _is_out_of_memory(error: BaseException) -> bool:
    import torch  # noqa: PLC0415

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in ("can't allocate memory", os.strerror(errno.ENOMEM), "out of memory"))


def _is_limit(error: BaseException) -> bool:
    said = str(error)
    if any(words in said for words in (*LIMITS, NO_THREAD)):
        return True
    # The kernel says the same of a process too many and of a pipe that has nothing to read.
    return os.strerror(errno.EAGAIN) in said and not _can_start_thread()


def _can_start_thread() -> bool:
    try:
        threading.Thread(target=int).start()
    except RuntimeError:
        return False
    return True


def _detach_standard_streams() -> None:
    """Nothing to read; what is printed goes to stderr, which is only a log."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except BaseException:  # noqa: BLE001 - a signal handler of the submission's may raise anywhere
        traceback.print_exc()
    finally:
        os._exit(1)  # its threads may never end
