"""The one thread of a volume, and what comes in between on it.

Everything that reads or writes the tree is done there, one after the other. A scan may take minutes: between two
directories it *breathes*, and what waits is done then, calls before looks.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from closeranks_proto.messages import Hand

from .look import LookReport, Names

P = ParamSpec("P")
R = TypeVar("R")


class Worker:
    """Its methods but `breathe` may be called from any thread."""

    def __init__(self, name: str, look: Callable[[Names, Mapping[bytes, Hand], float], LookReport]) -> None:
        self._look = look
        self._looks: deque[tuple[Names, Mapping[bytes, Hand], float, Future[LookReport]]] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        self._stop = threading.Event()
        self.is_stopped = self._stop.is_set  # asked once for each file that is read: no call more than that
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"volume-{name}")

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call after everything that was asked for earlier."""
        call = asyncio.get_running_loop().run_in_executor
        return await call(self._thread, lambda: function(*args, **kwargs))

    def call_soon(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Call soon, also between two directories of a running scan. Cancelled in time, it is not called.

        Raises RuntimeError after `close`.
        """
        asked: Future[R] = Future()

        def call() -> None:
            if asked.set_running_or_notify_cancel():
                try:
                    asked.set_result(function(*args, **kwargs))
                except BaseException as error:  # noqa: BLE001 (whoever waits gets it)
                    asked.set_exception(error)

        self._calls.append(call)
        self._thread.submit(self.breathe)
        return asked

    def look_soon(self, names: Names, hands: Mapping[bytes, Hand], seen_mono: float) -> Future[LookReport]:
        """Look soon, also in the middle of a scan. Cancelled at once after `close`: nobody looks any more."""
        asked: Future[LookReport] = Future()
        self._looks.append((names, hands, seen_mono, asked))
        try:
            self._thread.submit(self.breathe)
        except RuntimeError:  # closed
            asked.cancel()
        return asked

    def breathe(self, is_ready: Callable[[], bool] = lambda: True) -> bool:
        """Do the looks and calls that wait; whether directories may be gone by them. On the thread.

        `is_ready` is asked before the first of them.
        """
        if not (self._calls or self._looks) or not is_ready():
            return False
        gone = bool(self._calls)
        while self._calls:
            self._calls.popleft()()
        while self._looks:
            names, hands, seen_mono, asked = self._looks.popleft()
            if not asked.set_running_or_notify_cancel():
                continue
            try:
                report = self._look(names, hands, seen_mono)
            except BaseException as error:
                asked.set_exception(error)
                raise
            gone |= report.directories_gone
            asked.set_result(report)
        return gone

    def stop(self) -> None:
        """End what is under way soon, and whatever looks at this later at once."""
        self._stop.set()

    def close(self) -> None:
        """Nothing is called any more that was not asked for before."""
        self._stop.set()
        self._thread.shutdown(wait=False)
