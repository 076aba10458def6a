"""The validator's own parts, really broken in an evaluation: disk, folders, engine, image. Nothing is held against the
submission: it is tried again, and then given up visibly.
"""

import contextlib
import gc
import io
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import pytest

from sandbox.protocol import Kind
from services.evaluator import controller, providers
from services.evaluator.docker_sandbox import DEFAULT_ENGINE, OWNER_LABEL
from services.evaluator.sandbox import Open, Provider, Spec
from shared.artifacts import ArtifactStore
from shared.events import EvaluationAbandoned, RunCompleted
from tests.support.evaluations import (
    EVALUATION_SECONDS,
    Tournament,
    assert_given_up,
    assert_passed_once,
    consuming,
    events_of,
    judging,
    settled,
    submit,
)
from tests.support.probes import engine
from tests.support.servers import eventually
from tests.support.tiny import SINGLE

pytestmark = [pytest.mark.servers, pytest.mark.slow]
__all__ = ["engine"]

FORGOTTEN_SOCKETS = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)
"""docker-py closes no socket that could not connect; the interpreter does."""
SMALL_BYTES = 65_536
"""Of a disk that is soon full: code and hparams fit on it."""


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A disk of its own, which only root can have."""
    if os.geteuid() != 0:
        pytest.skip("TESTS OF A FULL DISK NOT RUN: they mount one, as root")
    with tempfile.TemporaryDirectory(prefix="d-") as folder:
        options = f"size={SMALL_BYTES},mode=0700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """Take all the space that is left."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    assert shutil.disk_usage(folder).free == 0
    return filler


# --- disks and folders ---


@pytest.fixture
def on_a_small_disk(tournament: Tournament, small_disk: Path) -> Tournament:
    store = ArtifactStore(small_disk / "artifacts")
    return Tournament(nats_url=tournament.nats_url, bus=tournament.bus, artifacts=store)


async def test_a_full_artifact_store_is_given_up_without_a_verdict(
    on_a_small_disk: Tournament, small_disk: Path
) -> None:
    await submit(on_a_small_disk, parameters=SINGLE)
    fill(small_disk)
    async with consuming(on_a_small_disk), judging(on_a_small_disk):
        await assert_given_up(on_a_small_disk, why="cannot store an artifact")
    left = [path for path in on_a_small_disk.artifacts.root.rglob(".*") if path.is_file()]
    assert left == [], "what was half written is gone"


