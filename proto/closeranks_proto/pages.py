"""Pages: the tree's nodes, their canonical bytes, and the rule that says where one ends.

A page of level 0, a *leaf*, holds sorted (key, value) items. A page of a higher level holds a `Ref` for
each page below, under that page's last key. On every level a page ends behind a key whose hash has
6 x (level + 1) low zero bits, or, counted from the page's own start, behind the item that reaches
PAGE_MAX_ITEMS or PAGE_MAX_BYTES; only the last page of a level may end otherwise. So the shape is a
function of the set. The hash that decides is xxh3-64 of the key, whatever the fleet's digest.

Bytes of a page, msgpack: `[version, level, prefix, keys, values]` for a leaf,
`[version, level, prefix, keys, digests, entries, files, bytes]` above it. `prefix` is what all keys of the
page begin with; `keys` are their rests, joined by slashes, which no key contains; `digests` is one blob,
the other columns are arrays. Columns and joins are taken apart in C. Rejected: arrays of items (twice the
time), a table of lengths instead of separators (the same in the end, and slower in Python).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from operator import add, lt
from typing import NamedTuple, cast

import msgspec
import xxhash

from .digests import DigestAlgorithm
from .entries import check_values, file_sizes
from .errors import CodecError
from .limits import (
    MAX_NAME_BYTES,
    MAX_PATH_BYTES,
    PAGE_BITS,
    PAGE_ENCODED_MAX_BYTES,
    PAGE_MAX_BYTES,
    PAGE_MAX_ITEMS,
    TREE_MAX_LEVELS,
)
from .paths import check_key

_VERSION = 1
_LEAF_MARK, _INNER_MARK = 0x95, 0x98  # msgpack arrays of 5 and of 8
_ENCODE = msgspec.msgpack.Encoder().encode
_DECODE_LEAF = msgspec.msgpack.Decoder(tuple[int, int, bytes, bytes, list[bytes]]).decode
_DECODE_INNER = msgspec.msgpack.Decoder(
    tuple[int, int, bytes, bytes, bytes, list[int], list[int], list[int]]
).decode
_HASH: Callable[[bytes], int] = xxhash.xxh3_64_intdigest
_HASH_LEVELS = 64 // PAGE_BITS  # above, a 64-bit hash has no bits left: only the caps end a page
_REF_WEIGHT = 64  # a ref beside its key: digest and three counts, at most 32 + 27 bytes
TOTAL_MAX = 2**63 - 1  # of a tree's bytes: what databases and other languages can hold


class Ref(NamedTuple):
    """What an inner page says about a page below: its digest and the totals of everything beneath."""

    digest: bytes
    entries: int
    files: int
    bytes: int


_NEW_REF: Callable[[Iterable[object]], Ref] = partial(tuple.__new__, Ref)  # a third of the time of Ref(...)


class Totals(NamedTuple):
    """Entries of any kind, those that are files, and the files' sizes in bytes."""

    entries: int
    files: int
    bytes: int


class Columns(NamedTuple):
    """The refs of an inner page as its bytes have them: digests joined, three columns of counts."""

    digests: bytes
    entries: Sequence[int]
    files: Sequence[int]
    sizes: Sequence[int]


@dataclass(frozen=True, slots=True)
class Page:
    """A decoded page: strictly ascending keys and, beside them, values (leaf) or refs (inner).

    `packed` (the keys) and `columns` (the refs) are parts of its bytes, kept where they are known at no cost:
    a page with the same keys and one other item is encoded in a quarter of the time with them.
    """

    level: int
    keys: Sequence[bytes]
    items: Sequence[bytes | Ref]
    packed: tuple[bytes, bytes] | None = field(default=None, compare=False, repr=False)
    columns: Columns | None = field(default=None, compare=False, repr=False)

    @property
    def values(self) -> Sequence[bytes]:
        assert not self.level
        return cast("Sequence[bytes]", self.items)

    @property
    def refs(self) -> Sequence[Ref]:
        assert self.level
        return cast("Sequence[Ref]", self.items)

    def totals(self) -> Totals:
        """Raises CodecError where there is more than TOTAL_MAX."""
        if self.level:
            _, entries, files, total_bytes = zip(*self.refs, strict=True)
            found = Totals(sum(entries), sum(files), sum(total_bytes))
        else:
            sizes = file_sizes(self.values)
            found = Totals(len(self.items), len(sizes), sum(sizes))
        if found.bytes > TOTAL_MAX or found.entries > TOTAL_MAX:
            raise CodecError(
                f"a tree of {found.bytes} bytes in {found.entries} entries is more than can exist"
            )
        return found


