r"""One line for people: text that comes from elsewhere, and the daemons' log lines.

Both daemons and the command line print names, reasons and messages that a stranger may have chosen.
`printable` keeps such text on one line and terminals undriven. Unlike `paths.escape` it leaves
backslashes alone: what it is given was often escaped already, and it need not be reversible.

Formatting is pure and stands here once; each daemon's `logs` module binds it to `logging`, which this
package does not import.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import lru_cache

_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def printable(text: str) -> str:
    r"""`text` without anything that could drive a terminal or start a line: `\n \t \r \xNN` instead."""
    if text.isprintable():
        return text
    out: list[str] = []
    for char in text:
        if char.isprintable():
            out.append(char)
        elif char in _SHORT:
            out.append(_SHORT[char])
        else:
            out.extend(
                f"\\x{byte:02x}"
                for byte in char.encode(
                    "utf-8", "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass"
                )
            )
    return "".join(out)


def shortened(text: str, width: int) -> str:
    """`text`, or its beginning and an ellipsis where it is longer than `width` characters."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def timestamp(unix_ms: int) -> str:
    """RFC 3339 in UTC with milliseconds."""
    return f"{_second(unix_ms // 1000)}.{unix_ms % 1000:03d}Z"


@lru_cache(maxsize=1024)
def _second(unix_s: int) -> str:
    """One look at a large fleet tells some thousand times, most of them of the same few seconds."""
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%dT%H:%M:%S}"


def log_line(
    log_format: str, unix_ms: int, level: str, source: str, message: str, fault: str | None = None
) -> str:
    """One log line without its end: `log_format` is "text" or "json"; `fault` tells of an exception."""
    at = timestamp(unix_ms)
    if log_format == "json":
        record = {"at": at, "level": level, "source": source, "message": printable(message)}
        if fault is not None:
            record["fault"] = printable(fault)
        return json.dumps(record, ensure_ascii=False)
    tail = "" if fault is None else f" [{printable(fault)}]"
    return f"{at} {level:<7} {source}: {printable(message)}{tail}"


def fault_text(error: BaseException, frames: int = 4) -> str:
    """An exception as one line: what it is, and the innermost `frames` places that it came through.

    A group is told by the first exception in it that is none, with how many there were.
    """
    others = 0
    while isinstance(error, BaseExceptionGroup):
        others += len(error.exceptions) - 1
        error = error.exceptions[0]
    places: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    way = " < ".join(reversed(places[-frames:]))
    told = f"{type(error).__name__}: {error}" + (f" at {way}" if way else "")
    if error.__cause__ is not None and frames > 1:
        told += f"; caused by {fault_text(error.__cause__, 1)}"
    return printable(told + (f"; and {others} more" if others else ""))
