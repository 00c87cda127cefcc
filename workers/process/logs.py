"""Logs as one JSON object a line: fixed event names, ids bound once, no credential, no text."""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.typing import Processor

#: These tell of every request they make; their warnings are enough.
_NOISY_LOGGERS = (
    "aiobotocore",
    "botocore",
    "celery.app.trace",
    "celery.worker.strategy",
    "faster_whisper",
    "fsspec",
    "matplotlib",
    "modelscope",
    "numba",
    "s3fs",
)


def configure_logging() -> None:
    """Send our events and the libraries' warnings to standard error."""
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*processors, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=processors,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
