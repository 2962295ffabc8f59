"""Making trees: from a stream of items, and from a tree and a set of edits.

Both end in the one tree of the resulting set. An edit works level by level: the pages that hold edited keys
are cut anew, and as long as what is cut last does not end where an old page ended, the old page behind
it, *also across parents*, is taken in. That is what happens when the key that ended a page goes: its
page runs on into the first page of the next parent. The refs that went and came are then the edits of
the level above, on the old tree's pages, up to the root.

Rejected: recursion from the root. A page that runs on leaves its parent's range when the parent's call has
returned already.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from . import replacing
from .digests import DigestAlgorithm
from .errors import CodecError
from .limits import TREE_MAX_LEVELS
from .pages import EMPTY, Page, Ref, check_items, decode_page, encode_page, page_ends, read_child

_BATCH = 8192  # items cut at once while building: about 128 pages, some megabytes
_FEW = 8  # edits of one page that are cheaper one by one

Item = bytes | Ref
Refs = list[tuple[bytes, Ref]]


class Press:
    """Makes the pages of one new tree; `pages` keeps their bytes by digest.

    `read` gives a decoded page of the old tree, `remember` is told of every new one.
    """

    def __init__(
        self,
        algorithm: DigestAlgorithm,
        read: Callable[[bytes], Page],
        remember: Callable[[bytes, Page], None] | None = None,
    ) -> None:
        self._algorithm = algorithm
        self._read = read
        self._remember = remember
        self.pages: dict[bytes, bytes] = {}
        self._newest: tuple[bytes, Page] | None = None  # the last page made: mostly the root
        # Of `add`: pages that ended, what came behind the last of them, and the last key.
        self._refs: Refs = []
        self._keys: list[bytes] = []
        self._values: list[Item] = []
        self._last = b""

    def page(self, digest: bytes) -> Page:
        """A page, new or old."""
        if self._newest is not None and self._newest[0] == digest:
            return self._newest[1]
        blob = self.pages.get(digest)
        return self._read(digest) if blob is None else decode_page(blob)

    def build(self, items: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The root over strictly ascending items. Raises CodecError, PathError for what may not stand in a tree."""
        rest = iter(items)
        while batch := list(islice(rest, _BATCH)):
            self.add([key for key, _ in batch], [value for _, value in batch])
        return self.finish()

    def add(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """The next items, greater than all before. Raises as `build` does."""
        if keys[0] <= self._last:
            raise CodecError("keys that do not ascend strictly")
        check_items(keys, values, self._algorithm.width)
        self._last = keys[-1]
        self._keys += keys
        self._values += values
        self._cut(0, self._keys, self._values, self._refs)

    def finish(self) -> bytes:
        """The root over everything that was added."""
        self._close(0, self._keys, self._values, self._refs)
        return self._root_above(0, self._refs)

    def edit(self, root: bytes, edits: Sequence[tuple[bytes, bytes | None]]) -> bytes:
        """The root after strictly ascending edits, None deleting. Raises as `build` does."""
        if not edits:
            return root
        check_items([key for key, _ in edits], [value for _, value in edits], self._algorithm.width)
        top = self._read(root)
        planned = replacing.plan(self._read, top, edits)
        if planned is not None:
            return replacing.make(self._put_page, planned) if planned.changes else root
        return self.reshape(top, root, edits)

    def reshape(self, top: Page, root: bytes, edits: Sequence[tuple[bytes, bytes | None]]) -> bytes:
        """The root after checked edits of any kind, level by level. `edit` is faster where the shape stays."""
        changes: Sequence[tuple[bytes, Item | None]] = edits
        for level in range(top.level):
            gone, come = self._edit_level(top, level, changes)
            changed: dict[bytes, Item | None] = dict.fromkeys(gone)
            for key, ref in come:
                if gone.get(key) == ref:
                    del changed[key]
                else:
                    changed[key] = ref
            if not changed:
                return root
            changes = sorted(changed.items())
        _, come = self._edit_level(top, top.level, changes)
        return self._collapsed(self._root_above(top.level, come))

    # --- one level -------------------------------------------------------------------------------

    def _edit_level(
        self, top: Page, level: int, edits: Sequence[tuple[bytes, Item | None]]
    ) -> tuple[dict[bytes, Ref], Refs]:
        """The refs to pages of `level` that go, by key, and those that come, in order; some may do both."""
        old = _OldLevel(self._read, top, level)
        gone: dict[bytes, Ref] = {}
        come: Refs = []
        at = 0
        while at < len(edits):
            page: Page | None = old.seek(edits[at][0])
            keys: list[bytes] = []
            items: list[Item] = []
            while page is not None:
                stop = len(edits) if old.at_end else bisect_right(edits, page.keys[-1], at, key=_key_of)
                new_keys, new_items = _merged(page, edits[at:stop])
                at = stop
                keys += new_keys
                items += new_items
                gone.update(old.ref())
                self._cut(level, keys, items, come)
                if not keys:
                    break
                page = old.next()
            self._close(level, keys, items, come)
        return gone, come

    def _cut(self, level: int, keys: list[bytes], items: list[Item], refs: Refs) -> None:
        """Move the pages that end within these items from the items to `refs`."""
        start = 0
        for end in page_ends(level, keys, items):
            refs.append(self._put(Page(level, keys[start:end], items[start:end])))
            start = end
        del keys[:start], items[:start]

    def _close(self, level: int, keys: list[bytes], items: list[Item], refs: Refs) -> None:
        """Make what is left, if any, the last page of the level."""
        if keys:
            refs.append(self._put(Page(level, keys, items)))

    def _put(self, page: Page) -> tuple[bytes, Ref]:
        digest = self._put_page(page)
        return page.keys[-1] if page.keys else b"", Ref(digest, *page.totals())

    def _put_page(self, page: Page) -> bytes:
        blob = encode_page(page)
        digest = self._algorithm.of(blob)
        self.pages[digest] = blob
        self._newest = digest, page
        if self._remember is not None:
            self._remember(digest, page)
        return digest

    # --- the root --------------------------------------------------------------------------------

    def _root_above(self, level: int, refs: Refs) -> bytes:
        """The root, given all pages of a level in order."""
        if not refs:
            return self._put(EMPTY)[1].digest
        while len(refs) > 1:
            level += 1
            if level > TREE_MAX_LEVELS:
                raise CodecError(f"a tree of more than {TREE_MAX_LEVELS} levels")
            keys = [key for key, _ in refs]
            items: list[Item] = [ref for _, ref in refs]
            refs = []
            self._cut(level, keys, items, refs)
            self._close(level, keys, items, refs)
        return refs[0][1].digest

    def _collapsed(self, root: bytes) -> bytes:
        """The lowest page below `root` that is alone on its level."""
        while True:
            page = self.page(root)
            if not page.level or len(page.keys) > 1:
                return root
            self.pages.pop(root, None)
            root = page.refs[0].digest


class _OldLevel:
    """The pages of one level of the old tree, by key and in order."""

    def __init__(self, read: Callable[[bytes], Page], top: Page, level: int) -> None:
        self._read = read
        self._top = top
        self._level = level
        self._path: list[tuple[Page, int]] = []  # from the root to the ref of the present page

    @property
    def at_end(self) -> bool:
        """Whether the present page is the last of its level."""
        return all(index == len(page.keys) - 1 for page, index in self._path)

    def ref(self) -> Refs:
        """The ref to the present page; none if it is the root."""
        if not self._path:
            return []
        page, index = self._path[-1]
        return [(page.keys[index], page.refs[index])]

    def seek(self, key: bytes) -> Page:
        """Go to the page where `key` stands or would stand."""
        self._path.clear()
        page = self._top
        while page.level > self._level:
            page = self._enter(page, min(bisect_left(page.keys, key), len(page.keys) - 1))
        return page

    def next(self) -> Page | None:
        """Go to the page behind the present one; None at the end."""
        while self._path:
            page, index = self._path.pop()
            if index + 1 < len(page.keys):
                page = self._enter(page, index + 1)
                while page.level > self._level:
                    page = self._enter(page, 0)
                return page
        return None

    def _enter(self, page: Page, index: int) -> Page:
        self._path.append((page, index))
        return read_child(self._read, page, index)


def _key_of(edit: tuple[bytes, Item | None]) -> bytes:
    return edit[0]


def _merged(page: Page, edits: Sequence[tuple[bytes, Item | None]]) -> tuple[Sequence[bytes], Sequence[Item]]:
    """The page's keys and items after the edits. A few are put in their places, many are merged and sorted."""
    if len(edits) > _FEW:
        merged = dict(zip(page.keys, page.items, strict=True))
        for key, item in edits:
            if item is None:
                merged.pop(key, None)
            else:
                merged[key] = item
        found = sorted(merged)
        return found, [merged[key] for key in found]
    keys, items = list(page.keys), list(page.items)
    for key, item in edits:
        at = bisect_left(keys, key)
        there = at < len(keys) and keys[at] == key
        if item is None:
            del keys[at : at + there], items[at : at + there]
        elif there:
            items[at] = item
        else:
            keys.insert(at, key)
            items.insert(at, item)
    return keys, items