EMPTY = Page(0, (), ())


def read_child(read: Callable[[bytes], Page], page: Page, index: int) -> Page:
    """The page that ref `index` of `page` refers to. Raises CodecError if it is not of the level below."""
    child = read(page.refs[index].digest)
    if child.level != page.level - 1 or not child.keys:
        raise CodecError(f"page {page.refs[index].digest.hex()} stands at the wrong level")
    return child


# --- where pages end -----------------------------------------------------------------------------


def page_ends(level: int, keys: Sequence[bytes], items: Sequence[bytes | Ref]) -> list[int]:
    """Where the pages end when one begins at item 0: ascending positions, each behind a page's last item.

    What follows the last position is the beginning of a page that has not ended.
    """
    natural: list[int] = []
    if level < _HASH_LEVELS:
        mask = (1 << PAGE_BITS * (level + 1)) - 1
        natural = [index for index, found in enumerate(map(_HASH, keys), 1) if not found & mask]
    if len(keys) < PAGE_MAX_ITEMS:
        weight = sum(map(len, keys)) + (_REF_WEIGHT * len(keys) if level else sum(map(len, items)))
        if weight < PAGE_MAX_BYTES:
            return natural
    return _capped_ends(level, keys, items, natural)


def _capped_ends(
    level: int, keys: Sequence[bytes], items: Sequence[bytes | Ref], natural: list[int]
) -> list[int]:
    """The `natural` ends and, between them, those that the caps make."""
    sizes = (len(key) + _REF_WEIGHT for key in keys) if level else map(add, map(len, keys), map(len, items))
    weights = list(accumulate(sizes, initial=0))
    found: list[int] = []
    start = 0

    def full(end: int) -> bool:
        return end - start >= PAGE_MAX_ITEMS or weights[end] - weights[start] >= PAGE_MAX_BYTES

    for end in [*natural, len(keys)]:
        if full(end):
            for index in range(start + 1, end + 1):
                if full(index):
                    found.append(index)
                    start = index
        if start < end < len(keys) or (start < end and natural and natural[-1] == end):
            found.append(end)
            start = end
    return found


# --- bytes ---------------------------------------------------------------------------------------


def encode_page(page: Page) -> bytes:
    """The canonical bytes. The page is assumed well formed: ascending keys without slashes.

    A copy: what the encoder gives lies in a block that is a quarter larger, and pages are kept by the thousand.
    """
    if not page.level:
        found = _ENCODE((_VERSION, 0, *packed_keys(page), page.items))
    else:
        found = _ENCODE((_VERSION, page.level, *packed_keys(page), *columns_of(page)))
    return bytes(memoryview(found))


def packed_keys(page: Page) -> tuple[bytes, bytes]:
    """What all keys begin with, and their rests in one."""
    if page.packed is not None:
        return page.packed
    keys = page.keys
    prefix = _common_prefix(keys[0], keys[-1]) if keys else b""
    return prefix, b"/".join(keys).replace(b"/" + prefix, b"/")[len(prefix) :]


def columns_of(page: Page) -> Columns:
    """The refs of an inner page, column by column."""
    if page.columns is not None:
        return page.columns
    digests, entries, files, sizes = zip(*page.refs, strict=True)
    return Columns(b"".join(digests), entries, files, sizes)


