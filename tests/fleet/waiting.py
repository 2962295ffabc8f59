"""Waiting for a condition, with a limit, and with what was seen last in the error.

No test sleeps for luck. A probe that raises OSError or ApiError is "not yet", since a daemon that is
just starting refuses connections; anything else is a fault of the test and goes through.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from fleet.api import ApiError

T = TypeVar("T")


class Waited(AssertionError):
    """The condition did not come in time."""


def wait_until(
    what: str,
    look: Callable[[], T],
    accept: Callable[[T], Any] = bool,
    timeout_s: float = 30.0,
    every_s: float = 0.1,
    guard: Callable[[], None] | None = None,
) -> T:
    """Call `look` until `accept` takes its value, and return that value.

    `guard` runs at each turn and raises where waiting has become pointless (a daemon died).
    """
    deadline = time.monotonic() + timeout_s
    last: object = "nothing was looked at"
    while True:
        try:
            seen = look()
            last = seen
            if accept(seen):
                return seen
        except (OSError, ApiError) as error:
            last = repr(error)
        if guard is not None:
            guard()
        if time.monotonic() >= deadline:
            text = str(last)
            shown = text if len(text) <= 4000 else text[:4000] + " ..."
            raise Waited(f"waited {timeout_s:.0f} s for: {what}\nlast seen: {shown}")
        time.sleep(every_s)
