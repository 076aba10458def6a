"""The documents say what the code does: names, fields, settings, commands and numbers are compared, not trusted."""

import json
import re
import subprocess
import sysconfig
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
import pytest

from neurons import miner, validator
from shared import events, hparams, subjects
from shared.events import CATALOGUE, Check, Envelope, Gpu, Machine, Payment, Phases, SignedRequest, Standing
from shared.faults import Failure, Refusal
from shared.streams import CONSUMERS, MAX_EVENT_BYTES

PROJECT = Path(__file__).parents[2]
DOCS = PROJECT / "docs"
GOLDEN = PROJECT / "tests" / "golden" / "events"
PAGES = sorted([*PROJECT.glob("*.md"), *DOCS.rglob("*.md")])
RECORDS = [PROJECT / "CHANGELOG.md", *(DOCS / "adr").iterdir()]
"""What was true when it was written: files and recipes that these name may be gone."""
PRESENT = [page for page in PAGES if page not in RECORDS]
PARTS = (Envelope, Payment, SignedRequest, Phases, Machine, Gpu, Check, Standing)
SECTIONS = {"Envelope": "The envelope"}
WORDS = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def named(page: Path) -> str:
    return str(page.relative_to(PROJECT))


def section(page: Path, heading: str) -> str:
    """The text under one heading, up to the next heading of any level."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", page.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, f"{named(page)} has no section {heading}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of all table rows below their heads, backticks kept."""
    lines = re.findall(r"^\|(.*)\|$", text, re.MULTILINE)
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    heads = {number - 1 for number, row in enumerate(cells) if set("".join(row)) <= {"-", ":"}}
    return [row for number, row in enumerate(cells) if number not in heads and number - 1 not in heads]


def first_cells(text: str) -> list[str]:
    return [row[0].strip("`") for row in rows(text)]


