"""The benchmark: exact size, deterministic weights, tokens with structure, shards that cannot be swapped, a recipe."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.benchmark import make_shards
from sandbox.benchmark.model import Attention, Decoder, ModelConfig, build_model, rotary_tables, rotate
from sandbox.benchmark.reference import inner_steps
from sandbox.benchmark.tokens import COPY_DISTANCE, ShardError, Shards, Synthetic, open_shards
from sandbox.evidence import sketch
from shared.hparams import Hparams, load

CPU = torch.device("cpu")
REAL, DEMO = load(Path("hparams/hparams.json")), load(Path("hparams/demo.json"))
GOLDEN_WEIGHTS = (-0.0305119175, -0.0150046358, -0.0130796181, -0.0321896933)
TINY = ModelConfig(vocab_size=64, layers=2, width=32, heads=4, hidden=48, initial_seed=1)


def config_of(hparams: Hparams) -> ModelConfig:
    model = hparams.model
    return ModelConfig(
        vocab_size=model.vocab_size,
        layers=model.layers,
        width=model.width,
        heads=model.heads,
        hidden=model.hidden,
        initial_seed=model.initial_seed,
    )


@pytest.mark.parametrize(("hparams", "count"), [(REAL, 149_545_728), (DEMO, 623_488)], ids=["real", "demo"])
def test_the_model_has_exactly_the_stated_parameters(hparams: Hparams, count: int) -> None:
    with torch.device("meta"):
        model = Decoder(config_of(hparams))
    assert sum(parameter.numel() for parameter in model.parameters()) == count == hparams.model.parameter_count


@pytest.mark.parametrize("hparams", [REAL, DEMO], ids=["real", "demo"])
def test_the_controller_knows_the_length_of_a_sketch(hparams: Hparams) -> None:
    with torch.device("meta"):
        shapes = [parameter.shape for parameter in Decoder(config_of(hparams)).parameters()]
    rows, columns = hparams.evidence.sketch_rows, hparams.evidence.sketch_columns
    width_only = [torch.zeros(2, *shape[1:]) for shape in shapes]  # the length does not depend on a tensor's rows
    assert sketch(width_only, rows=rows, columns=columns, nonce=b"n").shape == (hparams.sketch_length,)


@pytest.mark.parametrize("hparams", [REAL, DEMO], ids=["real", "demo"])
def test_the_verifier_knows_the_name_of_every_tensor_and_its_place_in_a_sketch(hparams: Hparams) -> None:
    with torch.device("meta"):
        tensors = dict(Decoder(config_of(hparams)).named_parameters())
    assert [tensor.name for tensor in hparams.sketched_tensors] == list(tensors)
    assert [tensor.elements for tensor in hparams.sketched_tensors] == [one.numel() for one in tensors.values()]
    rows, columns = hparams.evidence.sketch_rows, hparams.evidence.sketch_columns
    for tensor, parameter in zip(hparams.sketched_tensors, tensors.values(), strict=True):
        one = sketch([torch.zeros(2, *parameter.shape[1:])], rows=rows, columns=columns, nonce=b"n")
        assert one.shape == (tensor.length,)


def test_initial_weights_are_public_and_equal_everywhere() -> None:
    one, two = build_model(TINY, CPU), build_model(TINY, CPU)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    # Not to the last bit: vector units of different width round the logarithm inside a normal draw differently.
    assert torch.allclose(one.embedding.weight[0, :4], torch.tensor(GOLDEN_WEIGHTS), rtol=1e-5)


def test_no_position_sees_its_future() -> None:
    model = build_model(TINY, CPU)
    tokens = torch.arange(16)[None] % 64
    changed = tokens.clone()
    changed[0, 9:] = 5
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.equal(before[:, 9:], after[:, 9:])


def test_rotation_keeps_lengths_and_depends_on_relative_position_only() -> None:
    x, y = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)
    cosine, sine = rotary_tables(32, 8, CPU)
    turned = [rotate(x, cosine[i : i + 1], sine[i : i + 1]) for i in range(32)]
    other = [rotate(y, cosine[i : i + 1], sine[i : i + 1]) for i in range(32)]
    assert torch.allclose(turned[7].norm(), x.norm())
    assert torch.allclose((turned[3] * other[10]).sum(), (turned[20] * other[27]).sum(), atol=1e-5)


def test_attention_is_what_torch_computes() -> None:
    attention = Attention(32, 4)
    x = torch.randn(2, 12, 32)
    q, k, v = (p(x).view(2, 12, 4, 8).transpose(1, 2) for p in (attention.query, attention.key, attention.value))
    cosine, sine = rotary_tables(12, 8, CPU)
    expected = F.scaled_dot_product_attention(rotate(q, cosine, sine), rotate(k, cosine, sine), v, is_causal=True)
    expected = attention.output(expected.transpose(1, 2).reshape(2, 12, 32))
    assert torch.allclose(attention(x), expected, atol=1e-5)


def test_the_reference_learns_the_structure() -> None:
    model = build_model(TINY, CPU)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    tokens = Synthetic(vocab_size=64).draw(1, steps=60, batch=8, length=48)
    batches = torch.from_numpy(tokens.astype(np.int64)).unbind()
    first = inner_steps(model, iter(batches[:1]), optimizer, 1, CPU)
    last = inner_steps(model, iter(batches[1:]), optimizer, 59, CPU)
    assert (first.total_tokens, last.total_tokens) == (8 * 48, 59 * 8 * 48)
    assert last.final_logits.shape == (8, 47, 64)
    frequencies = np.bincount(tokens.ravel(), minlength=64) / tokens.size
    unigram = -(frequencies * np.log(frequencies.clip(1e-12))).sum()
    assert last.final_loss < 0.8 * unigram < first.final_loss


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**53 - 1), vocab=st.integers(2, 65_536))
def test_synthetic_tokens_are_a_function_of_the_seed(seed: int, vocab: int) -> None:
    source = Synthetic(vocab_size=vocab)
    one = source.draw(seed, steps=2, batch=3, length=40)
    assert one.shape == (2, 3, 40)
    assert one.dtype == np.uint16
    assert int(one.max()) < vocab
    assert np.array_equal(one, source.draw(seed, steps=2, batch=3, length=40))
    if vocab > 100:
        assert not np.array_equal(one, source.draw(seed + 1, steps=2, batch=3, length=40))


def test_synthetic_tokens_repeat_what_came_before() -> None:
    tokens = Synthetic(vocab_size=50_304).draw(7, steps=4, batch=8, length=256)
    copied = (tokens[..., COPY_DISTANCE:] == tokens[..., :-COPY_DISTANCE]).mean()
    assert 0.1 < copied < 0.4


def write_shard(path: Path, tokens: list[int]) -> tuple[str, str]:
    content = np.array(tokens, dtype="<u2").tobytes()
    path.write_bytes(content)
    return path.name, hashlib.sha256(content).hexdigest()


def test_windows_of_shards_are_drawn_by_seed_and_never_cross_a_file(tmp_path: Path) -> None:
    expected = [
        write_shard(tmp_path / "a.bin", list(range(100))),
        write_shard(tmp_path / "b.bin", [500, 501, 502, 503]),
    ]
    shards = open_shards(tmp_path, expected, vocab_size=1000)
    drawn = shards.draw(1, steps=50, batch=4, length=4)
    assert drawn.shape == (50, 4, 4)
    assert (np.diff(drawn.astype(int), axis=-1) == 1).all(), "every window is contiguous in one file"
    assert 500 in drawn
    assert 96 in drawn[..., 0]
    assert np.array_equal(drawn, shards.draw(1, steps=50, batch=4, length=4))
    assert not np.array_equal(drawn, shards.draw(2, steps=50, batch=4, length=4))
    assert isinstance(shards.files[0], np.memmap)


def test_shards_shorter_than_a_sequence_are_refused() -> None:
    with pytest.raises(ShardError, match="no shard holds 8 tokens"):
        Shards(files=(np.zeros(7, dtype=np.uint16),)).draw(0, steps=1, batch=1, length=8)


@pytest.mark.parametrize("damage", ["missing", "altered", "odd", "vocabulary"])
def test_a_wrong_shard_is_refused_with_its_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.bin"
    name, sha256 = write_shard(path, [1, 2, 3, 900])
    if damage == "missing":
        path.unlink()
    if damage == "altered":
        write_shard(path, [1, 2, 3, 901])
    if damage == "odd":
        path.write_bytes(b"123")
        sha256 = hashlib.sha256(b"123").hexdigest()
    vocab_size = 900 if damage == "vocabulary" else 1000
    with pytest.raises(ShardError, match=r"a\.bin"):
        open_shards(tmp_path, [(name, sha256)], vocab_size=vocab_size)


def test_the_recipe_makes_shards_that_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text("the quick brown fox jumps over the lazy dog. " * 40, encoding="utf-8")
    out = tmp_path / "shards"
    texts = [str(tmp_path / "one.txt"), str(tmp_path / "two.txt")]
    assert make_shards.main([str(out), *texts, "--vocab-size", "300", "--shard-tokens", "200"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert data["source"] == "shards"
    assert len(data["shards"]) > 1
    expected = [(shard["name"], shard["sha256"]) for shard in data["shards"]]
    shards = open_shards(out, expected, vocab_size=300)
    assert [file.size for file in shards.files[:-1]] == [200] * (len(expected) - 1)
    again = tmp_path / "again"
    assert (
        make_shards.main([str(again), *texts, "--vocab-size", "300", "--tokenizer", str(out / "tokenizer.json")]) == 0
    )
    whole = np.concatenate(shards.files)
    assert np.array_equal(np.fromfile(again / "tokens-00000.bin", dtype="<u2"), whole)


def test_the_recipe_says_what_is_wrong_with_a_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"ok \xff\xfe")
    good = tmp_path / "good.txt"
    good.write_text("plain words, plain words", encoding="utf-8")
    assert make_shards.main([str(tmp_path / "out"), str(good), "--vocab-size", "260"]) == 0
    tokenizer = str(tmp_path / "out" / "tokenizer.json")
    assert make_shards.main([str(tmp_path / "out2"), str(bad), "--tokenizer", tokenizer]) == 2
    assert "bad.txt is not UTF-8" in capsys.readouterr().err
