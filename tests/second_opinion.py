"""The root of a directory by another road: DESIGN's tree, written down once more from its description.

It shares no line and no library with the packages: digests come from Debian's libxxhash and b3sum, not from Python's
wheels; entries, pages and chunk lists are put together byte by byte, the whole tree at once, without streams, batches
or edits. So a mistake that the builder, the scan or a digest's wheel makes consistently shows here.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import stat
import struct
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

MIB: Final = 1 << 20
MAX_ITEMS, MAX_BYTES, REF_WEIGHT = 512, 64 * 1024, 64
Digest = Callable[[bytes], bytes]
Item = tuple[bytes, bytes, int, int]  # key, value, files, bytes
Paged = tuple[bytes, bytes, int, int, int]  # last key, digest, entries, files, bytes
T = TypeVar("T")


class _Pair(ctypes.Structure):
    _fields_ = (("low", ctypes.c_uint64), ("high", ctypes.c_uint64))


def library() -> ctypes.CDLL | None:
    """Debian's xxHash; None where it is not installed."""
    name = ctypes.util.find_library("xxhash")
    if name is None:
        return None
    found = ctypes.CDLL(name)
    found.XXH3_128bits.restype, found.XXH3_64bits.restype = _Pair, ctypes.c_uint64
    for function in (found.XXH3_128bits, found.XXH3_64bits):
        function.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
    return found


_LIBRARY = library()


def xxh3_128(data: bytes) -> bytes:
    assert _LIBRARY is not None
    pair = _LIBRARY.XXH3_128bits(data, len(data))
    return struct.pack(">QQ", pair.high, pair.low)


def xxh3_64(data: bytes) -> int:
    assert _LIBRARY is not None
    return int(_LIBRARY.XXH3_64bits(data, len(data)))


def blake3(data: bytes) -> bytes:
    """By the program."""
    done = subprocess.run(["b3sum", "--no-names"], input=data, capture_output=True, check=True)
    return bytes.fromhex(done.stdout.decode().strip())


DIGESTS: Final[dict[str, Digest]] = {"xxh3-128": xxh3_128, "blake3": blake3}


@dataclass(frozen=True)
class Found:
    """What a directory's root is, and how much is below it."""

    root: str
    entries: int
    files: int
    bytes: int


def root_of(top: bytes, digest: str = "xxh3-128", chunk_bytes: int = MIB, mode: bool = True) -> Found:
    """Of the tree below `top`, which holds still. Special files and other filesystems are no part of it."""
    of = DIGESTS[digest]
    items: list[Item] = []
    device = os.stat(top).st_dev
    todo = [b""]
    while todo:
        below = todo.pop()
        for name in os.listdir(os.path.join(top, below) if below else top):
            path = below + b"/" + name if below else name
            place = os.path.join(top, path)
            status = os.lstat(place)
            if status.st_dev != device:
                continue
            bits = stat.S_IMODE(status.st_mode)
            flags, bits = (1, bits) if mode else (0, 0)
            if stat.S_ISDIR(status.st_mode):
                items.append((path, struct.pack(">BBHQ", 0x12, flags, bits, 0), 0, 0))
                todo.append(path)
            elif stat.S_ISLNK(status.st_mode):
                target = os.readlink(place)
                items.append((path, struct.pack(">BBHQ", 0x13, 0, 0, len(target)) + target, 0, 0))
            elif stat.S_ISREG(status.st_mode):
                content = content_of(place, of, chunk_bytes)
                head = struct.pack(">BBHQ", 0x11, flags, bits, status.st_size)
                items.append((path, head + content, 1, status.st_size))
    level = sorted((path.replace(b"/", b"\0"), value, files, size) for path, value, files, size in items)
    files, size = sum(one[2] for one in items), sum(one[3] for one in items)
    return Found(_root(level, of).hex(), len(items), files, size)


def content_of(place: bytes, of: Digest, chunk_bytes: int) -> bytes:
    """A file's content digest."""
    with open(place, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= chunk_bytes:
            return of(file.read())
        digests = b"".join(iter(lambda: of(piece) if (piece := file.read(chunk_bytes)) else b"", b""))
    width = 16 if of is xxh3_128 else 32
    return of(struct.pack(">BBIQ", 1, width, chunk_bytes, size) + digests)


def _root(level: Sequence[Item], of: Digest) -> bytes:
    """From the leaves' items to the one page that is alone on its level."""
    pages: list[Paged] = [
        (page[-1][0], of(_leaf(page)), len(page), sum(one[2] for one in page), sum(one[3] for one in page))
        for page in _cut([(key, len(key) + len(value)) for key, value, _, _ in level], level, 0)
    ]
    if not pages:
        return of(_leaf([]))
    height = 0
    while len(pages) > 1:
        height += 1
        groups = _cut([(page[0], len(page[0]) + REF_WEIGHT) for page in pages], pages, height)
        pages = [
            (
                group[-1][0],
                of(_inner(height, group)),
                sum(one[2] for one in group),
                sum(one[3] for one in group),
                sum(one[4] for one in group),
            )
            for group in groups
        ]
    return pages[0][1]


def _cut(sizes: Sequence[tuple[bytes, int]], items: Sequence[T], height: int) -> list[Sequence[T]]:
    """A page ends behind a key whose hash has 6 x (height + 1) low zero bits, or behind the item that fills it."""
    groups: list[Sequence[T]] = []
    mask = (1 << 6 * (height + 1)) - 1
    start = weight = 0
    for at, (key, size) in enumerate(sizes):
        weight += size
        if not xxh3_64(key) & mask or at + 1 - start >= MAX_ITEMS or weight >= MAX_BYTES:
            groups.append(items[start : at + 1])
            start, weight = at + 1, 0
    if start < len(items):
        groups.append(items[start:])
    return groups


# --- msgpack, as much of it as pages need --------------------------------------------------------


def _leaf(page: Sequence[Item]) -> bytes:
    return b"\x95\x01\x00" + _keys([one[0] for one in page]) + _array([_blob(one[1]) for one in page])


def _inner(height: int, group: Sequence[Paged]) -> bytes:
    head = b"\x98\x01" + _number(height) + _keys([one[0] for one in group])
    digests = _blob(b"".join(one[1] for one in group))
    counts = zip(*(one[2:] for one in group), strict=True)
    return head + digests + b"".join(_array([_number(count) for count in column]) for column in counts)


def _keys(keys: Sequence[bytes]) -> bytes:
    prefix = b""
    if keys:
        first, last = keys[0], keys[-1]
        length = 0
        while length < min(len(first), len(last)) and first[length] == last[length]:
            length += 1
        prefix = first[:length]
    return _blob(prefix) + _blob(b"/".join(key[len(prefix) :] for key in keys))


def _blob(data: bytes) -> bytes:
    if len(data) < 1 << 8:
        return b"\xc4" + struct.pack(">B", len(data)) + data
    if len(data) < 1 << 16:
        return b"\xc5" + struct.pack(">H", len(data)) + data
    return b"\xc6" + struct.pack(">I", len(data)) + data


def _array(parts: Sequence[bytes]) -> bytes:
    head = bytes([0x90 | len(parts)]) if len(parts) < 16 else b"\xdc" + struct.pack(">H", len(parts))
    return head + b"".join(parts)


def _number(value: int) -> bytes:
    if value < 1 << 7:
        return bytes([value])
    for mark, kind, most in ((b"\xcc", ">B", 1 << 8), (b"\xcd", ">H", 1 << 16), (b"\xce", ">I", 1 << 32)):
        if value < most:
            return mark + struct.pack(kind, value)
    return b"\xcf" + struct.pack(">Q", value)
