"""structlog, set up once a process: a snake_case fact and key=value. Owns the set-up. Host output and secrets never go in."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from typing import TextIO, cast

import structlog

_SHARED: list[structlog.types.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def configure_logs(service: str, instance: str, level: str, log_format: str) -> structlog.stdlib.BoundLogger:
    """Log to stderr, one record a line; records of libraries from `warning` on go the same way."""
    renderer = _renderer(log_format)
    stream = cast(TextIO, _Unfailing(sys.stderr))
    structlog.configure(
        processors=[*_SHARED, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    structlog.contextvars.bind_contextvars(service=service, instance=instance)
    logger: structlog.stdlib.BoundLogger = structlog.get_logger()
    return logger


class _Unfailing(io.TextIOBase):
    """A log that cannot be written, as on a full disk, ends nothing: what it says is lost, and the work goes on. Nothing is
    kept back either, for the interpreter would fail on it when it ends."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            try:
                descriptor = self._stream.fileno()
            except io.UnsupportedOperation:
                return self._stream.write(text)
            os.write(descriptor, text.encode("utf-8", "replace"))
        return len(text)


def _renderer(log_format: str) -> structlog.types.Processor:
    if log_format == "console":
        return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    return structlog.processors.JSONRenderer()
