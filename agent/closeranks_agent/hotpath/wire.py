"""What passes between whoever has much to read and the processes that read for it.

Messages are marshal behind their length: both ends are one program, and no other way makes a hundred thousand
small tuples as cheaply. A question is `(kind, items)`; the answer is a list with one part for each item.

Invariant: the questions that are under way to one reader fit its socket's buffer, so that the two never wait
for each other to read.
"""

from __future__ import annotations

import marshal
import socket
import struct
from typing import Any, Final, NamedTuple

_LENGTH: Final = struct.Struct("<Q")
RECEIVE_BYTES: Final = 1 << 20
QUESTION_MAX_BYTES: Final = 32 * 1024  # of keys and names; UNDER_WAY of them fit any socket's buffer
UNDER_WAY: Final = 2  # questions: one in work, one waiting

DIRECTORIES: Final = 0  # items: keys. Everything in these directories
FILES: Final = 1  # items: (key, names). Some names of a directory
RANGES: Final = 2  # items: (key, signature, size, first chunk, count, whether to map). Chunks of a long file
GLANCES: Final = 3  # items: keys. Only a directory's digest
FAULT: Final = -1  # in place of an answer, with a text: the reader ends by a fault of its own
FAULT_MAX_CHARS: Final = 500

# What is left to do with a directory or with some of its names.
CLEAN: Final = 0  # nothing
FRESH: Final = 1  # something was written too lately to be sure: the next scan reads it again
LEFT: Final = 2  # something is not plain: the directory must be looked at in the ordinary way
MANY: Final = 3  # too many names for one answer: `names` has them

SMALL, LARGE = 0, 1

# (name, value, packed signature, settled, content digest of a long file or None): a row of the index but for
# its directory.
ReadRow = tuple[bytes, bytes, bytes, int, bytes | None]
# (name of its last row, how many they are, the pack): see `disk.packs`.
ReadPack = tuple[bytes, int, bytes]


class Setup(NamedTuple):
    """How to read. Sent once."""

    algorithm: str
    chunk_bytes: int
    mode: bool  # what is tracked
    owner: bool
    mtime: bool
    ignore: tuple[str, ...]
    skip: str  # a name that is left out of the root
    device: int  # of the root
    keep_cache: bool  # leave the page cache as it was found
    idle: bool  # take only what nobody else wants of processor and disk


class Large(NamedTuple):
    """A file whose chunks are to be read as ranges. Its value is `head`, content digest, `tail`."""

    name: bytes
    signature: bytes
    size: int
    settled: int
    head: bytes
    tail: bytes


class Part(NamedTuple):
    """What was read of a directory, or of some of its names."""

    state: int
    digest: bytes  # of its names and stats, see `disk.listing`
    rows: list[ReadRow]  # that can not stand in a pack
    packs: list[ReadPack]
    lists: list[tuple[bytes, bytes]]  # chunk lists by content digest
    directories: list[bytes]  # to go on with
    links: list[tuple[bytes, int, int, int]]  # files with several names: name, device, inode, names
    large: list[
        tuple[bytes, bytes, int, int, bytes, bytes]
    ]  # `Large`: marshal takes nothing but plain tuples
    names: list[bytes]
    lately: list[bytes]  # files that were read soon after a change, see `disk.lately`
    ignored: int
    files: int  # read
    size: int  # bytes read


def pack(message: tuple[Any, ...] | list[Any]) -> bytes:
    body = marshal.dumps(message)
    return _LENGTH.pack(len(body)) + body


def receive(channel: socket.socket) -> Any:
    """One message; None where the other end is gone."""
    header = channel.recv(_LENGTH.size, socket.MSG_WAITALL)
    if len(header) < _LENGTH.size:
        return None
    left = _LENGTH.unpack(header)[0]
    parts: list[bytes] = []
    while left:
        part = channel.recv(min(left, RECEIVE_BYTES))
        if not part:
            return None
        parts.append(part)
        left -= len(part)
    return marshal.loads(b"".join(parts))
