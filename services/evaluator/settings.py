"""The evaluator's settings, from the environment, once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.evaluator.sandbox import Runtime
from shared import environment


@dataclass(frozen=True, kw_only=True)
class Settings:
    nats_url: str
    artifacts: Path
    sandbox: str
    """auto, docker or process."""
    runtime: Runtime
    """Of the docker sandbox."""
    hotkey: str
    shards: Path | None
    """The folder of the competition's token shards."""


def from_environment(environ: Mapping[str, str]) -> Settings:
    """Read and check.

    Raises:
        SettingsError: a variable is missing or unusable.
    """
    sandbox = environment.text(environ, "TOURNAMENT_SANDBOX", "auto")
    if sandbox not in ("auto", "docker", "process"):
        raise environment.SettingsError(f"TOURNAMENT_SANDBOX is {sandbox!r}; it must be auto, docker or process")
    has_shards = environment.optional_text(environ, "TOURNAMENT_SHARDS_DIR") is not None
    return Settings(
        nats_url=environment.text(environ, "TOURNAMENT_NATS_URL"),
        artifacts=environment.path(environ, "TOURNAMENT_ARTIFACTS_DIR"),
        sandbox=sandbox,
        runtime=runtime(environ),
        hotkey=environment.text(environ, "TOURNAMENT_EVALUATOR_HOTKEY", "local"),
        shards=environment.path(environ, "TOURNAMENT_SHARDS_DIR") if has_shards else None,
    )


def runtime(environ: Mapping[str, str]) -> Runtime:
    """What starts the containers of the docker sandbox.

    Raises:
        SettingsError: the variable names something else.
    """
    match environment.text(environ, "TOURNAMENT_SANDBOX_RUNTIME", "runc"):
        case "runc":
            return "runc"
        case "runsc":
            return "runsc"
        case other:
            raise environment.SettingsError(f"TOURNAMENT_SANDBOX_RUNTIME is {other!r}; it must be runc or runsc")
