"""One volume's scrub: when a tour is due it reads every content again, as fast as it may, and says what is wrong.

A thread of its own, which only hands out work: a nice process reads (`reading`). What it finds goes to the volume's
thread, which reads the file once more and commits it as it is, so that decayed bytes become an ordinary difference
to the truth, with the cause `scrub`. Before that they were read from the disk itself a second time: what is right
then was a slip of memory and is only told. A file that some program has mapped for writing is that program's change.

Invariant: the position is only moved on over what was compared.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from closeranks_proto.lines import printable
from closeranks_proto.messages import Scrub, ScrubState, VolumeSettings
from closeranks_proto.paths import escape, path_of

from ..beneath import open_beneath
from ..disk.database import Damaged
from ..disk.records import StateUnavailable, VolumeGone
from ..disk.volume import Volume
from . import progress as progress_of
from .mapped import mapped_by
from .pace import Backoff, Pace
from .pressure import Pressure
from .progress import META, Progress
from .reader import Reader
from .reading import MOVED, Answer
from .tour import JOB_BYTES, Item, items, items_of

log = logging.getLogger("closeranks.scrub")

IDLE_S: Final = 60.0
MENDING_S: Final = 2.0  # while files are amiss
TROUBLE_S: Final = 10.0
SAVE_S: Final = 0.25  # so much is read again after a crash
LOOK_S: Final = 1.0  # at the machine's load
BATCH_S: Final = 0.25  # of the pace: how much is asked for at a time
BATCH_FILES: Final = 64
BATCH_MIN_BYTES: Final = 64 * 1024
DOUBTS_MAX: Final = 16  # chunks; an audit that finds another one meanwhile will find it again
DECAYED: Final = (
    "its bytes are others than when they were read last, but size, mtime, ctime and inode are the same: "
    "a failing disk, or a program that wrote through a memory map"
)
SLIPPED: Final = (
    "a scrub read other bytes once, and the right ones when it read from the disk again: suspect memory"
)


@dataclass(slots=True)
class Totals:
    """Since the agent started, for the metrics."""

    files: int = 0
    bytes: int = 0
    found: int = 0
    unreadable: int = 0


class Interrupted(Exception):
    """Stop what is under way; the position is kept."""


class Scrubber:
    """`start` once, `stop` once. Settings and orders come from any thread. `changed` is called from this one's."""

    def __init__(
        self, volume: Volume, settings: VolumeSettings, changed: Callable[[], None],
        now: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._volume, self._settings, self._changed, self._now = volume, settings, changed, now
        self._word = Scrub(False, False, None)
        self._asked = False
        self._doubts: dict[tuple[bytes, int], None] = {}  # (key, chunk) that an audit found wrong
        self._doubting = threading.Lock()  # the loop's thread adds while this one takes
        self._stopping = False
        self._wake = threading.Event()
        self._pace, self._backoff, self._pressure = Pace(), Backoff(), Pressure()
        self._progress: Progress | None = None  # None: not read yet
        self._running = False
        self._noted = b""  # a long file's other parts may be right
        self._under: tuple[object, int] | None = None  # digest and chunk length of the tour
        self._waited_s = self._cold_bytes = 0.0  # since the last look at the load
        self._looked = self._saved = 0.0
        self.totals = Totals()
        self._thread = threading.Thread(target=self._run, name=f"scrub-{volume.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when the thread has ended, or will soon: a disk that does not answer holds it up."""
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout=5.0)

    def configure(self, settings: VolumeSettings) -> None:
        self._settings = settings
        self._wake.set()

    def scanned(self) -> None:
        """A scan has ended: the first one makes something known."""
        if self._progress is None:
            self._wake.set()

    def order(self, word: Scrub) -> None:
        """An operator's word."""
        self._word = word
        self._asked = self._asked or word.now
        self._wake.set()

    def doubt(self, key: bytes, chunk: int) -> None:
        """An audit read other bytes there than the index says: look before everything else."""
        with self._doubting:
            if len(self._doubts) < DOUBTS_MAX:
                self._doubts[(key, chunk)] = None
                self._wake.set()

    # --- what is told --------------------------------------------------------------------------

    @property
    def limits(self) -> tuple[int | None, int | None]:
        """(bytes/s, files/s) in force before any backing off."""
        own, said = self._settings, self._word.bytes_s
        if said is None:
            return own.scrub_bytes_s, own.scrub_files_s
        if said == 0:
            return None, None
        files_s = own.scrub_files_s
        if files_s is not None and own.scrub_bytes_s:
            files_s = max(1, round(files_s * said / own.scrub_bytes_s))
        return said, files_s

    @property
    def scale(self) -> float:
        """What backing off leaves of the limits."""
        return self._backoff.scale

    def state(self) -> ScrubState | None:
        """None before anything is known."""
        progress, summary = self._progress, self._volume.summary
        if progress is None or summary is None:
            return None
        waiting = "waiting" if self._settings.scrub_interval_s else "off"
        state = "paused" if self._word.paused else "running" if self._running else waiting
        return progress_of.state_of(
            progress, state, self._running and self.scale < 1, self._now_ms(), (summary.files, summary.bytes),
            self._settings.scrub_interval_s, self.limits,
        )  # fmt: skip

    def _now_ms(self) -> int:
        return int(self._now() * 1000)

    # --- life ----------------------------------------------------------------------------------

    def _run(self) -> None:
        told = ""
        while not self._stopping:
            self._wake.clear()
            try:
                rest_s = self._round()
                told = ""
            except Interrupted:
                rest_s = 0.0
            except (StateUnavailable, VolumeGone, Damaged, OSError) as error:
                if str(error) != told:
                    log.warning("%s: the scrub waits: %s", self._volume.name, error)
                told, rest_s = str(error), TROUBLE_S
            self._wake.wait(rest_s)

    def _round(self) -> float:
        """A tour, where one is due; how long to rest."""
        history = self._volume.history
        if (
            self._volume.root is None
            or self._volume.condition.problem is not None
            or history.unfinished
            or history.rederive
            or self._volume.is_stormy
        ):
            return TROUBLE_S
        progress = self._loaded()
        self._forget_mended(progress)
        if self._doubts:
            self._examine(progress)
        idle_s = MENDING_S if progress.amiss else IDLE_S
        now_ms = self._now_ms()
        due_ms = progress.due_ms(now_ms, self._settings.scrub_interval_s)
        due = due_ms is not None and now_ms >= due_ms
        if self._word.paused or not (due or self._asked or progress.under_way):
            if self._word.paused or due_ms is None:
                return idle_s
            return min(idle_s, max(0.01, (due_ms - now_ms) / 1000))
        if not progress.under_way:
            progress.begin(now_ms)
            self._save(progress)
        self._asked = False
        self._running = True
        try:
            self._changed()
            self._tour(progress)
        finally:
            self._running = False
            self._changed()
        return 0.01

    def _loaded(self) -> Progress:
        """What is stored. An index of an older version does not tell when its contents were read: a tour is due."""
        stored = self._volume.history.index.meta(META)
        found = progress_of.decode(stored)
        if self._progress is None or stored is None:  # the index may have been made anew
            self._progress = found
            self._volume.condition.scrubbed = found.reports()
        return self._progress

    def _forget_mended(self, progress: Progress) -> None:
        """A file that was replaced since it was found amiss is another one."""
        for one in list(progress.amiss):
            row = self._volume.history.index.row(bytes.fromhex(one.key))
            if row is None or row.stat.hex() != one.mark:
                progress.clear(bytes.fromhex(one.key))
                self._save(progress)
        if len(self._volume.condition.scrubbed) != len(progress.amiss):
            self._volume.condition.scrubbed = progress.reports()
            self._changed()

    def _save(self, progress: Progress) -> None:
        self._saved = time.monotonic()
        self._volume.history.note(META, progress_of.encode(progress))

    def _examine(self, progress: Progress) -> None:
        """Read again what audits found wrong. The tour's position stays where it is."""
        volume = self._volume
        root_fd = volume.open_root()
        try:
            reader = Reader(root_fd, volume.algorithm, volume.chunk_bytes)
            try:
                while self._doubts and not self._stopping:
                    with self._doubting:
                        key, chunk = doubt = next(iter(self._doubts))
                    width, index = volume.algorithm.width, volume.history.index
                    for item in items_of(index, key, chunk, volume.chunk_bytes, width, JOB_BYTES):
                        self._check_root()
                        self._compare_one(reader, root_fd, progress, item)
                    with self._doubting:
                        del self._doubts[doubt]
            finally:
                reader.close()
        finally:
            os.close(root_fd)

    def _compare_one(self, reader: Reader, root_fd: int, progress: Progress, item: Item) -> None:
        answer = reader.read([item.job(self._volume.chunk_bytes, afresh=True)])[0]
        if isinstance(answer, int):
            if answer != MOVED:
                self._unreadable(progress, item, answer)
        elif answer[0] != item.expected:
            self._suspect(reader, root_fd, progress, item)

    # --- a tour --------------------------------------------------------------------------------

    def _tour(self, progress: Progress) -> None:
        volume = self._volume
        history, chunk_bytes, algorithm = volume.history, volume.chunk_bytes, volume.algorithm
        self._under, self._noted = (algorithm, chunk_bytes), b""
        root_fd = volume.open_root()
        try:
            reader = Reader(root_fd, algorithm, chunk_bytes)
            try:
                todo = items(
                    history.index,
                    progress.key,
                    progress.offset,
                    chunk_bytes,
                    algorithm.width,
                    self._job_bytes(),
                )
                while batch := self._batch(todo):
                    self._pause()
                    self._check_root()
                    answers = reader.read([item.job(chunk_bytes) for item in batch])
                    self._compare(reader, root_fd, progress, batch, answers)
                    if time.monotonic() - self._saved >= SAVE_S:
                        self._save(progress)
                        self._changed()
            finally:
                reader.close()
                with suppress(StateUnavailable):  # then a little is read again
                    self._save(progress)
        finally:
            os.close(root_fd)
        progress.end(self._now_ms())
        self._save(progress)
        log.info("%s: every content was read again", volume.name)

    def _job_bytes(self) -> int:
        """A long file's range: about BATCH_S of the pace."""
        bytes_s, _ = self.limits
        return JOB_BYTES if bytes_s is None else max(BATCH_MIN_BYTES, min(JOB_BYTES, int(bytes_s * BATCH_S)))

    def _batch(self, todo: Iterator[Item]) -> list[Item]:
        most = (
            BATCH_FILES if self.limits[1] is None else max(1, min(BATCH_FILES, int(self.limits[1] * BATCH_S)))
        )
        size_max, found, size = self._job_bytes(), list[Item](), 0
        for item in todo:
            found.append(item)
            size += item.length
            if len(found) >= most or size >= size_max:
                break
        return found

    def _pause(self) -> None:
        """Wait until the pace allows more. Raises Interrupted where an operator or the end of the agent does not."""
        while True:
            self._wake.clear()
            if self._stopping or self._word.paused or self._doubts:
                raise Interrupted
            if self._under != (self._volume.algorithm, self._volume.chunk_bytes):
                raise Interrupted  # what is known is being read anew
            now = time.monotonic()
            self._look_at_load(now)
            self._pace.bytes_s, self._pace.files_s = self.limits
            self._pace.scale = self._backoff.scale
            wait_s = self._pace.due_s(now)
            if wait_s <= 0.001:
                return
            self._wake.wait(min(wait_s, LOOK_S))

    def _look_at_load(self, now: float) -> None:
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        io, cpu = self._pressure.look(self._waited_s)
        latency_s = self._waited_s / self._cold_bytes * (1 << 20) if self._cold_bytes else None
        self._waited_s = self._cold_bytes = 0.0
        self._backoff.look(io, cpu, latency_s)

    def _check_root(self) -> None:
        """A filesystem that went away is no decay. Raises VolumeGone."""
        os.close(self._volume.open_root())

    def _compare(
        self,
        reader: Reader,
        root_fd: int,
        progress: Progress,
        batch: Sequence[Item],
        answers: Sequence[Answer],
    ) -> None:
        size = files = 0
        for item, answer in zip(batch, answers, strict=True):
            if isinstance(answer, int):
                if answer != MOVED:
                    self._unreadable(progress, item, answer)
            else:
                digests, cold, waited_s = answer
                self._cold_bytes += cold
                self._waited_s += waited_s
                if digests != item.expected:
                    self._suspect(reader, root_fd, progress, item)
                elif item.ends:
                    self._right(progress, item.key)
            size += item.length
            files += item.ends
            progress.bytes += item.length
            progress.files += item.ends
            progress.at(item.key, 0 if item.ends else item.offset + item.length)
        self.totals.bytes += size
        self.totals.files += files
        self._pace.spend(time.monotonic(), size, files)

    # --- what is wrong -------------------------------------------------------------------------

    def _right(self, progress: Progress, key: bytes) -> None:
        if progress.amiss and key != self._noted:
            progress.clear(key)
            self._volume.condition.scrubbed = progress.reports()

    def _told(self, progress: Progress, key: bytes, why: str, detail: str) -> None:
        log.warning("%s: %s: %s", self._volume.name, printable(escape(path_of(key))), detail)
        row = self._volume.history.index.row(key)
        progress.note(key, "" if row is None else row.stat.hex(), why, detail)
        self._noted = key
        self._volume.condition.scrubbed = progress.reports()
        self._save(progress)
        self._changed()

    def _unreadable(self, progress: Progress, item: Item, number: int) -> None:
        if number in (errno.EACCES, errno.EPERM) or self._volume.history.index.row(item.key) != item.row:
            return  # scans report that; or it is another file by now
        self.totals.unreadable += 1
        self._told(progress, item.key, "unreadable", f"a scrub could not read it: {os.strerror(number)}")

    def _suspect(self, reader: Reader, root_fd: int, progress: Progress, item: Item) -> None:
        """Other bytes than the index says, under the stat that it says."""
        volume = self._volume
        again = reader.read([item.job(volume.chunk_bytes, afresh=True)])[0]
        if isinstance(again, int):
            if again != MOVED:
                self._unreadable(progress, item, again)
            return
        if again[0] == item.expected:
            self._told(progress, item.key, "slipped", SLIPPED)
            return
        if volume.history.index.row(item.key) != item.row:
            return  # read anew meanwhile
        if volume.is_stormy:
            raise Interrupted  # who stored that through a map may have closed it, and nobody has heard of it
        by = self._mapped_by(root_fd, item.key)
        cause = "scrub" if by is None else "scan"
        try:
            report = volume.call_soon(volume.recheck, item.key, cause).result()
        except RuntimeError:  # closed: the agent ends
            raise Interrupted from None
        if report.problem is not None:
            raise StateUnavailable(report.problem)
        if report.changed and by is None:
            self.totals.found += 1
            progress.found += 1
            self._told(progress, item.key, "decayed", DECAYED)

    def _mapped_by(self, root_fd: int, key: bytes) -> int | None:
        try:
            fd = open_beneath(root_fd, path_of(key), os.O_PATH)
        except OSError:
            return None
        try:
            return mapped_by(os.fstat(fd))
        finally:
            os.close(fd)
