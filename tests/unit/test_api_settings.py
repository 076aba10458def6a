"""The API's settings and its named statements."""

import pytest

from services.api.settings import Settings, from_environment
from services.api.sql import SQL, parse
from shared.environment import SettingsError

NEEDED = {
    "TOURNAMENT_NATS_URL": "nats://a",
    "TOURNAMENT_POSTGRES_URL": "postgresql://user:secret@b:5432/tournament",
    "TOURNAMENT_HPARAMS": "/hparams/demo.json",
}


def test_defaults() -> None:
    settings = from_environment(NEEDED)
    assert settings == Settings(
        nats_url="nats://a",
        postgres_url="postgresql://user:secret@b:5432/tournament",
        hparams=settings.hparams,
        host="127.0.0.1",
        port=8000,
    )
    assert str(settings.hparams) == "/hparams/demo.json"


def test_host_and_port() -> None:
    settings = from_environment(NEEDED | {"TOURNAMENT_API_HOST": "::1", "TOURNAMENT_API_PORT": "0"})
    assert (settings.host, settings.port) == ("::1", 0)


@pytest.mark.parametrize("missing", NEEDED)
def test_a_missing_setting_is_named(missing: str) -> None:
    with pytest.raises(SettingsError, match=f"{missing} is not set"):
        from_environment({name: value for name, value in NEEDED.items() if name != missing})


@pytest.mark.parametrize("url", ["mysql://u:secret@b/d", "secret", "postgresql://u:secret@b:port/d"])
def test_a_wrong_database_address_is_refused_without_showing_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="TOURNAMENT_POSTGRES_URL is no PostgreSQL address") as caught:
        from_environment(NEEDED | {"TOURNAMENT_POSTGRES_URL": url})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("port", ["65536", "-1", "http"])
def test_a_wrong_port_is_named(port: str) -> None:
    with pytest.raises(SettingsError, match="TOURNAMENT_API_PORT"):
        from_environment(NEEDED | {"TOURNAMENT_API_PORT": port})


def test_statements_are_found_by_name() -> None:
    assert parse("-- about\n\n-- name: a\n-- why\nSELECT 1;\n\n-- name: b\nSELECT 2;\n") == {
        "a": "-- why\nSELECT 1;",
        "b": "SELECT 2;",
    }
    assert all(statement.count(";") == 1 for statement in SQL.values())
