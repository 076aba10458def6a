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
            *(_FOR_A_TERMINAL if terminal else _FOR_A_COLLECTOR),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)


# Tracebacks without local variables: tokens and miners' code are among them, and drawing them stops the event loop.
_FOR_A_TERMINAL: tuple[structlog.typing.Processor, ...] = (
    structlog.processors.StackInfoRenderer(),
    structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
)
_FOR_A_COLLECTOR: tuple[structlog.typing.Processor, ...] = (
    structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
    structlog.processors.JSONRenderer(),
)


def logger() -> structlog.typing.FilteringBoundLogger:
    """The process's logger; bind ids with `structlog.contextvars.bound_contextvars`."""
    log: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return log
