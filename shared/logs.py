"""Structured logs: one canonical line per message, ids bound through contextvars; JSON unless a terminal reads it."""

import logging
import sys

import structlog


def configure(service: str, *, level: str = "INFO") -> None:
    """Send all logs of this process to stderr. Called once, first thing in `main`."""
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks if not terminal else structlog.processors.StackInfoRenderer(),
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)


def logger() -> structlog.typing.FilteringBoundLogger:
    """The process's logger; bind ids with `structlog.contextvars.bound_contextvars`."""
    log: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return log
