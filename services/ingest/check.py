"""Checks source text in a child process, one at a time. It runs nothing of it, and never lets it stop the service.

Python's parser holds the interpreter while it works, and some files of a few hundred kilobytes keep it for many
seconds: in this process that would be every route and every heartbeat.
"""

import asyncio
import resource
import signal
import struct
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import BinaryIO

from shared.admission import InvalidSubmission, check_source
from shared.faults import TransientFault
from shared.logs import logger

CPU_SECONDS = 2.0
"""Of one check. Files that people write take a tenth of a second at most."""
MEMORY_BYTES = 2**30
END_SECONDS = 5.0
"""How long a child that closed its pipe may take to end."""
PROJECT = Path(__file__).parents[2]
LENGTH = struct.Struct(">I")
"""Before each source and each answer on the pipes. An answer is what is wrong, empty when nothing is."""


class SourceCheck:
    """The child process: started when it is first needed, and again after it was ended. Call `close` at the end."""

    def __init__(self, *, max_bytes: int, cpu_seconds: float = CPU_SECONDS) -> None:
        self._max_bytes = max_bytes
        self._cpu_seconds = cpu_seconds
        self._turn = asyncio.Lock()
        self._child: Process | None = None

    async def __call__(self, source: bytes) -> None:
        """As `shared.admission.check_source`, and it refuses what takes too long as well.

        Raises:
            InvalidSubmission: the file cannot be a submission.
            TransientFault: the child process ended for another reason, or could not be started.
        """
        async with self._turn:
            try:
                wrong = await self._ask(source)
            except (asyncio.IncompleteReadError, OSError) as error:
                if await self._end(after_seconds=END_SECONDS) == -signal.SIGVTALRM:
                    raise InvalidSubmission(
                        f"the file takes Python more than {self._cpu_seconds:g} s to parse; make it simpler"
                    ) from None
                raise TransientFault(f"the checking process ended: {error!r}") from error
            except asyncio.CancelledError:
                await self._end()  # it would answer the next question with this one's answer
                raise
        if wrong:
            raise InvalidSubmission(wrong)

    async def close(self) -> None:
        """End the child process."""
        await self._end()

    async def _ask(self, source: bytes) -> str:
        if self._child is None:
            self._child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "services.ingest.check", str(self._max_bytes), str(self._cpu_seconds)),
                cwd=PROJECT,
                stdin=PIPE,
                stdout=PIPE,
                start_new_session=True,  # Ctrl-C is for the service, which ends it
            )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(LENGTH.pack(len(source)) + source)
        await self._child.stdin.drain()
        (length,) = LENGTH.unpack(await self._child.stdout.readexactly(LENGTH.size))
        return (await self._child.stdout.readexactly(length)).decode()

    async def _end(self, *, after_seconds: float = 0.0) -> int | None:
        """Kill it unless it ends by itself in so many seconds; returns its exit code.

        One that has closed its pipe is waited for: to signal a process that is just ending reaps it, and how it ended
        is lost to asyncio then.
        """
        child, self._child = self._child, None
        if child is None:
            return None
        try:
            async with asyncio.timeout(after_seconds):
                await child.wait()
        except TimeoutError:
            if child.returncode is None:
                child.kill()
        code = await child.wait()
        logger().info("checking process ended", code=code)
        return code


def work(questions: BinaryIO, answers: BinaryIO, *, max_bytes: int, cpu_seconds: float) -> None:
    """The child: answer until the service closes the pipe, or has died."""
    while header := questions.read(LENGTH.size):
        source = questions.read(*LENGTH.unpack(header))
        signal.setitimer(signal.ITIMER_VIRTUAL, cpu_seconds)  # its signal ends the process, even inside the parser
        wrong = ""
        try:
            check_source(source, max_bytes=max_bytes)
        except InvalidSubmission as error:
            wrong = str(error)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        answer = wrong.encode(errors="replace")
        answers.write(LENGTH.pack(len(answer)) + answer)
        answers.flush()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    work(sys.stdin.buffer, sys.stdout.buffer, max_bytes=int(sys.argv[1]), cpu_seconds=float(sys.argv[2]))
