"""Every number of a competition: read from one JSON file, checked, identified by the sha256 of its canonical form."""

import hashlib
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=1)]
Fraction = Annotated[float, Meta(gt=0.0, lt=1.0)]
Seconds = Annotated[float, Meta(gt=0.0, le=86_400.0)]


class HparamsError(Exception):
    """The file cannot be used. The message names the file and the key."""


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Model(_Section, frozen=True, kw_only=True):
    """A decoder-only transformer: RMSNorm, rotary positions, causal attention, SwiGLU, tied embeddings, no biases."""

    vocab_size: Annotated[int, Meta(ge=2, le=65_536)]
    layers: Annotated[int, Meta(ge=1, le=256)]
    width: Annotated[int, Meta(ge=2, le=16_384)]
    heads: Annotated[int, Meta(ge=1, le=256)]
    hidden: Annotated[int, Meta(ge=1, le=65_536)]
    """Width of the SwiGLU hidden layer."""
    initial_seed: Annotated[int, Meta(ge=0, le=2**53)]
    """Of the public initial weights."""

    def __post_init__(self) -> None:
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} must be an even multiple of heads {self.heads}")

    @property
    def parameter_count(self) -> int:
        """Exact number of trained parameters; the tied embedding counts once."""
        attention = 4 * self.width * self.width
        feed_forward = 3 * self.width * self.hidden
        norms = 2 * self.width
        return self.vocab_size * self.width + self.layers * (attention + feed_forward + norms) + self.width


class Optimizer(_Section, frozen=True, kw_only=True):
    """AdamW on all parameters, no clipping, no schedule."""

    learning_rate: Annotated[float, Meta(gt=0.0, le=1.0)]
    betas: tuple[Annotated[float, Meta(ge=0.0, lt=1.0)], Annotated[float, Meta(ge=0.0, lt=1.0)]]
    epsilon: Annotated[float, Meta(gt=0.0, le=1e-2)]
    weight_decay: Annotated[float, Meta(ge=0.0, le=1.0)]


class Synthetic(_Section, frozen=True, kw_only=True, tag="synthetic", tag_field="source"):
    """Seeded token sequences with learnable structure; see sandbox/benchmark/tokens.py."""


class Shard(_Section, frozen=True, kw_only=True):
    """One file of little-endian uint16 tokens."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]+\.bin$")]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class Shards(_Section, frozen=True, kw_only=True, tag="shards", tag_field="source"):
    """Real tokens: files in the validator's shard directory, the same for all validators."""

    shards: Annotated[tuple[Shard, ...], Meta(min_length=1)]


class Evaluation(_Section, frozen=True, kw_only=True):
    """One evaluation of a submission."""

    runs: Annotated[int, Meta(ge=1, le=100)]
    num_steps: Annotated[int, Meta(ge=2, le=100_000)]
    batch_size: Annotated[int, Meta(ge=1, le=4096)]
    sequence_length: Annotated[int, Meta(ge=2, le=65_536)]
    warmup_steps: Annotated[int, Meta(ge=2, le=100)]
    """At least 2: a step compiled together with its optimizer makes two graphs."""
    prepare_timeout_seconds: Seconds
    """For the sandbox to start; and again for model, import and warm-up. Not scored."""
    timeout_seconds: Seconds
    """Of the timed region."""

    @property
    def tokens(self) -> int:
        """Tokens of one run: batches x batch.numel()."""
        return self.num_steps * self.batch_size * self.sequence_length


class Evidence(_Section, frozen=True, kw_only=True):
    """How much a run must reveal under the nonce."""

    logit_positions: Annotated[int, Meta(ge=1, le=65_536)]
    """Rows of the final logits (of batch x (sequence - 1)) that the nonce picks."""
    probe_positions: Annotated[int, Meta(ge=1, le=65_536)]
    """Rows of the logits on a secret probe batch (of the training batch's shape)."""
    sketch_rows: Annotated[int, Meta(ge=1, le=4096)]
    sketch_columns: Annotated[int, Meta(ge=1, le=4096)]
    """Each trained tensor is projected to at most rows x columns random sums."""