def decode_page(blob: bytes) -> Page:
    """The page of bytes that are known to be good: their digest was compared, they were checked when they came.

    Raises CodecError for what is no page at all; see `check_page` for bytes that a peer sent.
    """
    if not blob or len(blob) > PAGE_ENCODED_MAX_BYTES:
        raise CodecError(f"a page has 1 to {PAGE_ENCODED_MAX_BYTES} bytes, not {len(blob)}")
    items: Sequence[bytes | Ref]
    columns: Columns | None = None
    try:
        if blob[0] == _LEAF_MARK:
            version, level, prefix, rests, items = _DECODE_LEAF(blob)
        elif blob[0] == _INNER_MARK:
            version, level, prefix, rests, digests, entries, files, sizes = _DECODE_INNER(blob)
            columns = Columns(digests, entries, files, sizes)
            items = _refs_of(columns)
        else:
            raise CodecError("not a page")
    except msgspec.MsgspecError as error:
        raise CodecError(f"not a page: {error}") from error
    if version != _VERSION:
        raise CodecError(f"page of version {version}; this program reads version {_VERSION}")
    if (level > 0) is not (blob[0] == _INNER_MARK) or not 0 <= level <= TREE_MAX_LEVELS:
        raise CodecError(f"page of an impossible level: {level}")
    return Page(level, _keys_of(prefix, rests, len(items)), items, (prefix, rests), columns)


def _refs_of(columns: Columns) -> list[Ref]:
    digests, entries, files, sizes = columns
    count = len(entries)
    if not count or len(files) != count or len(sizes) != count or len(digests) % count:
        raise CodecError("inner page whose columns differ in length")
    width = len(digests) // count
    parts = [digests[at : at + width] for at in range(0, len(digests), width)] if width else []
    if len(parts) != count:
        raise CodecError("inner page without digests")
    return list(map(_NEW_REF, zip(parts, entries, files, sizes, strict=True)))


def _keys_of(prefix: bytes, rests: bytes, count: int) -> list[bytes]:
    if not count:
        if prefix or rests:
            raise CodecError("empty page with keys")
        return []
    if count > PAGE_MAX_ITEMS or rests.count(b"/") != count - 1:
        raise CodecError("page with too many items, or with more or fewer keys than items")
    if len(prefix) > MAX_PATH_BYTES or b"/" in prefix:
        raise CodecError("page with an impossible key prefix")
    return (prefix + rests.replace(b"/", b"/" + prefix)).split(b"/")


def _common_prefix(first: bytes, last: bytes) -> bytes:
    """What all keys from `first` to `last` begin with."""
    length = min(len(first), len(last))
    differing = int.from_bytes(first[:length], "big") ^ int.from_bytes(last[:length], "big")
    return first[: length - (differing.bit_length() + 7) // 8]


# --- what a peer may send ------------------------------------------------------------------------


def check_page(blob: bytes, algorithm: DigestAlgorithm) -> Page:
    """The page of bytes that a peer sent. Whether it fits its place in a tree is for `Closure` to see.

    Raises CodecError or PathError for everything that no tree contains: other bytes than `encode_page`
    makes, keys or values that are not allowed, a page that goes on behind its end.
    """
    page = decode_page(blob)
    if page.level:
        _check_refs(page, algorithm.width)
    else:
        check_items(page.keys, page.values, algorithm.width)
    page.totals()
    if page_ends(page.level, page.keys, page.items) not in ([], [len(page.keys)]):
        raise CodecError("page that goes on behind its end")
    if encode_page(Page(page.level, page.keys, page.items)) != blob:  # from nothing that the peer packed
        raise CodecError("page in other than its canonical bytes")
    return page


def check_items(keys: Sequence[bytes], values: Iterable[bytes | None], width: int) -> None:
    """Raise unless `keys` ascend strictly and may stand in a tree (PathError), and likewise every value
    that is not None (CodecError)."""
    _check_keys(keys)
    check_values(values, width)


def _check_keys(keys: Sequence[bytes]) -> None:
    if not all(map(lt, keys, keys[1:])):
        raise CodecError("keys that do not ascend strictly")
    joined = b"\0" + b"\0".join(keys) + b"\0" if keys else b""
    if (
        b"\0\0" in joined
        or b"\0.\0" in joined
        or b"\0..\0" in joined
        or b"/" in joined
        or (max(map(len, keys), default=0) > MAX_NAME_BYTES)
    ):
        for key in keys:
            check_key(key)


def _check_refs(page: Page, width: int) -> None:
    _check_keys(page.keys)
    for ref in page.refs:
        if len(ref.digest) != width:
            raise CodecError(f"ref with a digest of {len(ref.digest)} bytes where {width} are used")
        if (
            not 1 <= ref.entries <= TOTAL_MAX
            or not 0 <= ref.files <= ref.entries
            or not 0 <= ref.bytes <= TOTAL_MAX
        ):
            raise CodecError("ref with impossible totals")
