"""All of a directory, or some of its names, as rows of the index: listed, read and hashed in one go.

Only what is plain becomes a row: a file whose stat is the same before and after it was read, a directory of this
filesystem, a symlink. Everything else (busy, unreadable, special, too long) makes the directory LEFT, and
whoever asked looks at it in the ordinary way. So what is promised of scans is promised there, once.

Small files cost what the kernel takes to open, stat, read and close them, and little more: no object is made for
a file but its row. What is not in the page cache is found out by the first read that would have to wait; then
64 files at a time are opened, all of them asked for, and only then read, in the order of their inodes.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from closeranks_proto.content import ChunkList, encode_chunk_list, max_file_bytes
from closeranks_proto.digests import algorithm_named
from closeranks_proto.entries import MODE_BITS, Entry, Kind, encode_entry, file_head
from closeranks_proto.limits import MAX_NAME_BYTES, MAX_PATH_BYTES, MAX_TARGET_BYTES, MIB
from closeranks_proto.paths import path_of

from ..beneath import open_beneath
from ..disk.lately import WRITEBACK_NS
from ..disk.listing import KEEP_ENTRIES, Status, digest_of, file_state, look, state_of
from ..disk.packs import PACK_ROWS, VALUE_MAX_BYTES, pack_rows
from ..disk.signature import COARSE_TICK_NS, clock_ns, drift_ns, is_settled_before, pack_state
from ..syscalls import stamped_here
from .cache import is_absent, let_go
from .large import HOLES_REST_NS, RangeReader
from .wire import CLEAN, FRESH, LEFT, MANY, Part, ReadPack, Setup

if TYPE_CHECKING:
    from ..disk.ignore import IgnoreRules

DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
SMALL_BYTES: Final = 1 * MIB  # read at once
LARGE_BYTES: Final = 32 * MIB  # longer ones are shared among readers
COLD_FILES: Final = 64
WAITS_MAX: Final = 8  # files of a directory that had to be waited for: then it counts as cold
_ENCODING: Final = sys.getfilesystemencoding()
_FORMAT, _REGULAR, _DIRECTORY, _SYMLINK = 0o170000, 0o100000, 0o040000, 0o120000
_MTIME_MAX: Final = 2**63 - 1

# A file to be read: name, state (mode, size, mtime, ctime, inode, device), owner, group.
_File = tuple[bytes, tuple[int, int, int, int, int, int], int, int]


class DirectoryReader:
    """For one setup, below one root. Not thread-safe: one buffer."""

    def __init__(self, setup: Setup, root_fd: int) -> None:
        self.setup, self._root_fd = setup, root_fd
        self.algorithm = algorithm_named(setup.algorithm)
        self.ranges = RangeReader(self.algorithm, setup.chunk_bytes, setup.keep_cache)
        self._plain = not (setup.owner or setup.mtime)
        self._max_file_bytes = max_file_bytes(self.algorithm, setup.chunk_bytes)
        self._small_bytes = min(SMALL_BYTES, setup.chunk_bytes)
        self._buffer = memoryview(bytearray(self._small_bytes))
        self._euid = os.geteuid()
        self._owner_seen = self._euid  # of the last file
        self._nowait = os.RWF_NOWAIT
        self._one_look = stamped_here(root_fd)
        self._ignore = _rules(setup.ignore)

    def directory(self, key: bytes) -> Part:
        """Everything in it. Raises OSError where it can not be listed."""
        fd = open_beneath(self._root_fd, path_of(key), DIRECTORY_FLAGS)
        try:
            drift = drift_ns()  # before `at`: the clock may be set back at any moment
            at = clock_ns()
            skip = None if key else self.setup.skip
            if self._nowait and not self.setup.keep_cache:
                entries = _few(fd, skip)
                if entries is not None:
                    return _packed(self._together(key, fd, at, drift, entries))
            seen = look(fd, skip, False)
            if seen.stats is None:
                names = [os.fsencode(name) for name in os.listdir(fd) if name != skip]
                return Part(MANY, seen.digest, [], [], [], [], [], [], names, [], 0, 0, 0)
            pairs = ((os.fsencode(name), status) for name, status in seen.stats)
            return _packed(self._read(key, fd, at, pairs, _empty(CLEAN if seen.whole else LEFT, seen.digest)))
        finally:
            os.close(fd)

    def files(self, key: bytes, names: Sequence[bytes]) -> Part:
        """Some names of it. Raises OSError where it can not be opened."""
        fd = open_beneath(self._root_fd, path_of(key), DIRECTORY_FLAGS)
        try:
            at = clock_ns()
            pairs = ((name, _status(name, fd)) for name in names)
            return _packed(self._read(key, fd, at, pairs, _empty(CLEAN, b"")))
        finally:
            os.close(fd)

    def glance(self, key: bytes) -> bytes:
        """The digest of its names and stats, b"" where not all could be looked at."""
        fd = open_beneath(self._root_fd, path_of(key), DIRECTORY_FLAGS)
        try:
            seen = look(fd, None if key else self.setup.skip, False, keep=False)
        finally:
            os.close(fd)
        return seen.digest if seen.whole else b""

    # --- one directory -------------------------------------------------------------------------

    def _read(self, key: bytes, fd: int, at: int, pairs: Iterable[tuple[bytes, Status]], part: Part) -> Part:
        """Add these names to what was read of their directory."""
        prefix = key and key + b"\0"
        rows, ignore, state = part.rows, self._ignore, part.state
        room = min(MAX_NAME_BYTES, MAX_PATH_BYTES - len(prefix))
        ignored = 0
        small: list[_File] = []
        long: list[_File] = []
        for name, status in pairs:
            if isinstance(status, OSError) or len(name) > room:
                state = LEFT
                continue
            kind = status.st_mode & _FORMAT
            if ignore is not None and ignore.matches(prefix + name, kind == _DIRECTORY):
                ignored += 1
            elif kind == _REGULAR:
                if status.st_nlink > 1:
                    part.links.append((name, status.st_dev, status.st_ino, status.st_nlink))
                file = name, file_state(status), status.st_uid, status.st_gid
                if status.st_size <= self._small_bytes:
                    small.append(file)
                else:
                    long.append(file)
            elif kind == _DIRECTORY and status.st_dev == self.setup.device:
                part.directories.append(name)
                value = encode_entry(
                    Entry(Kind.DIRECTORY, mode=self._mode(status.st_mode), owner=self._owner(status))
                )
                rows.append((name, value, pack_state(0, 0, 0, status.st_ino, status.st_dev), 1, None))
            elif kind == _SYMLINK:
                state = max(state, self._symlink(fd, at, name, status, part))
            else:
                state = LEFT
        state = max(state, self._small(fd, at, small, part))
        size = sum(file[1][1] for file in small)
        for file in long:
            outcome, read = self._long(fd, at, file, part)
            state, size = max(state, outcome), size + read
        return part._replace(
            state=state, ignored=ignored, files=part.files + len(small) + len(long), size=part.size + size
        )

    def _mode(self, mode: int) -> int | None:
        return mode & MODE_BITS if self.setup.mode else None

    def _owner(self, status: os.stat_result) -> tuple[int, int] | None:
        return (status.st_uid, status.st_gid) if self.setup.owner else None

    def _symlink(self, fd: int, at: int, name: bytes, status: os.stat_result, part: Part) -> int:
        try:
            target = os.readlink(name, dir_fd=fd)
        except OSError:
            return LEFT
        if not 0 < len(target) <= MAX_TARGET_BYTES:
            return LEFT
        mtime_ns = _mtime(status.st_mtime_ns) if self.setup.mtime else None
        value = encode_entry(
            Entry(Kind.SYMLINK, len(target), target=target, owner=self._owner(status), mtime_ns=mtime_ns)
        )
        settled = is_settled_before(status.st_ctime_ns, at)
        _, size, mtime, ctime, inode, device = file_state(status)
        part.rows.append((name, value, pack_state(size, mtime, ctime, inode, device), int(settled), None))
        return CLEAN if settled else FRESH

    def _ends(self, file: _File) -> tuple[bytes, bytes]:
        """What stands before and behind the content digest in a file's value."""
        _, (mode, size, mtime_ns, *_), uid, gid = file
        if self._plain:
            return file_head(size, mode if self.setup.mode else None), b""
        value = encode_entry(
            Entry(
                Kind.FILE, size, b"", self._mode(mode), owner=(uid, gid) if self.setup.owner else None,
                mtime_ns=_mtime(mtime_ns) if self.setup.mtime else None,
            )
        )  # fmt: skip
        head = file_head(size, None)
        return value[: len(head)], value[len(head) :]

    def _flags(self, uid: int) -> int:
        """For a file of this owner: without a new access time where that is allowed."""
        return FILE_FLAGS | os.O_NOATIME if self._euid in (0, uid) else FILE_FLAGS

    def _open(self, name: bytes, fd: int, uid: int) -> int:
        try:
            return os.open(name, self._flags(uid), dir_fd=fd)
        except PermissionError:  # another user's namespace
            return os.open(name, FILE_FLAGS, dir_fd=fd)

    # --- small files ---------------------------------------------------------------------------

    def _together(
        self, key: bytes, fd: int, at: int, drift: int, entries: Sequence[os.DirEntry[str]]
    ) -> Part:
        """A directory whose files are looked at when they are open, and read where nothing has to be waited for.

        That saves a stat by name, which costs twice as much. Where this machine stamps the files, one look after the
        reading is enough for a file that has rested since before `at`: a write meanwhile would have given it a later
        ctime. All else is left to `_read`: `block` gathers what the directory's digest is of, `others` what is still
        to be done.
        """
        buffer, of, nowait, small_bytes = self._buffer, self.algorithm.of, self._nowait, self._small_bytes
        os_open, preadv, fstat, close = os.open, os.preadv, os.fstat, os.close
        euid, owner, flags = self._euid, self._owner_seen, self._flags(self._owner_seen)
        whole, rested, ahead = [buffer], at - COARSE_TICK_NS, self._one_look
        here = self.setup.device  # a file of another one is mounted alone: who stamps it is not known
        part = _empty(CLEAN, b"")
        block: list[tuple[object, ...]] = []
        others: list[tuple[bytes, Status]] = []
        done: list[tuple[_File, bytes]] = []
        outcome, waits = CLEAN, 0
        for entry, name in self._fitting(key, entries):
            if name is None or waits >= WAITS_MAX:
                outcome = max(outcome, _note(entry, block, others))
                continue
            try:
                one = os_open(name, flags, dir_fd=fd)
            except OSError:
                outcome = max(outcome, _note(entry, block, others))
                continue
            status = None
            try:
                count = preadv(one, whole, 0, nowait) if ahead else -1
                try:
                    status = fstat(one)
                except OSError:
                    outcome = LEFT
                    continue
                before = mode, size, _, ctime, _, device = file_state(status)
                block.append((entry.name, before))
                uid = status.st_uid
                if size > small_bytes or mode & _FORMAT != _REGULAR or (uid != owner and euid == uid):
                    others.append((name, status))
                    ahead = False  # the next one may be as long, and would be read for nothing
                elif count >= 0 and (count != size or ctime >= rested or device != here):
                    others.append((name, status))
                else:
                    view = buffer[:size]
                    if count < 0 and size and preadv(one, [view], 0, nowait) != size:
                        others.append((name, status))
                        continue
                    digest = of(view)
                    if count < 0 and file_state(fstat(one)) != before:
                        outcome = LEFT
                        continue
                    ahead = self._one_look
                    done.append(((name, before, uid, status.st_gid), digest))
                    if status.st_nlink > 1:
                        part.links.append((name, status.st_dev, status.st_ino, status.st_nlink))
                if uid != owner:
                    owner, flags = uid, self._flags(uid)
            except OSError as error:
                if status is None:
                    outcome = max(outcome, _note(entry, block, others))
                else:
                    others.append((name, status))
                if isinstance(error, BlockingIOError):
                    waits += 1
                elif error.errno == errno.EOPNOTSUPP:
                    self._nowait, waits = 0, WAITS_MAX
            finally:
                close(one)
        self._owner_seen = owner
        if drift_ns() < drift - COARSE_TICK_NS // 2:
            at = -_MTIME_MAX  # the clock was set back meanwhile: nothing has rested by it
        state, size = self._rows(at, done, part)
        part = part._replace(state=max(state, outcome), digest=digest_of(block), files=len(done), size=size)
        return self._read(key, fd, at, others, part)

    def _fitting(
        self, key: bytes, entries: Iterable[os.DirEntry[str]]
    ) -> Iterable[tuple[os.DirEntry[str], bytes | None]]:
        """Each with its name, None where it is no file, or none to be read."""
        prefix = key and key + b"\0"
        room = min(MAX_NAME_BYTES, MAX_PATH_BYTES - len(prefix))
        ignore = self._ignore
        for entry in entries:
            name = entry.name.encode(_ENCODING, "surrogateescape")
            if (
                len(name) > room
                or not entry.is_file(follow_symlinks=False)
                or (ignore is not None and ignore.matches(prefix + name, False))
            ):
                yield entry, None
            else:
                yield entry, name

    def _rows(self, at: int, done: Iterable[tuple[_File, bytes]], part: Part) -> tuple[int, int]:
        """Rows of files and their digests: (the outcome, bytes)."""
        plain, mode_tracked, rows = self._plain, self.setup.mode, part.rows
        rested = at - COARSE_TICK_NS  # what is older is settled
        written_back = at - WRITEBACK_NS
        state, total = CLEAN, 0
        for file, digest in done:
            name, (mode, size, mtime, ctime, inode, device), _, _ = file
            settled = ctime < rested or is_settled_before(ctime, at)
            if not settled:
                state = FRESH
            if plain:
                value = file_head(size, mode if mode_tracked else None) + digest
            else:
                head, tail = self._ends(file)
                value = head + digest + tail
            total += size
            if ctime > written_back:
                part.lately.append(name)
            rows.append((name, value, pack_state(size, mtime, ctime, inode, device), int(settled), None))
        return state, total

    def _small(self, fd: int, at: int, files: list[_File], part: Part) -> int:
        """Read files of at most a buffer, waiting for them: the outcome."""
        state = CLEAN
        files.sort(key=_by_inode)
        for start in range(0, len(files), COLD_FILES):
            state = max(state, self._cold(fd, at, files[start : start + COLD_FILES], part))
        return state

    def _cold(self, fd: int, at: int, files: Sequence[_File], part: Part) -> int:
        """Open some files, have the kernel fetch all of them, and read them."""
        state = CLEAN
        opened: list[tuple[int, bool, _File]] = []
        try:
            for file in files:
                try:
                    one = self._open(file[0], fd, file[2])
                except OSError:
                    state = LEFT
                    continue
                size = file[1][1]
                absent = self.setup.keep_cache and is_absent(one, 0, size)
                opened.append((one, absent, file))
                _fetch(one, size)
            for one, absent, file in opened:
                try:
                    state = max(state, self._one(one, at, file, part))
                except OSError:
                    state = LEFT
                if absent:
                    let_go(one, 0, file[1][1])
        finally:
            for one, _, _ in opened:
                os.close(one)
        return state

    def _one(self, one: int, at: int, file: _File, part: Part) -> int:
        """Read a small file that is open, waiting for it."""
        name, before, _, _ = file
        _, size, mtime, ctime, inode, device = before
        count = 0
        with self._buffer[:size] as view:
            while count < size:
                more = os.preadv(one, [view[count:]], count)
                if not more:
                    return LEFT
                count += more
            digest = self.algorithm.of(view)
        if file_state(os.fstat(one)) != before:
            return LEFT
        head, tail = self._ends(file)
        settled = is_settled_before(ctime, at)
        if at - ctime < WRITEBACK_NS:
            part.lately.append(name)
        signature = pack_state(size, mtime, ctime, inode, device)
        part.rows.append((name, head + digest + tail, signature, int(settled), None))
        return CLEAN if settled else FRESH

    # --- longer files --------------------------------------------------------------------------

    def _long(self, fd: int, at: int, file: _File, part: Part) -> tuple[int, int]:
        """Read a file of several buffers, or leave it to be shared: (the outcome, bytes read)."""
        name, before, uid, _ = file
        _, size, mtime, ctime, inode, device = before
        if size > self._max_file_bytes:
            return LEFT, 0
        signature = pack_state(size, mtime, ctime, inode, device)
        settled = is_settled_before(ctime, at)
        head, tail = self._ends(file)
        if at - ctime < WRITEBACK_NS:
            part.lately.append(name)
        if size > LARGE_BYTES:
            part.large.append((name, signature, size, int(settled), head, tail))
            return CLEAN if settled else FRESH, 0
        try:
            one = self._open(name, fd, uid)
        except OSError:
            return LEFT, 0
        try:
            digests = self.ranges.digests(one, 0, size, False, at - ctime > HOLES_REST_NS)
            if file_state(os.fstat(one)) != before:
                return LEFT, size
        except OSError:
            return LEFT, 0
        finally:
            os.close(one)
        if size <= self.setup.chunk_bytes:
            part.rows.append((name, head + digests + tail, signature, int(settled), None))
        else:
            content, chunks = content_of(self.setup, size, digests)
            part.lists.append((content, chunks))
            part.rows.append((name, head + content + tail, signature, int(settled), content))
        return CLEAN if settled else FRESH, size


