"""The coordinator's log: one line each to stderr, as text or JSON (see `closeranks_proto.lines`)."""

from __future__ import annotations

import logging
import sys

from closeranks_proto.lines import fault_text, log_line


class OneLine(logging.Formatter):
    """Every record is one line, exceptions included."""

    def __init__(self, log_format: str) -> None:
        super().__init__()
        self.log_format = log_format

    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        fault = None if error is None else fault_text(error)
        source = record.name.removeprefix("closeranks.").removeprefix("closeranks_")
        level, at_ms = record.levelname.lower(), int(record.created * 1000)
        return log_line(self.log_format, at_ms, level, source, record.getMessage(), fault)


def set_up_logging(log_format: str, level: int = logging.INFO) -> None:
    """Once, at the daemon's start. Replaces what the root logger had."""
    target = logging.StreamHandler(sys.stderr)
    target.setFormatter(OneLine(log_format))
    root = logging.getLogger()
    root.handlers[:] = [target]
    root.setLevel(level)
    logging.captureWarnings(True)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    logging.raiseExceptions = False  # a closed stderr must not print tracebacks
