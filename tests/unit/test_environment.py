"""Settings from the environment: a wrong one is named, with what it must be."""

from pathlib import Path

import pytest

from shared import environment
from shared.environment import SettingsError


def test_text() -> None:
    assert environment.text({"URL": "nats://a"}, "URL") == "nats://a"
    assert environment.text({}, "URL", "nats://b") == "nats://b"
    assert environment.text({"URL": ""}, "URL", "nats://b") == "nats://b"


@pytest.mark.parametrize("environ", [{}, {"URL": ""}])
def test_a_missing_text_is_named(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="URL is not set"):
        environment.text(environ, "URL")


def test_optional_text() -> None:
    assert environment.optional_text({"KEY": "x"}, "KEY") == "x"
    assert environment.optional_text({"KEY": ""}, "KEY") is None
    assert environment.optional_text({}, "KEY") is None


@pytest.mark.parametrize(("value", "number"), [("1", 1), (" 64 ", 64), ("", 2)])
def test_integer(value: str, number: int) -> None:
    assert environment.integer({"SLOTS": value}, "SLOTS", 2, least=1, most=64) == number


@pytest.mark.parametrize(
    ("value", "must"), [("0", "from 1 to 64"), ("65", "from 1 to 64"), ("many", "a whole number"), ("1.5", "a whole")]
)
def test_a_wrong_integer_is_named(value: str, must: str) -> None:
    with pytest.raises(SettingsError, match=f"SLOTS is .*; it must be {must}"):
        environment.integer({"SLOTS": value}, "SLOTS", 2, least=1, most=64)


def test_a_path_is_absolute_and_nothing_is_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert environment.path({"DIR": "data"}, "DIR") == tmp_path / "data"
    assert environment.path({}, "DIR", "~/data") == Path.home() / "data"
    assert not (tmp_path / "data").exists()
