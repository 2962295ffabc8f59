"""`closeranks hash`: the root digest of a directory, as an agent would have it, or a file's content digest.

One line a path, digest first, two spaces, as checksum programs write it.
"""

from __future__ import annotations

import argparse
import base64
import os
import stat
import time
from pathlib import Path

import msgspec

from closeranks_proto.entries import decode_entry
from closeranks_proto.errors import UserError
from closeranks_proto.messages import Unreadable
from closeranks_proto.paths import escape, path_of

from ..disk.hashing import EntryReader, opened_file
from .commands import DONE, IMPOSSIBLE, INCOMPLETE, emit, say
from .long import MIN_BYTES, open_readers, read_long
from .manifest import check_place, is_standard_output, write_manifest
from .options import how_of
from .progress import Progress
from .snapshot import How, Snapshot
from .telling import counted, tell_never_compared


class Hashed(msgspec.Struct):
    """One line of `--json`. `root` is a directory's, `content` a file's digest, as hexadecimal digits."""

    path: str
    path_b64: str
    kind: str
    root: str | None
    content: str | None
    digest: str
    chunk_bytes: int
    track: tuple[str, ...]
    ignore: tuple[str, ...]
    entries: int
    files: int
    bytes: int
    seconds: float
    left_out_count: int
    left_out: tuple[dict[str, str], ...] = ()
    never_compared_count: int = 0  # special files, other filesystems: no part of any root
    never_compared: tuple[dict[str, str], ...] = ()


def run(args: argparse.Namespace) -> int:
    """Hash each path; the exit code of the worst."""
    manifest: Path | None = None
    if args.manifest is not None:
        if len(args.paths) != 1:
            raise UserError("--manifest goes with one PATH")
        manifest = Path("/dev/stdout" if args.manifest == "-" else args.manifest)
        check_place(args.manifest, manifest)
    how = how_of(args)
    code = DONE
    for given in args.paths:
        path = os.fsencode(given)
        began = time.monotonic()
        try:
            status = os.stat(path)
            if stat.S_ISDIR(status.st_mode):
                found = _directory(path, how, manifest, args.json)
            elif stat.S_ISREG(status.st_mode):
                if manifest is not None:
                    raise UserError("--manifest: PATH must be a directory")
                found = _file(path, how)
            else:
                raise OSError(0, "neither a directory nor a regular file")
        except BrokenPipeError:
            raise  # nobody reads what is written any more: nothing is wrong with the directory
        except OSError as error:
            say(f"{escape(path)}: {error.strerror or error}")
            code = IMPOSSIBLE
            continue
        found.seconds = round(time.monotonic() - began, 3)
        # Where the manifest goes to standard output, this would be one of its lines.
        if manifest is None or not is_standard_output(manifest):
            _print(found, args.json)
        _complain(found, args.json)
        if found.left_out_count and code == DONE:
            code = INCOMPLETE
    return code


def _print(found: Hashed, as_json: bool) -> None:
    if as_json:
        emit(msgspec.json.encode(found).decode())
    else:
        emit(f"{found.root or found.content}  {found.path}")


def _complain(found: Hashed, as_json: bool) -> None:
    """Of what is not in the digest; with `--json` it stands there."""
    if as_json:
        return
    for one in found.left_out:
        say(f"! {one['path']}: {one['why']}: {one['detail']}")
    if found.left_out_count and found.root is not None:
        say(
            f"{found.path}: {counted(found.left_out_count, 'path')} could not be read; the root is of the others"
        )


def _directory(path: bytes, how: How, manifest: Path | None, as_json: bool) -> Hashed:
    snapshot = Snapshot(path, how)
    try:
        snapshot.open()
        with Progress(path, lambda: (snapshot.findings.hashed_files, snapshot.findings.hashed_bytes)):
            summary = snapshot.take()
        if manifest is not None:
            write_manifest(manifest, snapshot, summary)
    finally:
        snapshot.close()
    if not as_json:
        tell_never_compared(path, snapshot)
    found = _hashed(path, how, "directory")
    found.root, found.entries = summary.root.hex(), summary.entries
    found.files, found.bytes = summary.files, summary.bytes
    found.left_out_count = snapshot.left_out_count
    found.left_out = tuple(_told(one) for one in snapshot.left_out)
    found.never_compared_count = snapshot.findings.never_compared
    found.never_compared = tuple(_told(one) for one in snapshot.never_compared)
    return found


def _told(one: Unreadable) -> dict[str, str]:
    return {"path": escape(path_of(one.key)), "why": one.why, "detail": one.detail}


def _file(path: bytes, how: How) -> Hashed:
    parent, name = os.path.split(os.path.realpath(path) if os.path.islink(path) else path)
    parent_fd = os.open(parent or b".", os.O_PATH | os.O_DIRECTORY)
    try:
        with opened_file(name, parent_fd) as fd:
            content, size, steady = _content(path, parent_fd, name, fd, how)
    finally:
        os.close(parent_fd)
    found = _hashed(path, how, "file")
    found.content = content.hex()
    found.entries, found.files, found.bytes = 1, 1, size
    if not steady:
        found.left_out_count = 1
        found.left_out = ({"path": escape(path), "why": "busy", "detail": "it changed while it was read"},)
    return found


def _content(path: bytes, parent_fd: int, name: bytes, fd: int, how: How) -> tuple[bytes, int, bool]:
    """(content digest, size, whether it held still) of an open file: by all cores where it is long."""
    status = os.fstat(fd)
    done = 0

    def came(size: int) -> None:
        nonlocal done
        done += size

    def a_chunk() -> bool:
        came(how.chunk_bytes)
        return False  # nobody stops it

    is_long = status.st_size >= max(MIN_BYTES, 2 * how.chunk_bytes)
    readers = open_readers(parent_fd, how) if is_long else None
    try:
        with Progress(path, lambda: (0, done), (1, status.st_size)):
            if readers is not None:
                content = read_long(readers, name, status, how, came)
                if content is not None:
                    return content, status.st_size, True
                done = 0
            reader = EntryReader(how.algorithm, how.chunk_bytes, how.track)
            reading = reader.read_file(name, fd, a_chunk)
    finally:
        if readers is not None:
            readers.close()
    return decode_entry(reading.record.value, how.algorithm.width).digest, reading.bytes, reading.steady


def _hashed(path: bytes, how: How, kind: str) -> Hashed:
    return Hashed(
        escape(path), base64.b64encode(path).decode(), kind, None, None, how.algorithm.name, how.chunk_bytes,
        how.track, how.ignore, 0, 0, 0, 0.0, 0,
    )  # fmt: skip
