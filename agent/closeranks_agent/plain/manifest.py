"""A tree's entries as text: JSON, one a line, the first saying by what settings and to which root they lead.

Paths are escaped as everywhere, so each stands on one line and none is lost. Whoever reads a manifest builds
the root again from its lines: one that was cut off or edited is not believed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from closeranks_proto.entries import MODE_BITS, Entry, Kind, decode_entry, encode_entry
from closeranks_proto.errors import CloseranksError, UserError
from closeranks_proto.paths import check_key, escape, key_of, path_of, unescape
from closeranks_proto.tree import Summary, Tree

from .options import how_from
from .snapshot import How, Snapshot, no_source

VERSION: Final = 1
LINE_MAX_BYTES: Final = 4 << 20
_KINDS: Final = {Kind.FILE: "file", Kind.DIRECTORY: "directory", Kind.SYMLINK: "symlink"}
# Of bytes that are no JSON of ours.
_NOT_OURS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
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


def check_place(given: str, place: Path) -> None:
    """Before anything is read: whether a manifest may be written there. Raises UserError."""
    if not given:
        raise UserError("--manifest: the name of a file")
    if place.is_dir():
        raise UserError(f"--manifest {escape(bytes(place))}: it is a directory")
    if not place.parent.is_dir():
        raise UserError(f"--manifest {escape(bytes(place))}: there is no such directory")
    if not place.exists() and not os.access(place.parent, os.W_OK | os.X_OK):
        raise UserError(f"--manifest {escape(bytes(place))}: its directory can not be written to")


def is_standard_output(place: Path) -> bool:
    try:
        return os.path.samestat(place.stat(), os.fstat(1))
    except OSError:
        return False


def write_manifest(place: Path, snapshot: Snapshot, summary: Summary) -> None:
    """A file is written beside its place first, so that a manifest is whole or not there. Raises UserError.

    What is no regular file (a device, a pipe) and standard output stay what they are, and are written to.
    """
    try:
        if is_standard_output(place):
            with os.fdopen(os.dup(1), "wb") as file:
                _write(file, snapshot, summary)
        elif place.exists() and not place.is_file():
            with place.open("wb") as file:
                _write(file, snapshot, summary)
        else:
            _replace(Path(os.path.realpath(place)), snapshot, summary)  # a link to a manifest stays one
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"--manifest {escape(bytes(place))}: {error.strerror}") from error


def _replace(place: Path, snapshot: Snapshot, summary: Summary) -> None:
    aside = place.with_name(place.name + ".part")
    try:
        with aside.open("wb") as file:
            _write(file, snapshot, summary)
            os.fsync(file.fileno())
        aside.replace(place)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def _write(file: BinaryIO, snapshot: Snapshot, summary: Summary) -> None:
    how = snapshot.how
    header = Header(
        VERSION, summary.root.hex(), how.algorithm.name, how.chunk_bytes, how.track, how.ignore,
        summary.entries, summary.files, summary.bytes, snapshot.left_out_count,
        tuple((escape(path_of(one.key)), one.why) for one in snapshot.left_out),
    )  # fmt: skip
    encode = msgspec.json.Encoder().encode
    file.write(encode(header) + b"\n")
    for key, value in snapshot.items():
        file.write(encode(_line(key, decode_entry(value, how.algorithm.width))) + b"\n")
    file.flush()


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
    """A manifest that was read through once and leads to the root that it states. `left_out`: keys."""

    place: Path
    how: How
    header: Header
    left_out: frozenset[bytes]

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every (key, value), keys ascending. Raises UserError where the file is not what it was."""
        return _items(self.place, self.how.algorithm.width)