def content_of(setup: Setup, size: int, digests: bytes) -> tuple[bytes, bytes]:
    """(content digest, chunk list) of a file of several chunks."""
    algorithm = algorithm_named(setup.algorithm)
    chunks = encode_chunk_list(ChunkList(size, setup.chunk_bytes, algorithm.width, digests))
    return algorithm.of(chunks), chunks


def _packed(part: Part) -> Part:
    """Its rows in packs, but for those that have a chunk list or are too long."""
    rows = sorted(part.rows)
    alone = [row for row in rows if row[4] is not None or len(row[1]) > VALUE_MAX_BYTES]
    if alone:
        rows = [row for row in rows if row[4] is None and len(row[1]) <= VALUE_MAX_BYTES]
    packs: list[ReadPack] = []
    for start in range(0, len(rows), PACK_ROWS):
        some = rows[start : start + PACK_ROWS]
        packs.append((some[-1][0], len(some), pack_rows(some)))
    return part._replace(rows=alone, packs=packs)


def _few(fd: int, skip: str | None) -> list[os.DirEntry[str]] | None:
    """What is in it but for that name; None where it is too much for one answer."""
    found: list[os.DirEntry[str]] = []
    with os.scandir(fd) as entries:
        for entry in entries:
            if entry.name != skip:
                found.append(entry)
                if len(found) > KEEP_ENTRIES:
                    return None
    return found