async def test_an_artifact_store_that_has_room_again_costs_one_attempt(
    on_a_small_disk: Tournament, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await submit(on_a_small_disk, parameters=SINGLE)
    filler = fill(small_disk)
    put = ArtifactStore.put

    def putting(store: ArtifactStore, content: bytes) -> str:
        try:
            return put(store, content)
        except Exception:
            filler.unlink(missing_ok=True)
            raise

    monkeypatch.setattr(ArtifactStore, "put", putting)
    async with consuming(on_a_small_disk), judging(on_a_small_disk):
        await assert_passed_once(on_a_small_disk, attempts=2, runs_wanted=1)


async def test_a_full_temporary_directory_is_given_up_with_what_to_do(
    tournament: Tournament, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["mount", "-o", "remount,nr_inodes=1", small_disk], check=True)
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    await submit(tournament, parameters=SINGLE)
    async with consuming(tournament):
        await assert_given_up(tournament, why="No space left on device")
    (abandoned,) = await events_of(tournament, EvaluationAbandoned)
    assert "set TMPDIR to a writable folder" in abandoned.detail


async def test_a_temporary_directory_that_is_not_there_is_given_up_with_what_to_do(
    tournament: Tournament, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    await submit(tournament, parameters=SINGLE)
    async with consuming(tournament):
        await assert_given_up(tournament, why="set TMPDIR to a writable folder")


# --- the engine ---


@dataclass
class Wire:
    """The engine's socket, by way of this process, so that it can be cut."""

    path: Path
    listener: socket.socket | None = None
    ends: list[socket.socket] = field(default_factory=list)

    def mend(self) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen()
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def cut(self) -> None:
        """As when the engine dies: what is connected breaks, and nobody can connect."""
        listener, self.listener = self.listener, None
        if listener is not None:
            self.path.unlink()
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        while self.ends:
            end = self.ends.pop()
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(DEFAULT_ENGINE.removeprefix("unix://"))
                self.ends += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=_copy, args=(one, other), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def wire(sandbox_image: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    assert sandbox_image
    with tempfile.TemporaryDirectory(prefix="w-") as folder:
        made = Wire(Path(folder) / "s")
        made.mend()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{made.path}")
        try:
            yield made
        finally:
            made.cut()
            gc.collect()  # what docker-py forgot is found here, where it is expected, and not in a later test


def cut_in_run(wire: Wire, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut it while the clock of the first run (1) or of its reference (2) goes."""
    receive = controller._Peer.receive
    begun = 0

    def cutting(peer: controller._Peer, kind: Kind, *, exactly: int) -> bytearray:
        nonlocal begun
        if kind is Kind.RETURNED:
            begun += 1
            if begun == number:
                wire.cut()
        return receive(peer, kind, exactly=exactly)

    monkeypatch.setattr(controller._Peer, "receive", cutting)


@pytest.mark.docker
@FORGOTTEN_SOCKETS
@pytest.mark.parametrize("number", [1, 2], ids=["in a run", "in its reference"])
async def test_an_engine_that_dies_costs_one_attempt_and_leaves_nothing(
    engine: docker.APIClient, tournament: Tournament, wire: Wire, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A container whose engine is dead runs on."""
    request = await submit(tournament, parameters=SINGLE)
    cut_in_run(wire, number, monkeypatch)
    asked = 0

    def provide() -> Provider:
        nonlocal asked
        asked += 1
        if asked == 3:
            wire.mend()
        return providers.docker_provider()

    async with consuming(tournament, provide=provide, max_deliveries=4), judging(tournament):
        await assert_passed_once(tournament, attempts=2, runs_wanted=1)
    assert asked == 3, "once as it ran, once as it was away, once as it was back"
    assert [run.failure for run in await events_of(tournament, RunCompleted)] == [None]
    ours = {"name": f"templar-{request.evaluation_id[:12]}-", "label": OWNER_LABEL}
    assert engine.containers(all=True, filters=ours) == []


@pytest.mark.docker
@FORGOTTEN_SOCKETS
async def test_an_engine_that_stays_dead_is_given_up_without_a_verdict(
    tournament: Tournament, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    await submit(tournament, parameters=SINGLE)
    cut_in_run(wire, 1, monkeypatch)
    async with consuming(tournament, provide=providers.docker_provider), judging(tournament):
        await assert_given_up(tournament, why="no Docker engine answers")
    wire.mend()
    providers.docker_provider()  # removes what ran on


# --- the image ---


@pytest.fixture
def own_image(engine: docker.APIClient, sandbox_image: str) -> Iterator[str]:
    """The sandbox's image under another digest, which nobody else uses."""
    tag = f"templar-sandbox-test:{secrets.token_hex(6)}"
    dockerfile = io.BytesIO(f"FROM {sandbox_image}\nLABEL test={tag}\n".encode())
    for _ in engine.build(fileobj=dockerfile, tag=tag, rm=True, decode=True):
        pass
    yield tag
    with contextlib.suppress(docker.errors.ImageNotFound):
        engine.remove_image(tag, force=True)


@pytest.mark.docker
async def test_an_image_that_is_removed_between_runs_costs_no_run_and_is_said(
    tournament: Tournament, engine: docker.APIClient, own_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers, "image_tag", lambda: own_image)
    opened = 0

    def removing(open_sandbox: Open) -> Open:
        def opening(spec: Spec, timeout_seconds: float) -> Any:
            nonlocal opened
            opened += 1
            if opened == 3:  # after the first run and its reference
                engine.remove_image(own_image, force=True)
            return open_sandbox(spec, timeout_seconds)

        return opening

    def provide() -> Provider:
        provider = providers.docker_provider()
        return Provider(kind="docker", image=provider.image, runtime="runc", open=removing(provider.open))

    await submit(tournament)
    async with consuming(tournament, provide=provide), judging(tournament):
        state = await eventually(settled(tournament), seconds=EVALUATION_SECONDS)
    assert state.status == "error"
    assert [(run.run_index, run.failure) for run in await events_of(tournament, RunCompleted)] == [(0, None)]
    (abandoned,) = await events_of(tournament, EvaluationAbandoned)
    assert f"the sandbox image {own_image} is not on this machine" in abandoned.detail