class Verification(_Section, frozen=True, kw_only=True):
    """Allowed distances from the reference; services/verifier/judge.py defines each."""

    output_tolerance: Fraction
    probe_tolerance: Fraction
    loss_tolerance: Fraction
    update_tolerance: Fraction
    tensor_tolerance: Fraction
    direction_tolerance: Fraction
    momentum_tolerance: Fraction


class Sandbox(_Section, frozen=True, kw_only=True):
    """Limits of one sandbox."""

    memory_bytes: Annotated[int, Meta(ge=2**28)]
    cpus: Annotated[int, Meta(ge=1, le=1024)]
    processes: Annotated[int, Meta(ge=16, le=65_536)]
    tmp_bytes: Annotated[int, Meta(ge=2**20)]
    shm_bytes: Annotated[int, Meta(ge=2**20)]


class Economy(_Section, frozen=True, kw_only=True):
    """Money and the chain."""

    netuid: Annotated[int, Meta(ge=0, le=65_535)]
    submission_cost_rao: Annotated[int, Meta(ge=0)]
    payment_max_age_seconds: Count = 86_400
    """How long after its block a payment can be used, by the chain's clock."""
    weights_interval_seconds: Annotated[int, Meta(ge=1, le=86_400)]


class SketchedTensor(NamedTuple):
    """One trained tensor, and how many numbers of a sketch are its own."""

    name: str
    elements: int
    length: int


class Hparams(_Section, frozen=True, kw_only=True):
    """One competition. Scores under different hparams are never compared."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,40}$")]
    max_code_bytes: Annotated[int, Meta(ge=1024, le=2**20)]
    model: Model
    optimizer: Optimizer
    data: Synthetic | Shards
    evaluation: Evaluation
    evidence: Evidence
    verification: Verification
    sandbox: Sandbox
    economy: Economy

    @property
    def sketch_length(self) -> int:
        """Numbers in one sketch of all trained tensors; sandbox/evidence.py makes it, and a test compares."""
        return sum(tensor.length for tensor in self.sketched_tensors)

    @property
    def sketched_tensors(self) -> tuple[SketchedTensor, ...]:
        """The trained tensors in the order of the model's parameters, which is that of a sketch; a test compares."""
        model = self.model
        width, hidden = model.width, model.hidden
        block = {
            "attention_norm.weight": (width, 1),
            "attention.query.weight": (width, width),
            "attention.key.weight": (width, width),
            "attention.value.weight": (width, width),
            "attention.output.weight": (width, width),
            "feed_forward_norm.weight": (width, 1),
            "feed_forward.gate.weight": (hidden, width),
            "feed_forward.up.weight": (hidden, width),
            "feed_forward.down.weight": (width, hidden),
        }
        shapes = {"embedding.weight": (model.vocab_size, width)}
        for layer in range(model.layers):
            shapes |= {f"blocks.{layer}.{name}": shape for name, shape in block.items()}
        shapes["norm.weight"] = (width, 1)
        rows, columns = self.evidence.sketch_rows, self.evidence.sketch_columns
        return tuple(
            SketchedTensor(name=name, elements=height * across, length=rows * min(columns, across))
            for name, (height, across) in shapes.items()
        )

    def encode(self) -> bytes:
        """The canonical bytes: compact JSON, keys sorted. What is stored as an artifact and hashed."""
        return msgspec.json.encode(self, order="sorted")

    @property
    def sha256(self) -> str:
        """Identity of the competition, 64 hex digits."""
        return hashlib.sha256(self.encode()).hexdigest()


def parse(content: bytes, *, origin: str = "hparams") -> Hparams:
    """Decode and check.

    Raises:
        HparamsError: not JSON, an unknown key, or a value of the wrong type or out of range; the key is named.
    """
    try:
        return msgspec.json.decode(content, type=Hparams)
    except msgspec.MsgspecError as error:
        raise HparamsError(f"{origin}: {error}") from None


def load(path: Path) -> Hparams:
    """Read and check one file.

    Raises:
        HparamsError: the file cannot be read or used.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise HparamsError(f"{path}: {error.strerror}") from None
    return parse(content, origin=str(path))
