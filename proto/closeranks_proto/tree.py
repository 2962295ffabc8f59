"""The Merkle search tree: one digest for a whole volume, and every question asked of one or two digests.

`Tree` holds no tree. It knows an algorithm and a source of objects, and answers for any root whose pages
the source has; what it makes it returns, storing is the caller's. Equal sets of items have equal roots,
whatever the order of their making (`pages` has the rule, `edits` the making, `difference` the comparison).

A page from the source is trusted to have been checked when it came (`closure`), but its digest is
compared at every read: damaged storage raises DamagedObject and is never taken for content.

Threads: all methods may be called from any thread; they share only the cache, which has a lock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Literal

from .difference import Difference, differences
from .digests import DigestAlgorithm
from .edits import Press
from .entries import entry_size, is_file, large_files
from .errors import DamagedObject
from .pages import Page, Totals, decode_page, read_child

__all__ = ["Building", "Difference", "Edited", "ObjectSource", "Summary", "Totals", "Tree"]

ObjectSource = Callable[[bytes], bytes]  # digest -> encoded object; raises MissingObject


@dataclass(frozen=True, slots=True)
class Summary:
    """A tree in four figures: `files` counts the entries that are files, `bytes` adds up their sizes."""

    root: bytes
    entries: int
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Edited:
    """A tree that was made. `pages` are those that the source may lack, by digest."""

    root: bytes
    summary: Summary
    pages: dict[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Building:
    """`add` takes some more keys, strictly ascending and behind all earlier ones, and their values.

    It raises as `Tree.build` does. `finish` ends it.
    """

    add: Callable[[Sequence[bytes], Sequence[bytes]], None]
    finish: Callable[[], Edited]


class Tree:
    """Every operation on trees of one algorithm. `cache_pages` bounds the decoded pages kept, about 12 KB each."""

    def __init__(self, algorithm: DigestAlgorithm, source: ObjectSource, cache_pages: int = 512) -> None:
        self.algorithm = algorithm
        self.source = source
        self._cache: OrderedDict[bytes, Page] = OrderedDict()
        self._cache_pages = cache_pages
        self._lock = Lock()
        self.empty = self.build(())

    # --- making ----------------------------------------------------------------------------------

    def build(self, items: Iterable[tuple[bytes, bytes]]) -> Edited:
        """The tree of strictly ascending (key, value). Raises CodecError, PathError for what none may hold."""
        press = Press(self.algorithm, self._page)
        return self._edited(press.build(items), press)

    def begin(self) -> Building:
        """A tree whose items come bit by bit."""
        press = Press(self.algorithm, self._page)
        return Building(press.add, lambda: self._edited(press.finish(), press))

    def edit(self, root: bytes, edits: Sequence[tuple[bytes, bytes | None]]) -> Edited:
        """The tree after strictly ascending edits; None deletes, edits that change nothing are allowed.

        Keys and values are checked in full: the edits may come from a peer. Raises CodecError, PathError.
        """
        press = Press(self.algorithm, self._page, self._remember)
        return self._edited(press.edit(root, edits), press)

    def _edited(self, root: bytes, press: Press) -> Edited:
        return Edited(root, Summary(root, *press.page(root).totals()), press.pages)

    # --- asking ----------------------------------------------------------------------------------

    def summary(self, root: bytes) -> Summary:
        return Summary(root, *self._page(root).totals())

    def lookup(self, root: bytes, key: bytes) -> bytes | None:
        """The value of `key`, None if it is not there. Reads one page a level."""
        page = self._page(root)
        while True:
            index = bisect_left(page.keys, key)
            if index == len(page.keys):
                return None
            if not page.level:
                return page.values[index] if page.keys[index] == key else None
            page = read_child(self._page, page, index)

    def lookup_many(self, root: bytes, keys: Collection[bytes]) -> dict[bytes, bytes]:
        """The values of those of `keys` that are there; each page is read once."""
        found: dict[bytes, bytes] = {}
        self._find(self._page(root), sorted(set(keys)), found)
        return found

    def _find(self, page: Page, wanted: Sequence[bytes], found: dict[bytes, bytes]) -> None:
        at = 0
        while at < len(wanted):
            index = bisect_left(page.keys, wanted[at])
            if index == len(page.keys):
                return
            if not page.level:
                if page.keys[index] == wanted[at]:
                    found[wanted[at]] = page.values[index]
                at += 1
                continue
            stop = bisect_left(wanted, page.keys[index] + b"\0", at)
            self._find(read_child(self._page, page, index), wanted[at:stop], found)
            at = stop

    def walk(self, root: bytes, low: bytes = b"", high: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """The items with low <= key < high, in order."""
        stack = [self._page(root)]
        starts = [bisect_left(stack[0].keys, low)]
        while stack:
            page, start = stack[-1], starts[-1]
            if page.level and start < len(page.keys):
                starts[-1] += 1
                if high is None or not start or page.keys[start - 1] < high:
                    stack.append(read_child(self._page, page, start))
                    starts.append(bisect_left(stack[-1].keys, low))
                    continue
                return
            stack.pop()
            starts.pop()
            if not page.level:
                stop = len(page.keys) if high is None else bisect_left(page.keys, high)
                yield from zip(page.keys[start:stop], page.values[start:stop], strict=True)
                if stop < len(page.keys):
                    return

    def count_range(self, root: bytes, low: bytes = b"", high: bytes | None = None) -> Totals:
        """The totals of the items with low <= key < high. Reads at most two pages a level."""
        return self._count(self._page(root), low, high)

    def _count(self, page: Page, low: bytes, high: bytes | None) -> Totals:
        start = bisect_left(page.keys, low)
        stop = len(page.keys) if high is None else bisect_left(page.keys, high)
        if not page.level:
            return Page(0, page.keys[start:stop], page.values[start:stop]).totals()
        # The keys below ref i lie in (keys[i - 1], keys[i]]: only those at `start` and `stop` may be cut.
        parts = [Totals(*ref[1:]) for ref in page.refs[start + 1 : stop]]
        cut = [index for index in sorted({start, stop}) if index < len(page.keys)]
        parts += [self._count(read_child(self._page, page, index), low, high) for index in cut]
        return Totals(*(sum(column) for column in zip(*parts, strict=True))) if parts else Totals(0, 0, 0)

    def file_at(self, root: bytes, place: int, by: Literal["files", "bytes"]) -> tuple[bytes, bytes, int]:
        """(key, value, place within it) of the file that holds place `place` of all files, or of all their bytes.

        Reads one page a level. Raises IndexError where there is no such place.
        """
        page = self._page(root)
        while page.level:
            sizes = [ref.files if by == "files" else ref.bytes for ref in page.refs]
            index, place = _holding(sizes, place)
            page = read_child(self._page, page, index)
        files = [index for index, value in enumerate(page.values) if is_file(value)]
        sizes = [1 if by == "files" else entry_size(page.values[index]) for index in files]
        index, place = _holding(sizes, place)
        return page.keys[files[index]], page.values[files[index]], place

    def diff(
        self, ours: bytes, theirs: bytes, low: bytes = b"", high: bytes | None = None
    ) -> Iterator[Difference]:
        """Where the trees differ within low <= key < high, in order of keys. Never reads what they share."""
        if ours == theirs:
            return iter(())
        return differences(self._page, ours, theirs, low, high)

    def pages(self, root: bytes, skip: Callable[[bytes], bool]) -> Iterator[tuple[bytes, bytes]]:
        """(digest, bytes) of every page below and with `root`, children first; `skip(digest)` leaves a subtree out.

        A page counts as left out when `skip` says so at the moment when its parent is entered.
        """
        if not skip(root):
            yield from self._pages(root, skip)

    def _pages(self, digest: bytes, skip: Callable[[bytes], bool]) -> Iterator[tuple[bytes, bytes]]:
        blob = self._read(digest)
        page = decode_page(blob)
        if page.level > 1:
            for ref in page.refs:
                if not skip(ref.digest):
                    yield from self._pages(ref.digest, skip)
        elif page.level:
            for ref in page.refs:
                if not skip(ref.digest):
                    yield ref.digest, self._read(ref.digest)
        yield digest, blob

    def chunk_lists(self, page: bytes, chunk_bytes: int) -> list[bytes]:
        """The content digests of the files on this encoded page that are longer than a chunk, each once."""
        decoded = decode_page(page)
        if decoded.level:
            return []
        return list(dict(large_files(decoded.values, chunk_bytes, self.algorithm.width)))

    # --- reading ---------------------------------------------------------------------------------

    def _page(self, digest: bytes) -> Page:
        with self._lock:
            page = self._cache.get(digest)
            if page is not None:
                self._cache.move_to_end(digest)
                return page
        page = decode_page(self._read(digest))
        self._remember(digest, page)
        return page

    def _remember(self, digest: bytes, page: Page) -> None:
        with self._lock:
            self._cache[digest] = page
            self._cache.move_to_end(digest)
            if len(self._cache) > self._cache_pages:
                self._cache.popitem(last=False)

    def _read(self, digest: bytes) -> bytes:
        blob = self.source(digest)
        if self.algorithm.of(blob) != digest:
            raise DamagedObject(digest)
        return blob


def _holding(sizes: Sequence[int], place: int) -> tuple[int, int]:
    """Which of the parts of these sizes, laid end to end, holds `place`, and where in it. Raises IndexError."""
    for index, size in enumerate(sizes):
        if place < size:
            return index, place
        place -= size
    raise IndexError(place)
