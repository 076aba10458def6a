"""Makes token shards from text: `python -m sandbox.benchmark.make_shards OUT TEXT... [--tokenizer FILE]`.

Writes little-endian uint16 .bin files and prints the `data` section of the hparams that use them. Without a tokenizer
file it trains a byte-level BPE on the text itself and keeps it beside the shards, so that the recipe needs no download.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sandbox.benchmark.tokens import Tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UINT16_VOCABULARY = 65_536
DOCUMENT_END = "<|endoftext|>"
DEFAULT_SHARD_TOKENS = 100_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """0: shards are written. 2: an input cannot be used, said in one line."""
    options = _parse(arguments)
    try:
        shards = make_shards(
            options.texts,
            options.out,
            tokenizer_file=options.tokenizer,
            vocab_size=options.vocab_size,
            shard_tokens=options.shard_tokens,
        )
    except (OSError, ValueError) as error:
        print(f"make_shards: {error}", file=sys.stderr)  # noqa: T201
        return 2
    print(json.dumps({"data": {"source": "shards", "shards": shards}}, indent=2))  # noqa: T201
    return 0


def make_shards(
    texts: Sequence[Path], out: Path, *, tokenizer_file: Path | None, vocab_size: int, shard_tokens: int
) -> list[dict[str, str]]:
    """Tokenize UTF-8 text files, each one document with an end token, into shards of at most `shard_tokens` tokens.

    Returns:
        name and sha256 of each shard, as the hparams want them.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: a text is not UTF-8, or the tokenizer has more tokens than `vocab_size`.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers  # noqa: PLC0415 - only this recipe needs it

    out.mkdir(parents=True, exist_ok=True)
    if tokenizer_file is not None:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[DOCUMENT_END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=sys.stderr.isatty(),
        )
        tokenizer.train([str(text) for text in texts], trainer)
        tokenizer.save(str(out / "tokenizer.json"))
    if tokenizer.get_vocab_size() > vocab_size:
        raise ValueError(f"the tokenizer has {tokenizer.get_vocab_size()} tokens; the model has {vocab_size}")
    end = tokenizer.token_to_id(DOCUMENT_END)
    if end is None:
        raise ValueError(f"the tokenizer has no {DOCUMENT_END} token to end a document with")

    shards = []
    for number, tokens in enumerate(_fill(_documents(texts, tokenizer, end), shard_tokens)):
        name = f"tokens-{number:05d}.bin"
        content = tokens.astype("<u2").tobytes()
        (out / name).write_bytes(content)
        shards.append({"name": name, "sha256": hashlib.sha256(content).hexdigest()})
        print(f"{name}: {tokens.size:,} tokens", file=sys.stderr)  # noqa: T201
    return shards


def _documents(texts: Sequence[Path], tokenizer: "Tokenizer", end: int) -> Iterator[Tokens]:
    for text in texts:
        try:
            content = text.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{text} is not UTF-8: {error.reason} at byte {error.start}") from None
        yield np.array([*tokenizer.encode(content).ids, end], dtype=np.uint16)


def _fill(documents: Iterator[Tokens], shard_tokens: int) -> Iterator[Tokens]:
    """Regroup documents into arrays of exactly `shard_tokens`, the last one shorter."""
    held: list[Tokens] = []
    size = 0
    for document in documents:
        held.append(document)
        size += document.size
        while size >= shard_tokens:
            joined = np.concatenate(held)
            yield joined[:shard_tokens]
            held, size = [joined[shard_tokens:]], size - shard_tokens
    if size:
        yield np.concatenate(held)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make_shards", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder for the shards")
    parser.add_argument("texts", type=Path, nargs="+", help="UTF-8 text files, one document each")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json; default: train one on the text")
    parser.add_argument("--vocab-size", type=int, default=50_304, help="the model's vocabulary (default 50304)")
    parser.add_argument("--shard-tokens", type=int, default=DEFAULT_SHARD_TOKENS, help="tokens in one shard")
    options = parser.parse_args(arguments)
    if not 257 <= options.vocab_size <= UINT16_VOCABULARY:
        parser.error(f"--vocab-size must be from 257 (bytes and an end) to {UINT16_VOCABULARY} (uint16)")
    if options.shard_tokens < 1:
        parser.error("--shard-tokens must be at least 1")
    return options


if __name__ == "__main__":
    raise SystemExit(main())
