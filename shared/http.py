"""What both HTTP services share: errors with a stable code, one server that ends with its process. No routes."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Mapping
from http import HTTPStatus

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from shared.environment import SettingsError
from shared.logs import logger

GRACE_SECONDS = 5
"""How long open requests may take to end when the service is told to stop."""
BACKLOG = 2048


class Problem(Exception):
    """An answer other than success. `detail` says what is wrong and what to do; `code` never changes its meaning."""

    def __init__(self, status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers


class ProblemBody(BaseModel):
    """What every answer other than success contains."""

    detail: str = Field(description="What is wrong and what to do.")
    code: str = Field(description="For programs: it never changes its meaning.")


def answer_problems(app: FastAPI) -> None:
    """Make every error of an app `{"detail": …, "code": …}`, its own bugs included."""

    @app.exception_handler(Problem)
    async def _problem(request: Request, problem: Problem) -> JSONResponse:
        return _answer(problem.status, problem.code, problem.detail, headers=problem.headers)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        return _answer(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", wrong)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        code = HTTPStatus(error.status_code).name.lower()
        return _answer(error.status_code, code, str(error.detail), headers=error.headers)

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> JSONResponse:
        logger().error("bug in a route", path=request.url.path, error=repr(error))
        return _answer(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "a fault of this server, and it is logged")


def _answer(status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": detail, "code": code}, status_code=status, headers=headers)


def listen(host: str, port: int, *, setting: str) -> socket.socket:
    """A bound socket, taken before anything else starts; port 0 takes a free one.

    Raises:
        SettingsError: the address cannot be had; names the setting that chooses another.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol named, because asyncio turns Nagle's algorithm off only then: 40 ms on every answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another {setting}"
        ) from None
    return listener


class _Server(uvicorn.Server):
    """Signals stay with shared.process, which cancels `serve`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(app: FastAPI, listener: socket.socket) -> None:
    """Answer requests until cancelled, then let open ones end."""
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=GRACE_SECONDS)
    server = _Server(config)
    task = asyncio.create_task(server.serve([listener]))
    try:
        await asyncio.shield(task)
    finally:
        server.should_exit = True
        await asyncio.wait([task])
