"""Everything the docker sandbox promises, attacked from inside by one program; the table it prints is the list."""

import collections
import functools
import json
import re
import socket
from pathlib import Path

import pytest

from services.evaluator import image, interior
from services.evaluator.docker_sandbox import open_docker
from tests.contract import containment
from tests.support.probes import CONNECT_SECONDS, LIMITS, Opener, make_spec

SECONDS = 240.0


@pytest.mark.docker
def test_the_containment_probe_breaks_nothing(docker_opener: Opener, sandbox_image: str) -> None:
    asked = {
        "memory_bytes": LIMITS.memory_bytes,
        "processes": LIMITS.processes,
        "gvisor": int(docker_opener.runtime == "runsc"),
        "tmp_bytes": LIMITS.tmp_bytes,
        "shm_bytes": LIMITS.shm_bytes,
        "tmp_files": interior.TMP_FILES,
        "open_files": interior.OPEN_FILES,
    }
    assert docker_opener.runtime is not None
    is_gvisor = docker_opener.runtime == "runsc"
    open_probe = functools.partial(
        open_docker,
        image=sandbox_image,
        runtime=docker_opener.runtime,
        command=("python", "-P", "-c", Path(containment.__file__).read_text(), json.dumps(asked)),
    )
    with socket.socket(socket.AF_UNIX) as outside:
        outside.bind(containment.ABSTRACT_NAME)
        outside.listen()
        with open_probe(make_spec(), CONNECT_SECONDS) as sandbox:
            sandbox.channel.settimeout(SECONDS)
            with sandbox.channel.makefile("rb") as lines:
                said = [json.loads(line) for line in lines]
            ended = f"{sandbox.wait(5.0)} {sandbox.log_tail()}"
    rows, broken = [], []
    for attempt, seen in zip(containment.ATTEMPTS, said, strict=False):
        expected = attempt.gvisor if is_gvisor else attempt.expected
        rows.append(f"{attempt.group:<11} {attempt.what:<45} {expected:<30} {seen}")
        if not containment.holds(expected, seen):
            broken.append(rows[-1])
    print(*rows, sep="\n")
    assert len(said) == len(containment.ATTEMPTS), ended
    assert broken == []


def test_the_page_on_security_counts_the_attempts() -> None:
    page = (image.ROOT / "docs" / "security.md").read_text()
    said = {group: int(count) for group, count in re.findall(r"^\| (\w+) \| (\d+) \|", page, re.MULTILINE)}
    assert said == collections.Counter(attempt.group for attempt in containment.ATTEMPTS)