def outside_fences(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def spoken(annotation: Any) -> str:
    """A field's type as docs/events.md writes it."""
    origin = get_origin(annotation)
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    if origin is tuple:
        return f"list of {spoken(get_args(annotation)[0])}"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(spoken(choice) for choice in get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return annotation.__name__
    return WORDS.get(annotation, "timestamp")


@pytest.mark.parametrize("kind", [*CATALOGUE.values(), *PARTS], ids=lambda kind: kind.__name__)
def test_every_field_of_every_event_is_documented(kind: type[msgspec.Struct]) -> None:
    documented = rows(section(DOCS / "events.md", SECTIONS.get(kind.__name__, kind.__name__)))
    fields = [[f"`{field.name}`", spoken(field.type)] for field in msgspec.structs.fields(kind)]
    assert [row[:2] for row in documented] == fields


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_event_is_documented_with_its_subject_and_its_key(name: str) -> None:
    kind, text = CATALOGUE[name], section(DOCS / "events.md", name)
    example = events.decode((GOLDEN / f"{name}.v{kind.version}.json").read_bytes()).data
    root, aggregate, _, fact = subjects.subject_of(example).split(".")
    assert re.search(rf"`{root}\.{aggregate}\.<\w+>\.{fact}`", text), "its subject is missing"
    keys = re.search(r"Key:\s((?:`\w+`(?:,\s)?)+)\.", text)
    assert keys is not None, "its key is missing"
    assert tuple(re.findall(r"`(\w+)`", keys[1])) == kind.key


def test_only_events_that_exist_are_documented() -> None:
    text = (DOCS / "events.md").read_text()
    headings = re.findall(r"^### (\w+)$", text, re.MULTILINE)
    assert headings == [*CATALOGUE, *(part.__name__ for part in PARTS if part.__name__ not in SECTIONS)]
    assert all(kind.version == 1 for kind in CATALOGUE.values()), "docs/events.md says that all are at version 1"
    assert f"The first {events.TOP_ROWS} rows" in text


def test_every_consumer_is_documented() -> None:
    documented = [row for row in rows(section(DOCS / "events.md", "The stream")) if len(row) == 4]
    assert documented == [
        [
            f"`{consumer.name}`",
            f"`{consumer.filter_subject}`",
            f"{consumer.ack_wait_seconds:g}",
            str(consumer.max_deliveries),
        ]
        for consumer in CONSUMERS
    ]
    assert f"at most {MAX_EVENT_BYTES // 1024} KiB" in section(DOCS / "events.md", "The envelope")


def source_files() -> Iterator[Path]:
    """Everything that is run: no tests, no documents."""
    for folder in ("shared", "services", "sandbox", "neurons", "deploy"):
        yield from (path for path in (PROJECT / folder).rglob("*") if path.suffix in (".py", ".conf", ".sql"))
    yield PROJECT / "justfile"


def settings_in(paths: Sequence[Path]) -> set[str]:
    return {name for path in paths for name in re.findall(r"\bTOURNAMENT_[A-Z_]+", path.read_text())}


def test_every_setting_is_documented_and_no_other() -> None:
    used = settings_in(list(source_files()))
    listed = [name for name in first_cells((DOCS / "validator.md").read_text()) if name.startswith("TOURNAMENT_")]
    assert sorted(listed) == sorted(used)
    assert settings_in(PAGES) <= used


def test_every_failure_code_is_documented() -> None:
    assert first_cells(section(DOCS / "miner.md", "Failure codes")) == [failure.value for failure in Failure]


def test_every_refusal_code_is_documented_with_its_status() -> None:
    documented = [row[:2] for row in rows(section(DOCS / "api.md", "Refusals"))]
    expected = [[f"`{refusal}`", "409" if refusal is Refusal.ALREADY_USED else "402"] for refusal in Refusal]
    assert documented == expected


@pytest.mark.parametrize(("command", "page"), [(miner.main, "miner.md"), (validator.main, "validator.md")])
def test_every_flag_of_a_command_is_documented(command: Any, page: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command(["--help"])
    flags = set(re.findall(r"(?<![\w-])--[a-z][\w.-]*\w", capsys.readouterr().out)) - {"--help"}
    assert flags
    text = (DOCS / page).read_text()
    assert [flag for flag in sorted(flags) if f"`{flag}" not in text] == []


def recipes() -> set[str]:
    just = Path(sysconfig.get_path("scripts")) / "just"
    listed = subprocess.run([just, "--summary"], cwd=PROJECT, capture_output=True, text=True, check=True)
    return set(listed.stdout.split())


def recipes_in(page: Path) -> set[str]:
    return set(re.findall(r"\bjust ([a-z][a-z-]*)(?=[`\s])", code_in(page.read_text())))


def code_in(text: str) -> str:
    """What is set as code, in fences or in backticks."""
    fences = re.findall(r"^```.*?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return "\n".join(f"{code}`" for code in [*fences, *re.findall(r"`([^`]+)`", outside_fences(text))])


def test_recipes_that_are_named_exist() -> None:
    known = recipes()
    assert {named(page): sorted(recipes_in(page) - known) for page in PRESENT if recipes_in(page) - known} == {}


def test_every_recipe_is_documented() -> None:
    assert recipes_in(PROJECT / "CONTRIBUTING.md") >= recipes() - {"default"}


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", outside_fences(page.read_text())):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", outside_fences(target.read_text()), re.MULTILINE)
            assert anchor in map(slug, headings), f"{link} leads to no heading"


@pytest.mark.parametrize("page", PRESENT, ids=named)
def test_every_file_that_is_named_exists(page: Path) -> None:
    tops = "|".join(re.escape(path.name) for path in PROJECT.iterdir() if path.is_dir() and path.name[0] not in "._")
    paths = re.findall(rf"`((?:{tops})/[\w./-]+)`", page.read_text())
    assert [path for path in paths if not path.startswith(("data/", "build/")) and not (PROJECT / path).exists()] == []


def test_every_page_is_in_the_index() -> None:
    linked = set(re.findall(r"\]\(([\w./-]+\.md)\)", (DOCS / "README.md").read_text()))
    assert linked >= {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {"README.md"}


def test_every_decision_has_the_same_parts_and_its_own_number() -> None:
    decisions = sorted((DOCS / "adr").iterdir())
    assert [path.name[:4] for path in decisions] == [f"{number:04}" for number in range(1, len(decisions) + 1)]
    for path in decisions:
        text = path.read_text()
        assert re.match(rf"# {int(path.name[:4])}\. \S.*\n\n- Status: \w+\n- Date: \d{{4}}-\d\d-\d\d\n", text), (
            path.name
        )
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"], path.name


def leaves(value: Any, prefix: str = "") -> dict[str, str]:
    """Every key of a JSON object by its dotted path, with its value as the documents write it."""
    if isinstance(value, dict):
        return {key: leaf for name in value for key, leaf in leaves(value[name], f"{prefix}.{name}").items()}
    return {prefix[1:]: written(value)}


def written(value: Any) -> str:
    if isinstance(value, str):
        return f"`{value}`"
    return f"{value:,}" if isinstance(value, int) else json.dumps(value)


def test_every_number_of_both_competitions_is_documented() -> None:
    real, demo = (
        leaves(json.loads((PROJECT / "hparams" / f"{name}.json").read_bytes())) for name in ("hparams", "demo")
    )
    assert real.keys() == demo.keys()
    documented = {row[0].strip("`"): row[1:3] for row in rows(section(DOCS / "competition.md", "Hparams"))}
    assert documented == {key: [real[key], demo[key]] for key in real}


def test_parameter_counts_are_exact_wherever_they_are_given() -> None:
    counts = {
        name: hparams.load(PROJECT / "hparams" / f"{name}.json").model.parameter_count for name in ("hparams", "demo")
    }
    assert counts["hparams"] == 149_545_728
    given = {number for page in PRESENT for number in re.findall(r"([\d,]*\d) parameters", page.read_text())}
    assert given == {f"{count:,}" for count in counts.values()}


def test_the_readme_and_ci_run_the_same_command() -> None:
    command = "pip install uv && uv run just test"
    readme = (PROJECT / "README.md").read_text()
    assert f"\n{command}\n" in readme
    assert f"{{ {command}; }}" in (PROJECT / ".ci" / "run").read_text()
    assert "\npip install uv && uv run just demo\n" in readme
