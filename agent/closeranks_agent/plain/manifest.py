"""A tree's entries as text: JSON, one a line, the first saying by what settings and to which root they lead.

Paths are escaped as everywhere, so each stands on one line and none is lost. Whoever reads a manifest builds
the root again from its lines: one that was cut off or edited is not believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from closeranks_proto.digests import algorithm_named
from closeranks_proto.entries import Entry, Kind, decode_entry, encode_entry
from closeranks_proto.errors import CloseranksError, UserError
from closeranks_proto.paths import escape, key_of, path_of, unescape
from closeranks_proto.tree import Summary, Tree

from .snapshot import How, Snapshot, no_source

VERSION: Final = 1
LINE_MAX_BYTES: Final = 4 << 20
_KINDS: Final = {Kind.FILE: "file", Kind.DIRECTORY: "directory", Kind.SYMLINK: "symlink"}
_BY_NAME: Final = {name: kind for kind, name in _KINDS.items()}


class Header(msgspec.Struct, forbid_unknown_fields=True):
    """The first line. `left_out`: [path, why] of what could not be read, the first of `left_out_count`."""

    closeranks_manifest: int
    root: str
    digest: str
    chunk_bytes: int
    track: tuple[str, ...]
    ignore: tuple[str, ...]
    entries: int
    files: int
    bytes: int
    left_out_count: int
    left_out: tuple[tuple[str, str], ...]


class Line(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """One path. What is not tracked is not there."""

    path: str
    kind: str
    size: int = 0
    digest: str = ""
    mode: str | None = None
    target: str | None = None
    owner: tuple[int, int] | None = None
    mtime_ns: int | None = None
    xattrs: tuple[tuple[str, str], ...] | None = None


def write_manifest(place: Path, snapshot: Snapshot, summary: Summary) -> None:
    """Beside its place first, so that a manifest is whole or not there. Raises OSError."""
    how = snapshot.how
    header = Header(
        VERSION, summary.root.hex(), how.algorithm.name, how.chunk_bytes, how.track, how.ignore,
        summary.entries, summary.files, summary.bytes, snapshot.left_out_count,
        tuple((escape(path_of(one.key)), one.why) for one in snapshot.left_out),
    )  # fmt: skip
    encode = msgspec.json.Encoder().encode
    aside = place.with_name(place.name + ".part")
    try:
        with aside.open("wb") as file:
            file.write(encode(header) + b"\n")
            for key, value in snapshot.items():
                file.write(encode(_line(key, decode_entry(value, how.algorithm.width))) + b"\n")
        aside.replace(place)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def _line(key: bytes, entry: Entry) -> Line:
    return Line(
        escape(path_of(key)),
        _KINDS[entry.kind],
        entry.size if entry.kind is Kind.FILE else 0,
        entry.digest.hex(),
        None if entry.mode is None else f"{entry.mode:04o}",
        escape(entry.target) if entry.kind is Kind.SYMLINK else None,
        entry.owner,
        entry.mtime_ns,
        None
        if entry.xattrs is None
        else tuple((escape(name), escape(value)) for name, value in entry.xattrs),
    )


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest that was read through once and leads to the root that it states."""

    place: Path
    how: How
    header: Header

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every (key, value), keys ascending. Raises UserError where the file is not what it was."""
        return _items(self.place)


def read_manifest(place: Path) -> Manifest:
    """Raises UserError for a file that is no manifest or a damaged one, OSError where it can not be read."""
    with place.open("rb") as file:
        first = file.readline(LINE_MAX_BYTES)
    try:
        header = msgspec.json.decode(first, type=Header)
        how = How(algorithm_named(header.digest), header.chunk_bytes, header.track, header.ignore)
    except (msgspec.MsgspecError, CloseranksError) as error:
        raise UserError(f"{escape(bytes(place))} is neither a directory nor a manifest: {error}") from error
    if header.closeranks_manifest != VERSION:
        raise UserError(f"{escape(bytes(place))} is a manifest of version {header.closeranks_manifest}")
    try:
        root = Tree(how.algorithm, no_source).build(_items(place)).root
    except UserError:
        raise
    except CloseranksError as error:
        raise UserError(f"{escape(bytes(place))} is damaged: {error}") from error
    if root.hex() != header.root:
        raise UserError(f"{escape(bytes(place))} is damaged: its lines lead to the root {root.hex()}")
    return Manifest(place, how, header)


def _items(place: Path) -> Iterator[tuple[bytes, bytes]]:
    decode = msgspec.json.Decoder(Line).decode
    with place.open("rb") as file:
        file.readline(LINE_MAX_BYTES)
        for number, text in enumerate(file, 2):
            try:
                line = decode(text)
                yield key_of(unescape(line.path)), encode_entry(_entry(line))
            except (msgspec.MsgspecError, ValueError, KeyError, CloseranksError) as error:
                raise UserError(f"{escape(bytes(place))}, line {number}: {error}") from error


def _entry(line: Line) -> Entry:
    kind = _BY_NAME[line.kind]
    target = unescape(line.target or "")
    return Entry(
        kind,
        len(target) if kind is Kind.SYMLINK else line.size,
        bytes.fromhex(line.digest),
        None if line.mode is None else int(line.mode, 8),
        target,
        line.owner,
        line.mtime_ns,
        None if line.xattrs is None else tuple(_bytes_of(line.xattrs)),
    )


def _bytes_of(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[bytes, bytes]]:
    return ((unescape(name), unescape(value)) for name, value in pairs)
