"""docs/protocol.md says what the code does: every number in its tables is compared with sandbox/protocol.py."""

import re
from pathlib import Path

from sandbox import protocol
from sandbox.protocol import Kind, Loss, Stage
from services.evaluator import controller
from tests.support.tiny import TINY

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()


def section(title: str) -> str:
    """The text below a heading, up to the next one."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def rows(title: str) -> list[list[str]]:
    """The cells of a section's only table, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def spans(title: str) -> list[tuple[int, int]]:
    """Offset and size of each field of a layout."""
    return [(int(row[0]), int(row[1])) for row in rows(title)]


def test_the_header() -> None:
    assert spans("A frame") == [(0, 4), (4, 1), (5, 1), (6, 2), (8, 8)]
    assert protocol.HEADER.format == ">4sBBHQ"
    assert protocol.HEADER.size == 16
    values = [row[3] for row in rows("A frame")]
    assert values[0] == f"`{protocol.MAGIC.decode()}`"
    assert values[1] == str(protocol.VERSION)


def test_every_kind_has_its_number_and_its_sender() -> None:
    kinds = {name: int(number) for name, number, *_ in rows("Kinds")}
    assert kinds == {kind.name: kind.value for kind in Kind}
    for name, _, sender, _ in rows("Kinds"):
        assert sender == ("controller" if Kind[name] < 16 else "runner")


def test_the_sizes_of_payloads() -> None:
    sizes = {row[0]: row[3] for row in rows("Kinds")}
    assert sizes["REVEAL"] == str(protocol.NONCE_BYTES)
    assert [sizes[name] for name in ("HELLO", "BUILT", "READY")] == ["0"] * 3
    assert sizes["RETURNED"] == str(protocol.RETURNED.size)
    assert sizes["FAILED"] == "{} to {}".format(*protocol.FAILED_CAPS)


def test_returned_and_failed() -> None:
    assert protocol.RETURNED.format == ">qdBB8Q"
    assert spans("RETURNED") == [(0, 8), (8, 8), (16, 1), (17, 1), (18, 64)]
    codes = dict(re.findall(r"(\d+) (float\d+|bfloat16)", section("RETURNED")))
    assert codes == {str(code): name for code, name in enumerate(protocol.DTYPES)}
    assert f"{protocol.OTHER_DTYPE} any other" in section("RETURNED")
    assert f"at most {protocol.MAX_DIMENSIONS}" in section("RETURNED")
    stages, losses, message = rows("FAILED")
    assert re.findall(r"(\d+) ([A-Z_]+)", stages[2]) == [(str(stage.value), stage.name) for stage in Stage]
    assert re.findall(r"(\d+) ([A-Z_]+)", losses[2]) == [(str(loss.value), loss.name) for loss in Loss]
    assert message[1] == f"0 to {protocol.MAX_MESSAGE_BYTES}"


def test_the_parts_of_evidence() -> None:
    values = {
        "logit_positions": TINY.evidence.logit_positions,
        "probe_positions": TINY.evidence.probe_positions,
        "vocab_size": TINY.model.vocab_size,
        "sketch_length": TINY.sketch_length,
    }
    sizes = []
    for _, kind, count in rows("EVIDENCE"):
        numbers = [values[name] for name in count.split(" x ")]
        product = numbers[0] * (numbers[1] if len(numbers) > 1 else 1)
        sizes.append(product * {"float32": 4, "float64": 8}[kind])
    assert controller._evidence_sizes(TINY, is_reference=True) == sizes
    assert controller._evidence_sizes(TINY, is_reference=False) == sizes[:4]


def test_the_end_and_the_job() -> None:
    assert f"| end | {controller.END_SECONDS:g} seconds |" in section("Deadlines")
    run = controller.Run(
        hparams=TINY,
        source=b"",
        is_reference=False,
        tokens=None,  # type: ignore[arg-type]
        nonce=b"",
        threads=1,
        device="cpu",
    )
    said = set(re.findall(r"`(\w+)`", section("PREPARE"))) - {"cpu", "cuda"}
    assert said == set(controller._job(run))


def test_the_order_of_the_diagram() -> None:
    arrows = re.findall(r"^    [CR]->>[CR]: ([A-Z]+)", PAGE, re.MULTILINE)
    assert arrows == ["HELLO", "PREPARE", "BUILT", "SUBMISSION", "READY", "START", "RETURNED", "REVEAL", "EVIDENCE"]
