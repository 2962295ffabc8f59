"""Edits that only give other values to keys that are there: the tree keeps its shape.

Nearly every change is one. Where pages end depends on their keys, and on values only through a page's weight;
so unless a page is near its cap, every page keeps its keys, and of each level nothing changes but the pages on
the way to what was edited. They are found by one descent, planned as a whole, and made from what is known of
the old ones: packed keys, columns of refs, totals by difference. What does not fit is left to `edits`, which
knows how pages run on.

Rejected: splicing the bytes of the old page. It needs them read beside the decoded page, and encoding from
packed parts costs hardly more than copying.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .entries import entry_size, is_file
from .errors import CodecError
from .limits import PAGE_MAX_BYTES, PAGE_MAX_ITEMS
from .pages import TOTAL_MAX, Columns, Page, Ref, columns_of, packed_keys, read_child

Edits = Sequence[tuple[bytes, bytes | None]]


class Put(Protocol):
    """Encodes and keeps a page of the new tree; its digest."""

    def __call__(self, page: Page) -> bytes: ...


@dataclass(slots=True)
class Plan:
    """What becomes of one old page: new values (leaf), or plans of pages below (inner), by position.

    `files` and `bytes` are what the totals grow by. Neither values nor plans: nothing changes.
    """

    page: Page
    values: list[bytes] = field(default_factory=list)
    below: list[tuple[int, Plan]] = field(default_factory=list)
    files: int = 0
    bytes: int = 0

    @property
    def changes(self) -> bool:
        return bool(self.values or self.below)


def plan(read: Callable[[bytes], Page], page: Page, edits: Edits) -> Plan | None:
    """How `edits`, ascending and all below this page, are made; None where its shape may change."""
    if not page.level:
        return _plan_leaf(page, edits)
    found = Plan(page)
    keys = page.keys
    at = index = 0
    while at < len(edits):
        index = bisect_left(keys, edits[at][0], index)
        if index == len(keys):
            return None
        stop = bisect_right(edits, keys[index], at, key=_key_of) if at + 1 < len(edits) else at + 1
        below = plan(read, read_child(read, page, index), edits[at:stop])
        if below is None:
            return None
        if below.changes:
            found.below.append((index, below))
            found.files += below.files
            found.bytes += below.bytes
        at = stop
    return found


def _plan_leaf(page: Page, edits: Edits) -> Plan | None:
    found = Plan(page)
    keys, values = page.keys, list(page.values)
    changed = resized = False
    at = 0
    for key, value in edits:
        at = bisect_left(keys, key, at)
        if value is None or at == len(keys) or keys[at] != key:
            return None
        old = values[at]
        if old != value:
            changed = True
            resized = resized or len(old) != len(value)
            values[at] = value
            found.files += is_file(value) - is_file(old)
            found.bytes += entry_size(value) - entry_size(old)
    if resized and not (_is_light(page.keys, page.values) and _is_light(page.keys, values)):
        return None
    if changed:
        found.values = values
    return found


def _is_light(keys: Sequence[bytes], values: Sequence[bytes]) -> bool:
    """Whether no cap has a say in where this page ends."""
    return len(keys) < PAGE_MAX_ITEMS and sum(map(len, keys)) + sum(map(len, values)) < PAGE_MAX_BYTES


def make(put: Put, planned: Plan) -> bytes:
    """Make every page of a plan that changes something, children first; the digest of the first."""
    page = planned.page
    if not page.level:
        return put(Page(0, page.keys, planned.values, packed_keys(page)))
    refs: list[bytes | Ref] = list(page.refs)
    columns = columns_of(page)
    digests, files, sizes = bytearray(columns.digests), list(columns.files), list(columns.sizes)
    for index, below in planned.below:
        old = page.refs[index]
        digest, width = make(put, below), len(old.digest)
        files[index], sizes[index] = old.files + below.files, old.bytes + below.bytes
        if sizes[index] > TOTAL_MAX:
            raise CodecError(f"a tree of {sizes[index]} bytes is more than can exist")
        digests[index * width : (index + 1) * width] = digest
        refs[index] = Ref(digest, old.entries, files[index], sizes[index])
    fresh = Columns(bytes(digests), columns.entries, files, sizes)
    return put(Page(page.level, page.keys, refs, packed_keys(page), fresh))


def _key_of(edit: tuple[bytes, bytes | None]) -> bytes:
    return edit[0]
