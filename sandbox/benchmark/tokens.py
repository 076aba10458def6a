"""Where tokens come from: a seeded synthetic source, or windows of real token shards. Runs on the host, never inside.

The seed stays with the controller: a sandbox only ever sees the tokens.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.uint16]

SUCCESSOR_PROBABILITY = 0.6
COPY_PROBABILITY = 0.15
COPY_DISTANCE = 16
ZIPF_EXPONENT = 1.1


class ShardError(Exception):
    """A shard cannot be used. The message names the file and says why."""


class TokenSource(Protocol):
    """Draws training data."""

    def draw(self, seed: int, *, steps: int, batch: int, length: int) -> Tokens:
        """Tokens (steps, batch, length); equal seeds give equal tokens."""


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """Sequences with learnable structure: most tokens follow a fixed public successor of the one before, some repeat
    the token `COPY_DISTANCE` back, the rest are drawn from a Zipf law. A model that learns all three does far better
    than one that knows token frequencies only.
    """

    vocab_size: int

    def draw(self, seed: int, *, steps: int, batch: int, length: int) -> Tokens:
        random = np.random.Generator(np.random.PCG64(seed))
        sequences = steps * batch
        weights = np.arange(1, self.vocab_size + 1, dtype=np.float64) ** -ZIPF_EXPONENT
        cumulative = np.cumsum(weights / weights.sum())
        fresh = np.searchsorted(cumulative, random.random((length, sequences))).clip(max=self.vocab_size - 1)
        choice = random.random((length, sequences))
        successor = np.random.Generator(np.random.PCG64(self.vocab_size)).permutation(self.vocab_size)
        tokens = fresh.astype(np.int64)
        for position in range(1, length):
            follows = choice[position] < SUCCESSOR_PROBABILITY
            tokens[position, follows] = successor[tokens[position - 1, follows]]
            if position >= COPY_DISTANCE:
                copies = choice[position] > 1.0 - COPY_PROBABILITY
                tokens[position, copies] = tokens[position - COPY_DISTANCE, copies]
        return np.ascontiguousarray(tokens.T.reshape(steps, batch, length)).astype(np.uint16)


@dataclass(frozen=True, kw_only=True)
class Shards:
    """Memory-mapped files of little-endian uint16 tokens; every sequence is a window at a place drawn by the seed."""

    files: tuple[npt.NDArray[np.uint16], ...]

    def draw(self, seed: int, *, steps: int, batch: int, length: int) -> Tokens:
        random = np.random.Generator(np.random.PCG64(seed))
        starts_per_file = np.array([max(0, file.size - length + 1) for file in self.files])
        ends = np.cumsum(starts_per_file)
        if ends[-1] == 0:
            raise ShardError(f"no shard holds {length} tokens, the length of one sequence")
        windows = np.empty((steps * batch, length), dtype=np.uint16)
        for row, start in enumerate(random.integers(0, ends[-1], size=steps * batch)):
            index = int(np.searchsorted(ends, start, side="right"))
            offset = int(start - (ends[index] - starts_per_file[index]))
            windows[row] = self.files[index][offset : offset + length]
        return windows.reshape(steps, batch, length)


def open_shards(directory: Path, expected: Sequence[tuple[str, str]], *, vocab_size: int) -> Shards:
    """Map the named shards, each checked against its sha256 and the vocabulary.

    Args:
        directory: where the files are.
        expected: (file name, sha256 hex) of each shard, in the hparams' order.
        vocab_size: tokens must be below it.

    Raises:
        ShardError: a file is missing, altered, of odd size, or holds a token outside the vocabulary.
    """
    files = []
    for name, sha256 in expected:
        path = directory / name
        try:
            with path.open("rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ShardError(f"{path}: {error.strerror}; put the competition's shards there") from None
        if actual != sha256:
            raise ShardError(f"{path}: sha256 is {actual}, the hparams say {sha256}")
        if path.stat().st_size == 0 or path.stat().st_size % 2:
            raise ShardError(f"{path}: {path.stat().st_size} bytes are no sequence of uint16 tokens")
        tokens = np.memmap(path, dtype="<u2", mode="r")
        if int(tokens.max()) >= vocab_size:
            raise ShardError(f"{path}: token {int(tokens.max())} is outside the vocabulary of {vocab_size}")
        files.append(tokens)
    return Shards(files=tuple(files))
