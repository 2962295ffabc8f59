"""Whose hand: the process behind an event, read from /proc at once and remembered as long as it may be needed.

A process that wrote one file may be gone a millisecond later, so what can be read is read in the order of its
worth, and kept: a later event of the same process costs a look into a dictionary. What is kept is held against
the process again, soon after it was first seen (a shell that has forked is about to become another program)
and about once a second after that. A number that now belongs to another process is another hand.

Rejected: asking for the process by name later (its number may be another's by then); the audit subsystem (one
listener for each machine, and it is usually taken).
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from closeranks_proto.limits import COMMAND_MAX_BYTES, PARENTS_MAX
from closeranks_proto.lines import printable
from closeranks_proto.parts import Hand

from .cgroups import unit_of
from .masking import command_of, cut
from .processes import Gone, ProcessDirectory, Stat

KNOWN_MAX = 4096  # processes, of about 1 KB each
PARENTS_KNOWN_MAX = 1024
CHECK_FIRST_S = 0.05
CHECK_EVERY_S = 1.0
PARENT_MAX_BYTES = 160  # of one parent's line: PARENTS_MAX of them stay small beside a commit's edits
UNIT_MAX_BYTES = 256

ENDED = "the process had ended before it could be looked at"
FOREIGN = "the kernel named no process: it runs in another pid namespace, or this agent may not be told of it"


@dataclass(slots=True)
class _Known:
    hand: Hand
    name: str  # of the process, while it ends all that still tells its program
    started: int
    first_s: float
    due_s: float  # when it is held against the process again


@dataclass(slots=True)
class _Parent:
    line: str
    parent: int
    due_s: float


class Attribution:
    """Thread-safe. `of` never raises; None means this agent's own process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, known_max: int = KNOWN_MAX) -> None:
        self._clock, self._known_max = clock, known_max
        self._own = os.getpid()
        self._lock = threading.Lock()
        self._known: OrderedDict[int, _Known] = OrderedDict()
        self._parents: OrderedDict[int, _Parent] = OrderedDict()
        self.named = 0  # processes that were looked up, and how that ended
        self.unnamed = 0

    def of(self, pid: int) -> Hand | None:
        """The hand behind `pid`, now. What can not be told says why in its `detail`."""
        known = self._known.get(pid)
        if known is not None and self._clock() < known.due_s:
            return known.hand
        if pid == self._own:
            return None
        if pid <= 0:
            return self.unknown(FOREIGN)
        try:
            return self._look(pid, known)
        except Exception as error:  # noqa: BLE001 - a change must be seen, whatever is known of its hand
            return self.unknown(f"the process could not be looked at: {type(error).__name__}: {error}")

    def started(self, hand: Hand) -> int | None:
        """When the process of `hand` began, in ticks since boot, if it is still the one that is known here."""
        known = self._known.get(hand.pid)
        if known is None or known.hand.exe != hand.exe or known.hand.command != hand.command:
            return None
        return known.started

    @staticmethod
    def unknown(detail: str) -> Hand:
        return Hand(0, "", "", None, None, "", (), 0, 0, printable(detail))

    # --- looking -------------------------------------------------------------------------------

    def _look(self, pid: int, known: _Known | None) -> Hand:
        now = self._clock()
        try:
            with ProcessDirectory(pid) as process:
                stat = process.stat()
                exe = process.executable()
                if known is not None and known.started == stat.started and _is_same(known, exe, stat):
                    known.due_s = now + min(CHECK_EVERY_S, max(CHECK_FIRST_S, now - known.first_s))
                    self._touch(pid)
                    return known.hand
                hand = self._describe(process, stat, exe, now)
        except Gone:
            if known is not None:
                known.due_s = now + CHECK_EVERY_S
                return known.hand
            self.unnamed += 1
            return self.unknown(ENDED)
        self._keep(pid, _Known(hand, stat.name, stat.started, now, now + CHECK_FIRST_S))
        return hand

    def _describe(self, process: ProcessDirectory, stat: Stat, exe: str | None, now: float) -> Hand:
        """What of it can still be read. Raises Gone only where not even the program was seen."""
        shown = _shown(exe, stat)
        if stat.kernel_thread:
            self.unnamed += 1
            return Hand(
                0, shown, "", None, None, "", (), 0, 0,
                f"kernel thread {printable(stat.name)} (pid {process.pid}) wrote for somebody else: a client of an "
                "NFS server, a loop device, a filesystem's own work",
            )  # fmt: skip
        detail = command = unit = ""
        user = login = None
        parents: tuple[str, ...] = ()
        try:
            arguments = process.arguments()
            command = command_of(arguments, COMMAND_MAX_BYTES)
            if exe is None:
                detail = "its executable can not be read" + ("" if arguments else ": the process was ending")
            user = process.user()
            unit = cut(printable(unit_of(process.cgroups())), UNIT_MAX_BYTES)
            login = process.login_user()
            parents = self._ancestors(stat.parent, now)
        except (Gone, OSError, ValueError):
            if exe is None and not command:
                raise Gone from None
            detail = "the process ended while it was looked at"
        self.named += 1
        return Hand(process.pid, shown, command, user, login, unit, parents, 0, 0, detail)

    def _ancestors(self, pid: int, now: float) -> tuple[str, ...]:
        """Nearest first; ends early where one has ended meanwhile."""
        chain: list[str] = []
        while pid > 0 and len(chain) < PARENTS_MAX:
            parent = self._parents.get(pid)
            if parent is None or now >= parent.due_s:
                try:
                    with ProcessDirectory(pid) as process:
                        stat = process.stat()
                        line = cut(f"{pid} {_shown(process.executable(), stat)}", PARENT_MAX_BYTES)
                except (Gone, OSError, ValueError):
                    break
                parent = _Parent(line, stat.parent, now + CHECK_EVERY_S)
                with self._lock:
                    self._parents[pid] = parent
                    self._parents.move_to_end(pid)
                    while len(self._parents) > PARENTS_KNOWN_MAX:
                        self._parents.popitem(last=False)
            chain.append(parent.line)
            pid = parent.parent
        return tuple(chain)

    def _keep(self, pid: int, known: _Known) -> None:
        with self._lock:
            self._known[pid] = known
            self._known.move_to_end(pid)
            while len(self._known) > self._known_max:
                self._known.popitem(last=False)

    def _touch(self, pid: int) -> None:
        with self._lock:
            if pid in self._known:
                self._known.move_to_end(pid)


def _is_same(known: _Known, exe: str | None, stat: Stat) -> bool:
    """Whether it is still the program that is known. One that is ending has lost its executable, and not its name."""
    return known.hand.exe == _shown(exe, stat) or (exe is None and known.name == stat.name)


def _shown(exe: str | None, stat: Stat) -> str:
    """The program's path; its name in brackets where the path can not be seen."""
    return cut(printable(exe if exe is not None else f"[{stat.name}]"), COMMAND_MAX_BYTES)
