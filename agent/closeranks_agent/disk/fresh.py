"""Directories of which nothing is known yet, read by other processes beside a scan.

The scan hands over directories that have no rows; what is found below them is handed on here. Answers are
rows, recorded as they come. Only what is plain comes back as a row (see `hotpath.directory`); a directory with
anything else in it is *left* to the scan, which compares it in the ordinary way when nothing is under way, at the
end or when the tree would wait for it: what was recorded is not read again, and what is odd is judged by the one place
that judges.

Long files come back unread, and are read in ranges by all readers at once. Their stat is the same before and
after each range, and at the listing: so it was the same all the time.

A listing is recorded only when everything in its directory is: a scan that is interrupted looks there again.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import chain
from typing import Any, Final

from closeranks_proto.content import CHUNK_LIST_HEAD_BYTES, begun_chunk_list, chunk_count
from closeranks_proto.digests import DigestAlgorithm, algorithm_named
from closeranks_proto.limits import MAX_PATH_BYTES, MIB
from closeranks_proto.messages import VolumeSettings

from ..hotpath.readers import Question, Readers
from ..hotpath.wire import (
    CLEAN,
    DIRECTORIES,
    FILES,
    GLANCES,
    LEFT,
    MANY,
    QUESTION_MAX_BYTES,
    RANGES,
    Large,
    Part,
    Setup,
)
from .findings import Findings
from .lately import Lately
from .links import Links
from .private import PRIVATE_NAME
from .recorder import Recorder
from .rows import Listing

BATCH_FILES: Final = 512  # a question is to bring about so many files
BATCH_DIRECTORIES: Final = 64
EACH_FILES: Final = 64.0  # in a directory, before any was read: the first ones are shared among all readers
NAMES_MAX_BYTES: Final = 8 * 1024
RANGE_BYTES: Final = 128 * MIB  # where one ends, a cold disk idles a moment; the last ones end 7 ms apart
WAIT_S: Final = 0.2  # then whoever wants to stop the scan is heard
_END: Final = b"\xff" * (MAX_PATH_BYTES + 1)  # behind every key


@dataclass(slots=True)
class _Directory:
    """A directory that is not finished. `open` counts the answers that are to come."""

    key: bytes
    digest: bytes
    state: int
    ignored: int
    hard_links: int
    open: int = 0
    again: bool = False  # its listing must be seen to be the same at the end


@dataclass(slots=True)
class _Long:
    """A file that is read in ranges."""

    directory: _Directory
    file: Large
    chunks: bytearray  # its chunk list, filled in as digests come: of a very long file the one copy
    open: int
    broken: bool = False


@dataclass(slots=True)
class Fresh:
    """For one scan. `left` are directories that the scan must compare itself, when nothing is under way: a heap."""

    readers: Readers
    recorder: Recorder
    findings: Findings
    links: Links
    lately: Lately
    left: list[bytes] = field(default_factory=list)
    _todo: list[bytes] = field(default_factory=list)  # directories: a heap, read in the order of keys
    _open: set[bytes] = field(default_factory=set)  # directories that were asked for and are not finished
    _questions: deque[Question] = field(default_factory=deque)  # of files and ranges; these come first
    _each: float = EACH_FILES  # files that a directory has, lately

    # --- for the scan --------------------------------------------------------------------------

    def take(self, key: bytes) -> None:
        """Read this directory and everything below."""
        heappush(self._todo, key)

    def frontier(self, limit: bytes | None) -> bytes:
        """No path before this one will come from here any more. `limit`: nor from elsewhere before that one."""
        return min(
            self._open.union(self.left[:1], self._todo[:1], () if limit is None else (limit,)), default=_END
        )

    @property
    def _algorithm(self) -> DigestAlgorithm:
        return algorithm_named(self.readers.setup.algorithm)

    @property
    def busy(self) -> bool:
        return bool(self._todo or self._questions or self.readers.busy)

    @property
    def is_held_up(self) -> bool:
        """Whether what comes first of all that is not finished was left, and can be compared."""
        return (
            bool(self.left)
            and self.frontier(None) == self.left[0]
            and not self._reads_below(self.left[0], self._todo[:1])
        )

    @property
    def may_compare(self) -> bool:
        """Whether what was left first can be compared: all that was found below it has been read."""
        if not self.left:
            return False
        self._todo.sort()  # a heap as well
        at = bisect_left(self._todo, self.left[0])
        return not self._reads_below(self.left[0], self._todo[at : at + 1])

    def _reads_below(self, key: bytes, first: list[bytes]) -> bool:
        """Whether something below that directory is yet to be read: who compares it would have it read twice.

        `first`: of what is to be asked for the first that could be.
        """
        below = key and key + b"\0"
        return any(one.startswith(below) for one in chain(first, self._open))

    @property
    def is_full(self) -> bool:
        """Whether more directories would only wait."""
        return len(self._todo) >= BATCH_DIRECTORIES and not self.readers.has_room

    def pump(self) -> None:
        """Hand out what can be handed out, and record what has come, waiting a moment for it."""
        while self.readers.has_room and (self._questions or self._todo):
            if self._questions:
                question = self._questions.popleft()
                self.readers.ask(question.kind, question.items, question.tag)
            else:
                self.readers.ask(DIRECTORIES, self._batch())
        self._collect()

    def drain(self, stopped: Callable[[], bool]) -> bool:
        """Record what is under way, and hand out nothing: until the next `pump` nothing is. False: stopped."""
        while self.readers.busy:
            if stopped():
                return False  # a reader may be held up by a slow disk, or by a signal
            self._collect()
        return True

    def _collect(self) -> None:
        for question, parts in self.readers.answers(WAIT_S):
            self._answered(question, parts)

    def _batch(self) -> list[bytes]:
        """So many directories as will bring a worthwhile number of files, the first by their keys."""
        wanted = max(1, min(BATCH_DIRECTORIES, int(BATCH_FILES / self._each)))
        keys: list[bytes] = []
        size = 0
        while self._todo and len(keys) < wanted and size < QUESTION_MAX_BYTES // 2:
            keys.append(heappop(self._todo))
            size += len(keys[-1])
        self._open.update(keys)
        return keys

    # --- answers -------------------------------------------------------------------------------

    def _answered(self, question: Question, parts: Sequence[Any] | None) -> None:
        for number, item in enumerate(question.items):
            part = None if parts is None else parts[number]
            match question.kind:
                case _ if question.kind == DIRECTORIES:
                    self._directory(item, part)
                case _ if question.kind == FILES:
                    self._files(question.tag, part)
                case _ if question.kind == RANGES:
                    self._range(question.tag, item, part)
                case _:
                    assert question.kind == GLANCES
                    self._glance(question.tag, part)

    def _directory(self, key: bytes, answer: Any) -> None:
        if answer is None or isinstance(answer, int):
            self._leave(key)  # what is wrong with it shows again
            return
        part = Part(*answer)
        here = _Directory(key, part.digest, part.state, part.ignored, len(part.links))
        if part.state == MANY:
            self._many(here, part.names)
            return
        self._each = 0.9 * self._each + 0.1 * max(1, part.files)
        self._rows(here, part)
        self._close(here)

    def _many(self, here: _Directory, names: Sequence[bytes]) -> None:
        """A directory of too many names for one reader."""
        here.state, here.again = CLEAN, True
        batch: list[bytes] = []
        size = 0
        for name in sorted(names):  # the packs of a directory do not overlap
            batch.append(name)
            size += len(name)
            if len(batch) >= BATCH_FILES or size >= NAMES_MAX_BYTES:
                self._ask_files(here, batch)
                batch, size = [], 0
        if batch:
            self._ask_files(here, batch)
        self._close(here)

    def _ask_files(self, here: _Directory, names: list[bytes]) -> None:
        here.open += 1
        self._questions.append(Question(FILES, [(here.key, names)], here))

    def _files(self, here: _Directory, answer: Any) -> None:
        here.open -= 1
        if answer is None or isinstance(answer, int):
            here.state = LEFT
        else:
            part = Part(*answer)
            here.state = max(here.state, part.state)
            here.ignored += part.ignored
            here.hard_links += len(part.links)
            self._rows(here, part)
        self._close(here)

    def _rows(self, here: _Directory, part: Part) -> None:
        """Record what was read, and go on with what is below."""
        key = here.key
        prefix = key and key + b"\0"
        self.recorder.put_rows(key, part.rows, part.lists, part.packs)
        self.findings.hashed_files += part.files - len(part.large)  # those count when they have been read
        self.findings.hashed_bytes += part.size
        for name, device, inode, count in part.links:
            self.links.note(prefix + name, os.stat_result((0, inode, device, count, 0, 0, 0, 0, 0, 0)))
        for name in part.lately:
            self.lately.note(prefix + name)
        for file in part.large:
            self._long(here, Large(*file))
        if here.state != LEFT:  # else the scan goes on below it
            for name in part.directories:
                heappush(self._todo, prefix + name)

    def _close(self, here: _Directory) -> None:
        """Record the listing, or leave the directory to the scan, when all of it has come."""
        if here.open:
            return
        if here.state == LEFT:
            self._leave(here.key)
        elif here.state == CLEAN and here.again:
            here.open, here.again = 1, False
            self._questions.append(Question(GLANCES, [here.key], here))
            return
        elif here.state == CLEAN:
            self.recorder.listing(here.key, Listing(here.digest, here.ignored, here.hard_links))
        self._open.discard(here.key)
        if here.state != LEFT:  # else the scan counts them
            self.findings.directories_compared += 1
            self.findings.ignored += here.ignored
            self.findings.hard_links += here.hard_links

    def _leave(self, key: bytes) -> None:
        """To the scan."""
        heappush(self.left, key)
        self._open.discard(key)

    def _glance(self, here: _Directory, answer: Any) -> None:
        here.open -= 1
        if answer != here.digest:
            here.state = LEFT
        self._close(here)

    # --- long files ----------------------------------------------------------------------------

    def _long(self, here: _Directory, file: Large) -> None:
        """Share it among the readers."""
        key = (here.key and here.key + b"\0") + file.name
        chunks = chunk_count(file.size, self.readers.setup.chunk_bytes)
        step = max(1, RANGE_BYTES // self.readers.setup.chunk_bytes)
        starts = range(0, chunks, step)
        blank = begun_chunk_list(file.size, self.readers.setup.chunk_bytes, self._algorithm.width)
        long = _Long(here, file, blank, len(starts))
        here.open += 1
        for first in starts:
            item = key, file.signature, file.size, first, min(step, chunks - first), True
            self._questions.append(Question(RANGES, [item], long))

    def _range(self, long: _Long, item: tuple[Any, ...], answer: Any) -> None:
        first, count = item[3:5]
        long.open -= 1
        if isinstance(answer, bytes) and len(answer) == count * self._algorithm.width:
            at = CHUNK_LIST_HEAD_BYTES + first * self._algorithm.width
            long.chunks[at : at + len(answer)] = answer
            before = first * self.readers.setup.chunk_bytes
            self.findings.hashed_bytes += min(count * self.readers.setup.chunk_bytes, long.file.size - before)
        else:
            long.broken = True
        if long.open:
            return
        here, file = long.directory, long.file
        here.open -= 1
        if long.broken:
            here.state = LEFT
        else:
            self.findings.hashed_files += 1
            content = self._algorithm.of(long.chunks)
            value = file.head + content + file.tail
            row = file.name, value, file.signature, file.settled, content
            self.recorder.put_rows(here.key, [row], [(content, long.chunks)])
        self._close(here)


def reading_setup(
    settings: VolumeSettings, algorithm: DigestAlgorithm, device: int, scrub: bool = False
) -> Setup:
    """How reading processes go by a volume's settings. A scrub leaves the page cache as it was, and yields."""
    track = settings.track
    return Setup(
        algorithm.name, settings.chunk_bytes, "mode" in track, "owner" in track, "mtime" in track,
        tuple(settings.ignore), os.fsdecode(PRIVATE_NAME), device, keep_cache=scrub, idle=scrub,
    )  # fmt: skip
