"""The data directory of a local tournament: one holder at a time, one secret, faults said in one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.data_dir import DataDirError, hold, nats_url, publish_nats_url, reserve, secret

PROJECT = Path(__file__).parents[2]


def test_it_is_made_and_held(tmp_path: Path) -> None:
    folder = tmp_path / "some" / "where"
    with hold(folder), pytest.raises(DataDirError, match=f"another tournament \\(process {os.getpid()}\\) runs in"):
        hold(folder).__enter__()
    with hold(folder):
        pass


def test_what_a_killed_holder_left_is_no_obstacle(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from deploy.local.data_dir import hold
with hold(Path({str(tmp_path)!r})): os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False)
    assert killed.returncode == -9
    with hold(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_one_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataDirError, match=r"cannot write to the data directory .*; set TOURNAMENT_DATA_DIR to"):
        hold(tmp_path / "file" / "below").__enter__()


def test_the_secret_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    first = secret(tmp_path)
    assert secret(tmp_path) == first
    assert len(first) == 33
    assert first[0] == "t", "nats.conf would read a number"
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["secret"]


def test_a_folder_serves_one_purpose(tmp_path: Path) -> None:
    reserve(tmp_path, "unpaid")
    reserve(tmp_path, "unpaid")
    with pytest.raises(DataDirError, match=r"another kind \(unpaid\), this one is paid on finney"):
        reserve(tmp_path, "paid on finney")


def test_the_server_is_found_while_somebody_holds_the_folder(tmp_path: Path) -> None:
    with pytest.raises(DataDirError, match=r"no validator runs in .*; start it"):
        nats_url(tmp_path)
    with hold(tmp_path):
        with pytest.raises(DataDirError, match="no validator runs in"):
            nats_url(tmp_path)
        publish_nats_url(tmp_path, "nats://t@127.0.0.1:1")
        assert nats_url(tmp_path) == "nats://t@127.0.0.1:1"
        assert (tmp_path / "nats_url").stat().st_mode & 0o077 == 0
    with pytest.raises(DataDirError, match="no validator runs in"):
        nats_url(tmp_path)
