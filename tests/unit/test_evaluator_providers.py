"""Which sandbox an evaluator takes at its start, and what it waits for."""

import asyncio
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from services.evaluator import providers
from services.evaluator.sandbox import Open, Provider, SandboxFault, Spec
from shared.environment import SettingsError


def provider(kind: str) -> Provider:
    def opened(spec: Spec, timeout_seconds: float) -> None:
        raise AssertionError("none is opened here")

    opener: Open = opened  # type: ignore[assignment]
    return Provider(kind="docker" if kind == "docker" else "process", image="sha256:1", runtime="", open=opener)


def there(kind: str) -> Callable[..., Provider]:
    return lambda *_: provider(kind)


def missing(why: str) -> Callable[..., Provider]:
    def absent(*_: str) -> Provider:
        raise SandboxFault(why)

    return absent


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "retry_seconds", lambda attempt: 0.001)


def install(
    monkeypatch: pytest.MonkeyPatch, *, docker: Callable[..., Provider], process: Callable[..., Provider]
) -> None:
    monkeypatch.setattr(providers, "docker_provider", docker)
    monkeypatch.setattr(providers, "process_provider", process)


@pytest.mark.parametrize(
    ("setting", "has_engine", "kind", "said"),
    [
        ("auto", True, "docker", "TOURNAMENT_SANDBOX=process, does without an engine"),
        ("docker", True, "docker", "docker sandbox"),
        ("process", True, "process", "it contains nothing hostile; for docker, start an engine"),
        ("auto", False, "process", "because no engine; for docker, start an engine and run `just sandbox"),
    ],
)
async def test_the_sandbox_that_is_taken_is_said_with_how_to_get_the_other(
    monkeypatch: pytest.MonkeyPatch, setting: str, has_engine: bool, kind: str, said: str
) -> None:
    install(monkeypatch, docker=there("docker") if has_engine else missing("no engine"), process=there("process"))
    with capture_logs() as logs:
        provide = await providers.wait_for(setting)
    assert provide().kind == kind
    level = "info" if kind == "docker" else "warning"
    assert [(entry["log_level"], said in entry["event"]) for entry in logs] == [(level, True)]


@pytest.mark.parametrize("setting", ["docker", "auto"])
async def test_an_engine_that_comes_late_is_waited_for(monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    """With auto only where child processes could not run either, as in an evaluator's own image."""
    tries = 0

    def late(*_: str) -> Provider:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise SandboxFault("no Docker engine answers")
        return provider("docker")

    install(monkeypatch, docker=late, process=missing("torch is not installed here"))
    with capture_logs() as logs:
        provide = await providers.wait_for(setting)
    assert provide().kind == "docker"
    waits = [entry["error"] for entry in logs if entry["log_level"] == "warning"]
    assert len(waits) == 3
    assert all(why.startswith("no Docker engine answers") for why in waits)


async def test_waiting_for_an_engine_can_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, docker=missing("no engine"), process=there("process"))
    waiting = asyncio.create_task(providers.wait_for("docker"))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_child_processes_without_torch_are_a_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, docker=there("docker"), process=missing("torch is not installed here"))
    with pytest.raises(SettingsError, match="TOURNAMENT_SANDBOX is process, but torch is not installed here"):
        await providers.wait_for("process")
