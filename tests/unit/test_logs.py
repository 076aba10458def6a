"""Logs: one line for each event, and nothing in it that is only known to the process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
FAILING = """
import sys
from shared import logs
sys.stderr.isatty = lambda: {terminal}
logs.configure("example")
def connect(url):
    raise ValueError("no")
try:
    connect("nats://s3cret@host")
except ValueError:
    logs.logger().exception("bug", attempt=2)
"""


def failing(*, terminal: bool) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", FAILING.format(terminal=terminal)],
        cwd=PROJECT,
        capture_output=True,
        check=True,
        text=True,
    )
    assert ended.stdout == ""
    return ended.stderr


def test_an_error_is_one_json_line_with_its_traceback() -> None:
    (line,) = failing(terminal=False).splitlines()
    entry = json.loads(line)
    assert (entry["event"], entry["level"], entry["service"], entry["attempt"]) == ("bug", "error", "example", 2)
    assert [frame["name"] for frame in entry["exception"][0]["frames"]] == ["<module>", "connect"]


@pytest.mark.parametrize("terminal", [False, True])
def test_the_values_of_variables_are_never_logged(terminal: bool) -> None:
    written = failing(terminal=terminal)
    assert "ValueError" in written
    assert "s3cret" not in written
