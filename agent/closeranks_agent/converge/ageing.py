"""How old things in the trash are: a clock that runs while this machine does, and that nobody can set.

A wall clock can jump: a battery that is empty, a wrong time server, a person. One that jumped ahead by a year made
everything in the trash a year old, and the next repair threw away what the repairs before it had set aside. So
ages are counted on the monotonic clock. That begins anew with each boot; what it showed is kept on disk with the boot
that it belongs to, and is gone on from. Time for which the machine was off does not count, nor what passed
between the last look and a reboot: a thing in the trash may live longer than it must, never shorter.

It starts at the wall clock's time, since what older versions put into a trash is stamped with that.
Rejected: the wall clock with a limit on its steps (after a reboot nobody can tell a step from time that passed).
"""

from __future__ import annotations

import logging
import time

import msgpack

from ..disk.journal import boot_id
from .ledger import Ledger

log = logging.getLogger("closeranks.converge")

FILE = b"age"
SAVE_EVERY_MS = 600_000  # the trash is tidied each hour: that is what a reboot may forget


class Ageing:
    """The clock of one trash. Its owner locks. Raises LedgerDamaged for a file of an unknown kind."""

    def __init__(self, trash_fd: int) -> None:
        self._boot = boot_id()
        file = Ledger(trash_fd, FILE)
        try:
            self._offset_ms = _offset_ms(file, self._boot)
        finally:
            file.close()
        self._saved_ms: int | None = None
        self.save(trash_fd)

    def now_ms(self) -> int:
        """Milliseconds that never go back, whoever sets the machine's clock."""
        return self._offset_ms + _up_ms()

    def save(self, trash_fd: int) -> None:
        """Keep what it shows, where that has not been done lately. A disk without room is no reason to stop."""
        now_ms = self.now_ms()
        if self._saved_ms is not None and now_ms - self._saved_ms < SAVE_EVERY_MS:
            return
        try:
            file = Ledger(trash_fd, FILE)
            try:
                file.replace([msgpack.packb((self._boot, _up_ms(), now_ms))])
            finally:
                file.close()
        except OSError as error:
            log.warning("the age of what lies in the trash is not on disk: %s", error)
            return
        self._saved_ms = now_ms


def _up_ms() -> int:
    return int(time.monotonic() * 1000)


def _offset_ms(file: Ledger, boot: str) -> int:
    """What the monotonic clock lacks. Of an earlier boot, its own time goes on where that one was last seen."""
    for record in file.read():
        match record:
            case (str(saved_boot), int(saved_up_ms), int(saved_ms)):
                return saved_ms - saved_up_ms if saved_boot == boot else saved_ms
            case _:
                raise file.damaged()
    return int(time.time() * 1000) - _up_ms()
