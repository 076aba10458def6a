"""The checking process: it says what shared.admission says, and survives every file that is thrown at it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest

from services.ingest.check import SourceCheck
from shared.admission import InvalidSubmission
from shared.faults import TransientFault

GOOD = b"def inner_steps(): ..."
SLOW = b"a\n" * 131_000 + GOOD
MAX_BYTES = 262_144


@pytest.fixture
async def check() -> AsyncIterator[SourceCheck]:
    checking = SourceCheck(max_bytes=MAX_BYTES)
    yield checking
    await checking.close()


async def test_good_files_pass_and_bad_ones_are_told_why(check: SourceCheck) -> None:
    await check(GOOD)
    for source, why in [
        (b"", "the file is empty"),
        (b"def f(:", "syntax error in line 1"),
        (b"def other(): ...", "no top-level inner_steps"),
        (b"\xff", "not UTF-8"),
        (b"#" * (MAX_BYTES + 1), f"has {MAX_BYTES + 1:,} bytes; at most {MAX_BYTES:,}"),
    ]:
        with pytest.raises(InvalidSubmission, match=why):
            await check(source)
    await check(GOOD.ljust(MAX_BYTES, b"#"))


async def test_each_question_gets_its_own_answer(check: SourceCheck) -> None:
    async def answer(number: int) -> str:
        try:
            await check(b"\n" * number + b"1 1")
        except InvalidSubmission as error:
            return str(error)
        return ""

    answers = await asyncio.gather(*(answer(number) for number in range(50)))
    assert [line.split(":")[0] for line in answers] == [f"syntax error in line {number + 1}" for number in range(50)]


async def test_a_file_that_takes_too_long_is_refused_and_the_next_one_is_checked() -> None:
    check = SourceCheck(max_bytes=MAX_BYTES, cpu_seconds=0.2)
    try:
        with pytest.raises(InvalidSubmission, match=r"takes Python more than 0\.2 s to parse"):
            await check(SLOW)
        await check(GOOD)
    finally:
        await check.close()


async def test_the_service_goes_on_meanwhile(check: SourceCheck) -> None:
    await check(GOOD)
    checking = asyncio.create_task(check(SLOW))
    loop = asyncio.get_running_loop()
    longest_seconds = 0.0
    while not checking.done():
        before = loop.time()
        await asyncio.sleep(0.01)
        longest_seconds = max(longest_seconds, loop.time() - before)
    await checking
    assert longest_seconds < 0.5, "parsing it here would have stopped everything for a second or more"


async def test_a_check_that_nobody_waits_for_any_more_does_not_answer_for_the_next(check: SourceCheck) -> None:
    await check(GOOD)
    pause(check)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await check(b"1 1")
    await check(GOOD)


async def test_a_killed_process_is_nobodys_fault_and_is_started_again(check: SourceCheck) -> None:
    await check(GOOD)
    pid = pause(check)
    checking = asyncio.create_task(check(GOOD))
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(TransientFault, match="the checking process ended"):
        await checking
    await check(GOOD)


def pause(check: SourceCheck) -> int:
    """Make the process unable to answer what it is asked next; returns its id."""
    assert check._child is not None
    os.kill(check._child.pid, signal.SIGSTOP)
    return check._child.pid


async def test_closing_ends_it(check: SourceCheck) -> None:
    await check(GOOD)
    child = check._child
    assert child is not None
    await check.close()
    assert child.returncode == -signal.SIGKILL
    await check.close()