def _note(
    entry: os.DirEntry[str], block: list[tuple[object, ...]], others: list[tuple[bytes, Status]]
) -> int:
    """Look at something by its name: the outcome."""
    name = os.fsencode(entry.name)
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return LEFT  # gone since it was listed
    except OSError as error:
        others.append((name, error))
        return LEFT
    block.append((entry.name, state_of(status)))
    others.append((name, status))
    return CLEAN


def _empty(state: int, digest: bytes) -> Part:
    return Part(state, digest, [], [], [], [], [], [], [], [], 0, 0, 0)


def _by_inode(file: _File) -> int:
    return file[1][4]


def _rules(patterns: Sequence[str]) -> IgnoreRules | None:
    """Nothing is loaded where nothing is ignored."""
    if not patterns:
        return None
    from ..disk.ignore import IgnoreRules

    return IgnoreRules(patterns)


def _status(name: bytes, fd: int) -> Status:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except OSError as error:
        return error


def _fetch(fd: int, size: int) -> None:
    try:
        os.posix_fadvise(fd, 0, size, os.POSIX_FADV_WILLNEED)
    except OSError:
        return  # not a filesystem that takes advice


def _mtime(mtime_ns: int) -> int:
    """As far as an entry can tell it: from 1677 to 2262."""
    return max(-_MTIME_MAX - 1, min(_MTIME_MAX, mtime_ns))
