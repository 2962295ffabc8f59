"""Keeping one volume watched: the best source that the kernel permits, opened again when it broke.

A volume without a working source is not worse off than before there were any: its scans go on. So nothing here
ever fails; what stands in the way is told in words (`detail`) and tried again, less often each time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from typing import Final

from closeranks_proto.errors import CloseranksError

from .disk.volume import Volume
from .hands.attribution import Attribution
from .hands.written import Written
from .watch.hush import SHOWN
from .watch.owner import WatchTally
from .watch.source import open_source
from .watch.watcher import Watcher

log = logging.getLogger("closeranks.watch")

REOPEN_MIN_S: Final = 1.0
REOPEN_MAX_S: Final = 300.0
CALM_S: Final = 600.0  # a watcher that lived for so long was not a failure
KINDS: Final = ("fanotify", "inotify", "rescan")
_CLOSED = "the volume can not be opened"


class Watching:
    """Of one volume. `scan_soon` and `proven` are called on the loop. `kind` is "" until it was tried."""

    def __init__(
        self, name: str, prefer: str, attribution: Attribution, written: Written,
        scan_soon: Callable[[], None], proven: Callable[[], None],
    ) -> None:  # fmt: skip
        self.tally = WatchTally()
        self.kind = ""
        self.detail = ""
        self._name, self._prefer = name, prefer
        self._attribution, self._written = attribution, written
        self._scan_soon, self._proven = scan_soon, proven
        self._watcher: Watcher | None = None
        self._opened = self._retry = 0.0
        self._delay = REOPEN_MIN_S

    @property
    def proven(self) -> float | None:
        """Until when everything is seen and committed, monotonic; None where nothing watches."""
        return None if self._watcher is None else self._watcher.proven

    @property
    def covered(self) -> bool:
        """Nothing can have happened unseen since the last scan."""
        return self._watcher is not None and self._watcher.covered

    @property
    def stormy(self) -> bool:
        """So much is written, or was a moment ago, that scans find most of it."""
        return self._watcher is not None and self._watcher.stormy

    @property
    def hushed(self) -> bool:
        """So much is written into open files that scans prove what the watcher can not."""
        return self._watcher is not None and self._watcher.hushed

    @property
    def is_proven_by_scans(self) -> bool:
        """In a hush, and until the scan behind it has ended."""
        return self._watcher is not None and self._watcher.is_proven_by_scans

    @property
    def pending(self) -> int:
        return 0 if self._watcher is None else self._watcher.pending

    def prove(self) -> bool:
        """Begin a proof; False where only a scan can tell."""
        return self._watcher is not None and self._watcher.prove()

    def scanned(self, started_mono: float) -> None:
        """A complete scan, begun then, has ended."""
        if self._watcher is not None:
            self._watcher.scanned(started_mono)

    @property
    def shown_detail(self) -> str:
        """Why not better, in words; "" where nothing is left to wish for."""
        watcher = self._watcher
        if watcher is not None and watcher.stormy:
            return watcher.storm_shown
        if watcher is not None and watcher.hushed:
            return SHOWN
        if watcher is not None and watcher.source.unwatched:
            return (
                f"{watcher.source.unwatched} directories hold some that the kernel has no watches left for "
                "(fs.inotify.max_user_watches); scans see what changes there"
            )
        return self.detail

    # --- opening and closing -------------------------------------------------------------------

    async def ensure(self, volume: Volume) -> None:
        """Open a source where none is and it is time to try. Before a scan: what it sees needs no event."""
        if self._watcher is not None or time.monotonic() < self._retry:
            return
        self._retry = time.monotonic() + REOPEN_MAX_S
        loop = asyncio.get_running_loop()
        opening = asyncio.ensure_future(asyncio.to_thread(self._open, volume, loop))
        try:
            self._watcher = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unwanted)
            raise
        if self._watcher is not None:
            self._opened = time.monotonic()
            self._watcher.start()

    def _open(self, volume: Volume, loop: asyncio.AbstractEventLoop) -> Watcher | None:
        try:
            os.close(volume.open_root())
            volume.ensure_private()
        except (CloseranksError, OSError) as error:
            self._none(f"{_CLOSED}: {error}")
            self._retry = 0.0  # the next scan finds it again
            return None
        try:
            source, detail = open_source(
                volume.path, volume.private, prefer=self._prefer, ignored=volume.ignores_directory
            )
        except Exception as error:
            log.exception("%s: a fault in opening a source of changes", self._name)
            source, detail = None, f"a fault of the agent: {error!r}"
        if source is None:
            self._none(detail)
            return None
        if (source.kind, detail) != (self.kind, self.detail):
            log.info("%s: watched by %s%s", self._name, source.kind, f" ({detail})" if detail else "")
        self.kind, self.detail = source.kind, detail
        return Watcher(volume, source, self._attribution, self._written, _Told(self, loop), self.tally)

    def _none(self, detail: str) -> None:
        if detail != self.detail:
            log.info("%s: not watched, scans see what changes: %s", self._name, detail)
        self.kind, self.detail = "rescan", detail

    async def close(self, why: str = "") -> None:
        """Give the source back; with `why` the volume's root is gone and another is opened when it is back."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            await asyncio.to_thread(watcher.close)
        if why:
            self._none(f"{_CLOSED}: {why}")  # in the words of the next attempt: said once, not at each
            self._retry = 0.0

    async def anew(self) -> None:
        """Give the source back; the next `ensure` opens one at once."""
        await self.close()
        self._retry = 0.0

    def broke(self, watcher: object, why: str) -> None:
        """On the loop: it ended by itself."""
        ended = self._watcher
        if ended is None or watcher is not ended:
            return
        self._watcher = None
        now = time.monotonic()
        self._delay = REOPEN_MIN_S if now - self._opened > CALM_S else min(self._delay * 2, REOPEN_MAX_S)
        self._retry = now + self._delay
        self._none(f"{why}; opened again in {self._delay:.0f} s")
        asyncio.get_running_loop().run_in_executor(None, watcher.close)
        asyncio.get_running_loop().call_later(self._delay, self._scan_soon)
        self._scan_soon()

    def wanted_scan(self) -> None:
        self._scan_soon()

    def has_proven(self) -> None:
        self._proven()


class _Told:
    """Brings what a watcher says from its thread to the loop."""

    def __init__(self, watching: Watching, loop: asyncio.AbstractEventLoop) -> None:
        self._watching, self._loop = watching, loop

    def scan_needed(self, why: str) -> None:
        self._call(self._watching.wanted_scan)

    def proven(self) -> None:
        self._call(self._watching.has_proven)

    def broken(self, watcher: object, why: str) -> None:
        self._call(lambda: self._watching.broke(watcher, why))

    def _call(self, function: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            return  # the loop has ended


def _close_unwanted(opening: asyncio.Future[Watcher | None]) -> None:
    """It was opened after nobody wanted it any more."""
    if not opening.cancelled() and opening.exception() is None:
        watcher = opening.result()
        if watcher is not None:
            watcher.close()
