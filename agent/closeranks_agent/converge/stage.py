"""Files in the making: `stage/<name>`, on the volume's filesystem, until they are complete and synced.

A name depends on the path and its target content alone, so a run that was cut off goes on where it was: what
already lies in the stage is read again and compared with the chunk digests, and only what is missing is
copied or fetched. (Rejected: a durable map of finished chunks. Reading is cheaper than syncing it, and
bytes on disk are better evidence.) Nothing is written that does not have its digest; `sink` says how. All
functions here run in threads; `stopped` ends long ones.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from closeranks_proto.digests import DigestAlgorithm

from .. import syscalls
from ..beneath import pread_full
from ..chunks.fetch import ChunkWant
from .dressing import Dressing
from .durable import sync_files, sync_names
from .local import Local
from .plan import FileNeed, Step, entry_of
from .readback import Readback, Readbacks
from .room import FILE_OVERHEAD_BYTES, Room
from .sink import Sink, write_full
from .workroom import Workroom

MAKE_OPEN_MAX = 128  # files kept open until they are synced; of more, the whole filesystem is synced
RESERVE_MIN_BYTES = 256 * 1024  # shorter files are promised room for, not reserved one by one
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Stopped(Exception):
    """The run was cancelled."""


def stage_name(key: bytes, content: bytes) -> bytes:
    """The name under which `content` (a digest, a link target, b"" for a directory) is staged for `key`."""
    return hashlib.blake2b(content + b"\0" + key, digest_size=16).hexdigest().encode()


def stage_name_of(step: Step, width: int) -> bytes:
    """The name under which what a step makes appear is staged; b"" where it makes nothing appear."""
    if step.target is None:
        return b""
    return stage_name(step.key, step.need.digest if step.need else entry_of(step.target, width).target)


@dataclass(slots=True)
class Staged:
    """A file in the making. `missing` are the chunks that must come from peers.

    `dressed`: it has its content and, unless there is a `failure`, its attributes.
    """

    step: Step
    need: FileNeed
    name: bytes
    missing: list[int]
    promised: int = 0
    dressed: bool = False
    failure: OSError | None = None
    readback: Readback | None = None
    wants: list[ChunkWant] = field(default_factory=list)


class Stage:
    """Staging of one converge. `moved` says under which trash item a key's bytes lie now."""

    def __init__(
        self,
        workroom: Workroom,
        algorithm: DigestAlgorithm,
        special_bits: bool,
        moved: Callable[[bytes], bytes | None],
        stopped: Callable[[], bool],
        readbacks: Readbacks | None = None,
    ) -> None:
        """`readbacks`, if given, read long files back from the disk while they come."""
        self._readbacks = readbacks
        self._workroom = workroom
        self._algorithm = algorithm
        self._special_bits = special_bits
        self._stopped = stopped
        self._names = {os.fsencode(name) for name in os.listdir(workroom.stage_fd)}
        self._sink = Sink()
        self._local = Local(workroom, algorithm, moved)
        self.room = Room(workroom.stage_fd)

    # --- beginning -------------------------------------------------------------------------------

    def begin(self, step: Step) -> Staged:
        """Reserve room, take what is at hand, and say what is missing. Raises NoRoom, OSError, Stopped."""
        need = step.need
        assert need is not None
        name = stage_name(step.key, need.digest)
        fd = self._open_old(name, need.size) if name in self._names else None
        if fd is not None:
            try:
                present = {index for index in self._indices(need) if self._is_there(fd, need, index)}
                return self._fill(step, need, name, fd, present)
            finally:
                os.close(fd)
        promised = need.stage_bytes + FILE_OVERHEAD_BYTES
        self.room.promise(promised)
        try:
            staged, reserved = self._begin_new(step, need, name)
        except BaseException:
            self.room.release(promised)
            raise
        if reserved:
            self.room.release(promised)
        else:
            staged.promised = promised
        return staged

    def _begin_new(self, step: Step, need: FileNeed, name: bytes) -> tuple[Staged, bool]:
        """(the staged file, whether its room is reserved on disk)."""
        if need.chunks is None and need.fetch:  # a small file is made when its bytes come
            return self._missing(step, need, name, [0]), False
        self._names.add(name)
        fd = os.open(name, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._workroom.stage_fd)
        try:
            os.ftruncate(fd, need.size)
            present = {index for index in self._local.share(fd, need) if self._is_there(fd, need, index)}
            with self._workroom.taken.counting(fd):  # what is shared with another file takes no room
                reserved = need.size >= RESERVE_MIN_BYTES and self._reserve(fd, need, present)
                staged = self._fill(step, need, name, fd, present)
            if self._readbacks is not None:
                staged.readback = self._readbacks.begin(need, name, self._workroom.stage_fd)
            return staged, reserved
        except OSError:
            os.unlink(name, dir_fd=self._workroom.stage_fd)  # a full disk: give back what it took
            raise
        finally:
            os.close(fd)

    def _open_old(self, name: bytes, size: int) -> int | None:
        """What an earlier run left under this name, if it is of use."""
        try:
            fd = self._open(name)
        except FileNotFoundError:  # installed, and planned again since
            self._names.discard(name)
            return None
        try:
            of_use = os.fstat(fd).st_size == size
            if of_use:
                # Pages that a disk refused are clean now, and lost with the cache: ask the disk itself.
                syscalls.write_out(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError:
            os.close(fd)
            raise
        if of_use:
            return fd
        os.close(fd)
        os.unlink(name, dir_fd=self._workroom.stage_fd)
        self._names.discard(name)
        return None

    def _open(self, name: bytes) -> int:
        """Open a staged file; one that has its final, perhaps read-only, mode already gets ours back."""
        try:
            return os.open(name, _FLAGS, dir_fd=self._workroom.stage_fd)
        except PermissionError:
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._workroom.stage_fd)
            try:
                os.chmod(b"/proc/self/fd/%d" % fd, 0o600)
            finally:
                os.close(fd)
            return os.open(name, _FLAGS, dir_fd=self._workroom.stage_fd)

    def _open_to_write(self, name: bytes) -> int:
        if name in self._names:
            return self._open(name)
        self._names.add(name)
        return os.open(name, _FLAGS | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=self._workroom.stage_fd)

    def _indices(self, need: FileNeed) -> Iterator[int]:
        yield from need.fetch
        for copy in need.copies:
            yield from range(copy.first, copy.first + copy.count)

    def _is_there(self, fd: int, need: FileNeed, index: int) -> bool:
        self._check_stopped()
        offset, length = need.span(index)
        return self._algorithm.of(pread_full(fd, offset, length)) == need.chunk_digest(index)

    def _reserve(self, fd: int, need: FileNeed, present: Collection[int]) -> bool:
        """Allocate everything but holes and what is there, in runs. False where the filesystem can not reserve."""
        start = end = 0
        for index in sorted(set(self._indices(need)) - set(present)):
            offset, length = need.span(index)
            if offset != end:
                if end > start and not syscalls.allocate(fd, start, end - start, keep_size=True):
                    return False
                start = offset
            end = offset + length
        return end == start or syscalls.allocate(fd, start, end - start, keep_size=True)

    def _fill(self, step: Step, need: FileNeed, name: bytes, fd: int, present: Collection[int]) -> Staged:
        """Copy what is at hand into the staged file; what can not be copied is missing."""
        missing = [index for index in need.fetch if index not in present]
        for copy in need.copies:
            for at in range(copy.count):
                index = copy.first + at
                if index in present:
                    continue
                self._check_stopped()
                data = self._local.read(copy.place, need, index, copy.there + at)
                if data is None:
                    missing.append(index)
                else:
                    self._put(fd, need, data, index)
        return self._missing(step, need, name, sorted(missing))

    def _put(self, fd: int, need: FileNeed, data: bytes, index: int) -> None:
        offset = need.span(index)[0]
        if need.chunks is None:
            write_full(fd, data, offset)
        else:
            self._sink.write(fd, data, offset)

    @staticmethod
    def _missing(step: Step, need: FileNeed, name: bytes, missing: list[int]) -> Staged:
        staged = Staged(step, need, name, missing)
        staged.wants = [
            ChunkWant(step.key, index, need.chunk_digest(index), need.span(index)[1])
            for index in staged.missing
        ]
        return staged

    # --- going on --------------------------------------------------------------------------------

    def write(self, parts: Sequence[tuple[Staged, ChunkWant, bytes | memoryview]]) -> list[ChunkWant]:
        """Verify chunks that came and write them; those with wrong bytes are given back.

        A file of one chunk gets its attributes as well while it is open.
        """
        bad: list[ChunkWant] = []
        dressing = self._dressing()
        run: list[tuple[Staged, ChunkWant, bytes | memoryview]] = []
        for part in parts:
            staged, want, data = part
            if self._algorithm.of(data) != want.digest:
                bad.append(want)
            elif staged.need.chunks is None:
                self._write_small(staged, data, dressing)
            else:
                if run and (run[-1][0] is not staged or run[-1][1].index + 1 != want.index):
                    self._write_run(run)
                    run = []
                run.append(part)
        self._write_run(run)
        return bad

    def _write_small(self, staged: Staged, data: bytes | memoryview, dressing: Dressing) -> None:
        fd = self._open_to_write(staged.name)
        try:
            with self._workroom.taken.counting(fd):
                write_full(fd, data, 0)
            self._try_dress(fd, staged, dressing)
        finally:
            os.close(fd)

    def _write_run(self, run: Sequence[tuple[Staged, ChunkWant, bytes | memoryview]]) -> None:
        """Chunks that lie side by side in one long file."""
        if not run:
            return
        staged, first, _ = run[0]
        fd = self._open_to_write(staged.name)
        try:
            with self._workroom.taken.counting(fd):
                offset = staged.need.span(first.index)[0]
                directly = self._sink.write_run(fd, [data for _, _, data in run], offset)
        finally:
            os.close(fd)
        if staged.readback is not None:
            staged.readback.wrote([want.index for _, want, _ in run], directly)

    def _try_dress(self, fd: int, staged: Staged, dressing: Dressing) -> None:
        staged.dressed = True
        try:
            dressing.dress(fd, staged.step)
        except OSError as error:
            staged.failure = error

    def _dressing(self) -> Dressing:
        return Dressing(self._workroom.root_fd, self._algorithm.width, self._special_bits)

    def make(self, batch: Sequence[tuple[Staged, bytes]]) -> list[tuple[Staged, OSError]]:
        """Make files of one chunk whose bytes are here and verified, as `write` and `finish` would, in one go.

        Those that could not be made are given back. Raises OSError where the disk could not take them.
        """
        made: list[int] = []
        failed: list[tuple[Staged, OSError]] = []
        dressing = self._dressing()
        few = len(batch) <= MAKE_OPEN_MAX
        try:
            for staged, data in batch:
                try:
                    fd = self._open_to_write(staged.name)
                    made.append(fd)
                    with self._workroom.taken.counting(fd):
                        write_full(fd, data, 0)
                    dressing.dress(fd, staged.step)
                    self._names.discard(staged.name)  # about to leave; `relist` finds it if it does not
                except OSError as error:
                    if error.errno in (errno.ENOSPC, errno.EDQUOT):
                        raise
                    failed.append((staged, error))
                while made and not few:
                    os.close(made.pop())
            if few:
                sync_files(made, self._workroom.stage_fd)
            else:
                sync_names([staged.name for staged, _ in batch], self._workroom.stage_fd)
        finally:
            for fd in made:
                os.close(fd)
            for staged, _ in batch:
                self.forget(staged)
        return failed

    def relist(self) -> int:
        """Look again at what lies here; how many names."""
        self._names = {os.fsencode(name) for name in os.listdir(self._workroom.stage_fd)}
        return len(self._names)

    def finish(self, batch: Sequence[Staged]) -> list[tuple[Staged, OSError]]:
        """Attributes, then everything to disk; those whose attributes could not be set are given back.

        Raises OSError where the disk could not take them.
        """
        dressing = self._dressing()
        try:
            for staged in batch:
                self._check_stopped()
                if not staged.dressed:
                    self._open_and_dress(staged, dressing)
            self._check_stopped()
            sync_names([staged.name for staged in batch if staged.failure is None], self._workroom.stage_fd)
            for staged in batch:
                if staged.readback is not None and staged.failure is None:
                    staged.readback.seal()
        finally:
            for staged in batch:
                self.forget(staged)
        return [(staged, staged.failure) for staged in batch if staged.failure is not None]

    def _open_and_dress(self, staged: Staged, dressing: Dressing) -> None:
        try:
            fd = self._open(staged.name)
        except OSError as error:
            staged.failure = error
            return
        try:
            self._try_dress(fd, staged, dressing)
        finally:
            os.close(fd)

    def forget(self, staged: Staged) -> None:
        """Its promise of room is used, or given up."""
        self.room.release(staged.promised)
        staged.promised = 0

    def _check_stopped(self) -> None:
        if self._stopped():
            raise Stopped


def clear_stage(stage_fd: int, keep: Collection[bytes] = ()) -> None:
    """Drop what earlier runs staged, except `keep`. A directory that is not empty is nobody's to drop."""
    for text in os.listdir(stage_fd):
        name = os.fsencode(text)
        if name in keep:
            continue
        try:
            os.unlink(name, dir_fd=stage_fd)
        except (IsADirectoryError, PermissionError):
            try:
                os.rmdir(name, dir_fd=stage_fd)
            except OSError:
                continue