def read_manifest(place: Path) -> Manifest:
    """Raises UserError for a file that is no manifest or a damaged one, OSError where it can not be read."""
    name = escape(bytes(place))
    if not place.is_file():  # it is read twice, and opening a pipe may wait for ever
        raise UserError(f"{name} is neither a directory nor a regular file")
    with place.open("rb") as file:
        first = file.readline(LINE_MAX_BYTES)
    try:
        header = msgspec.json.decode(first, type=Header)
    except _NOT_OURS as error:
        raise UserError(
            f"{name} is neither a directory nor a manifest (`closeranks hash DIR --manifest FILE` makes one). It "
            "compares trees, not single files: for two files use cmp"
        ) from error
    if header.closeranks_manifest != VERSION:
        raise UserError(f"{name} is a manifest of version {header.closeranks_manifest}")
    try:
        how = how_from(header.digest, header.chunk_bytes, header.track, header.ignore)
    except UserError as error:
        raise UserError(f"{name} was made by settings that no volume has: {error}") from error
    try:
        left_out = frozenset(check_key(key_of(unescape(path))) for path, _ in header.left_out)
        summary = Tree(how.algorithm, no_source).build(_items(place, how.algorithm.width)).summary
    except UserError:
        raise
    except CloseranksError as error:
        raise _damaged(place, str(error)) from error
    if summary.root.hex() != header.root:
        raise _damaged(
            place,
            f"its lines lead to the root {summary.root.hex()}, and not to that of its first line: one of them "
            "was changed, or is missing",
        )
    stated = header.entries, header.files, header.bytes
    if stated != (summary.entries, summary.files, summary.bytes) or header.left_out_count < len(
        header.left_out
    ):
        raise _damaged(place, "its first line counts other entries than follow")
    return Manifest(place, how, header, left_out)


def _damaged(place: Path, why: str, line: int | None = None) -> UserError:
    """What is wrong with a manifest, and the way out."""
    where = "" if line is None else f", line {line}"
    return UserError(
        f"{escape(bytes(place))} is damaged{where}: {why}. It is not what was written: make it anew with "
        "`closeranks hash DIR --manifest FILE`"
    )


def _items(place: Path, width: int) -> Iterator[tuple[bytes, bytes]]:
    decode = msgspec.json.Decoder(Line).decode
    before = b""
    with place.open("rb") as file:
        file.readline(LINE_MAX_BYTES)
        for number, read in enumerate(iter(lambda: file.readline(LINE_MAX_BYTES), b""), 2):
            try:
                if not read.endswith(b"\n"):
                    raise UserError("it ends in the middle of a line, or the line is longer than any path's")
                line = decode(read)
                key, value = key_of(unescape(line.path)), encode_entry(_entry(line, width))
                if key <= before:
                    raise UserError("its path does not come behind that of the line before")
            except _NOT_OURS as error:
                raise _damaged(place, "this is no line of a manifest", number) from error
            except OverflowError as error:  # all numbers were looked at: these are lengths
                text = "its extended attributes are longer than any path's"
                raise _damaged(place, text, number) from error
            except CloseranksError as error:
                raise _damaged(place, str(error), number) from error
            yield key, value
            before = key


def _entry(line: Line, width: int) -> Entry:
    """The entry, well formed. Raises UserError, PathError for what none can be."""
    kind = _BY_NAME.get(line.kind)
    if kind is None:
        raise UserError(f"unknown kind {line.kind!r}; known are {', '.join(_BY_NAME)}")
    target = unescape(line.target or "")
    if not 0 <= line.size < 1 << 64:
        raise UserError(f"no file has the size {line.size}")
    if line.owner is not None and not all(0 <= one < 1 << 32 for one in line.owner):
        raise UserError(f"nobody has the numbers {line.owner[0]} and {line.owner[1]} (owner)")
    if line.mtime_ns is not None and not -(1 << 63) <= line.mtime_ns < 1 << 63:
        raise UserError(f"no file is of the time {line.mtime_ns} (mtime_ns)")
    return Entry(
        kind,
        len(target) if kind is Kind.SYMLINK else line.size,
        _digest(line.digest, width if kind is Kind.FILE else 0),
        None if line.mode is None else _mode(line.mode),
        target,
        line.owner,
        line.mtime_ns,
        None if line.xattrs is None else tuple(_bytes_of(line.xattrs)),
    )


def _digest(text: str, width: int) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = None
    if found is None or len(found) != width:
        raise UserError(f"its digest must have {2 * width} digits of 0-9 and a-f, and nothing else")
    return found


def _mode(text: str) -> int:
    try:
        found = int(text, 8)
    except ValueError:
        found = -1
    if not 0 <= found <= MODE_BITS:
        raise UserError(f"its mode must have four digits of 0-7, and is {text!r}")
    return found


def _bytes_of(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[bytes, bytes]]:
    return ((unescape(name), unescape(value)) for name, value in pairs)
