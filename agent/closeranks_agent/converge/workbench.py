"""What pushes of one volume work with, kept open for a moment after each: the next one is often close behind.

Opening the trash reads its whole ledger, and making ready costs more than a small file does. So workroom,
trash, stage and threads stay open until nothing came for LINGER_S; then they are closed, for an idle agent
keeps no filesystem busy. Before each push it is checked that they still are what they were: an unmounted or
replaced root, a private directory that somebody removed, or other settings make everything anew.

All methods of a bench but `threads` run on the volume's thread, those of its workshop but `opened` on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from ..disk.volume import Volume
from .install import Installer
from .lift import Lifts
from .stage import Stage, clear_stage
from .trash import Trash
from .workroom import Workroom

log = logging.getLogger("closeranks.converge")

LINGER_S = 10.0
THREADS = 3
STAGED_MAX = 4096  # names that pushes may leave in the stage before it is cleared


class Workbench:
    """Open until `close`."""

    def __init__(self, volume: Volume, trash: Trash, open_incidents: Callable[[], Collection[str]]) -> None:
        """Raises VolumeGone, LedgerDamaged, OSError."""
        self._volume = volume
        self._settings = volume.settings
        self._threads: ThreadPoolExecutor | None = None
        self.stopped = False
        self._left_over = False
        with ExitStack() as stack:
            self.room: Workroom = stack.enter_context(trash.opened())
            self.lifts = Lifts(self.room.trash_fd, self.room.root_fd)
            stack.callback(self.lifts.close)
            self.lifts.restore()
            self.installer = Installer(volume, self.room, trash, None, self.lifts, "", open_incidents, True)
            self.stage = Stage(
                self.room,
                volume.algorithm,
                volume.settings.special_bits,
                self.installer.moved.get,
                lambda: self.stopped,
            )
            self._files = stack.pop_all()

    @property
    def fits(self) -> bool:
        """Whether everything is still what it was when it was opened. Raises VolumeGone, OSError."""
        root_fd = self._volume.open_root()
        try:
            now, then = os.fstat(root_fd), os.fstat(self.room.root_fd)
        finally:
            os.close(root_fd)
        made = (self.room.stage_fd, self.room.trash_fd, self.room.items_fd)
        return (
            (now.st_dev, now.st_ino) == (then.st_dev, then.st_ino)
            and all(os.fstat(fd).st_nlink for fd in made)
            and self._settings is self._volume.settings
        )

    @property
    def threads(self) -> ThreadPoolExecutor:
        """For pushes of long files."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=f"push-{self._volume.name}")
        return self._threads

    @property
    def untidy(self) -> bool:
        """Whether `tidy` has anything to do."""
        return self._left_over or self.lifts.any

    @untidy.setter
    def untidy(self, left_over: bool) -> None:
        self._left_over = left_over

    def tidy(self) -> None:
        """A push is over: no directory stays lifted, and what lies in the stage is known."""
        self._left_over = False
        self.lifts.restore()
        if self.stage.relist() > STAGED_MAX:
            clear_stage(self.room.stage_fd)
            self.stage.relist()

    def close(self, clear: bool) -> None:
        """`clear`: nothing went wrong, so what is left in the stage is of no use to anybody."""
        self.stopped = True
        if self._threads is not None:
            self._threads.shutdown()
        try:
            if clear and os.fstat(self.room.stage_fd).st_nlink:
                clear_stage(self.room.stage_fd)
        except OSError as error:
            log.warning("%s: the stage could not be cleared: %s", self._volume.name, error.strerror)
        finally:
            self._files.close()


class Workshop:
    """Opens the bench when a push needs it, and closes it when none came for LINGER_S: whoever calls holds `lock`.

    `spoilt`: the push went wrong in a way that leaves nothing of the bench to be relied on.
    """

    def __init__(
        self, volume: Volume, trash: Trash, open_incidents: Callable[[], Collection[str]], lock: asyncio.Lock
    ) -> None:
        self._volume, self._trash, self._open_incidents, self._lock = volume, trash, open_incidents, lock
        self.bench: Workbench | None = None
        self.spoilt = False
        self._timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.Future[None] | None = None  # somebody must hold it until it has ended

    def opened(self) -> Workbench:
        """On the volume's thread. Raises VolumeGone, LedgerDamaged, OSError."""
        if self.bench is not None and not self.bench.fits:
            self._close_bench()
        if self.bench is None:
            self.bench = Workbench(self._volume, self._trash, self._open_incidents)
        return self.bench

    def rest(self) -> None:
        """A push has come: the bench stays open."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def leave(self) -> None:
        """End the push on the volume's thread, so that nothing of it works on, and wait for the next one."""
        bench = self.bench
        if bench is not None and self.spoilt:
            bench.stopped = True
        if self._volume.root is not None:
            self._volume.drop_staged()
        if self.spoilt or (bench is not None and bench.untidy):
            await self._on_thread(self._end)
        if self.bench is not None:
            self._timer = asyncio.get_running_loop().call_later(LINGER_S, self._linger_over)

    def _end(self) -> None:
        if self.bench is None:
            return
        try:
            if not self.spoilt:
                self.bench.tidy()
                return
        except OSError as error:
            self.spoilt = True
            log.warning("%s: the stage could not be tidied: %s", self._volume.name, error.strerror)
        self._close_bench()

    def _linger_over(self) -> None:
        self._closing = asyncio.ensure_future(self._close_idle())

    async def _close_idle(self) -> None:
        timer = self._timer
        async with self._lock:
            if self._timer is timer:  # no push came meanwhile
                await self.close()

    async def close(self) -> None:
        """Let go of everything; the volume's lock is held."""
        self.rest()
        if self.bench is not None:
            await self._on_thread(self._close_bench)

    def _close_bench(self) -> None:
        bench, self.bench = self.bench, None
        if bench is not None:
            bench.close(clear=not self.spoilt)
        self.spoilt = False

    async def _on_thread(self, function: Callable[[], None]) -> None:
        try:
            await asyncio.shield(asyncio.ensure_future(self._volume.run_soon(function)))
        except RuntimeError:  # the volume was closed before us and its thread has ended
            await asyncio.to_thread(function)
