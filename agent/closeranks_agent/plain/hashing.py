"""`closeranks hash`: the root digest of a directory, as an agent would have it, or a file's content digest.

One line a path, digest first, two spaces, as checksum programs write it.
"""

from __future__ import annotations

import argparse
import base64
import os
import stat
import sys
import time
from pathlib import Path

import msgspec

from closeranks_proto.entries import decode_entry
from closeranks_proto.errors import UserError
from closeranks_proto.paths import escape, path_of

from ..disk.hashing import EntryReader, opened_file
from .commands import DONE, IMPOSSIBLE, INCOMPLETE, say
from .manifest import write_manifest
from .options import how_of
from .progress import Progress
from .snapshot import How, Snapshot


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


def run(args: argparse.Namespace) -> int:
    """Hash each path; the exit code of the worst."""
    if args.manifest and len(args.paths) != 1:
        raise UserError("--manifest goes with one PATH")
    how = how_of(args)
    code = DONE
    for given in args.paths:
        path = os.fsencode(given)
        began = time.monotonic()
        try:
            status = os.stat(path)
            if stat.S_ISDIR(status.st_mode):
                found = _directory(args, path, how)
            elif stat.S_ISREG(status.st_mode):
                if args.manifest:
                    raise UserError("--manifest: PATH must be a directory")
                found = _file(path, how)
            else:
                raise OSError(0, "neither a directory nor a regular file")
        except OSError as error:
            say(f"{escape(path)}: {error.strerror or error}")
            code = IMPOSSIBLE
            continue
        found.seconds = round(time.monotonic() - began, 3)
        _print(found, args.json)
        if found.left_out_count and code == DONE:
            code = INCOMPLETE
    return code


def _print(found: Hashed, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
        return
    sys.stdout.write(f"{found.root or found.content}  {found.path}\n")
    for one in found.left_out:
        say(f"! {one['path']}: {one['why']}: {one['detail']}")
    if found.left_out_count:
        say(f"{found.path}: {found.left_out_count} paths could not be read; the root is of the others")


def _directory(args: argparse.Namespace, path: bytes, how: How) -> Hashed:
    snapshot = Snapshot(path, how)
    try:
        snapshot.open()
        with Progress(path, lambda: (snapshot.findings.hashed_files, snapshot.findings.hashed_bytes), True):
            summary = snapshot.take()
        if args.manifest:
            write_manifest(Path(args.manifest), snapshot, summary)
    finally:
        snapshot.close()
    found = _hashed(path, how, "directory")
    found.root, found.entries = summary.root.hex(), summary.entries
    found.files, found.bytes = summary.files, summary.bytes
    found.left_out_count = snapshot.left_out_count
    found.left_out = tuple(
        {"path": escape(path_of(one.key)), "why": one.why, "detail": one.detail} for one in snapshot.left_out
    )
    return found


def _file(path: bytes, how: How) -> Hashed:
    parent, _, name = path.rpartition(b"/")
    reader = EntryReader(how.algorithm, how.chunk_bytes, how.track)
    parent_fd = os.open(parent or (b"/" if path.startswith(b"/") else b"."), os.O_PATH | os.O_DIRECTORY)
    try:
        with opened_file(os.path.realpath(path) if os.path.islink(path) else name, parent_fd) as fd:
            reading = reader.read_file(name, fd)
    finally:
        os.close(parent_fd)
    found = _hashed(path, how, "file")
    found.content = decode_entry(reading.record.value, how.algorithm.width).digest.hex()
    found.entries, found.files, found.bytes = 1, 1, reading.bytes
    if not reading.steady:
        found.left_out_count = 1
        found.left_out = ({"path": escape(path), "why": "busy", "detail": "it changed while it was read"},)
    return found


def _hashed(path: bytes, how: How, kind: str) -> Hashed:
    return Hashed(
        escape(path), base64.b64encode(path).decode(), kind, None, None, how.algorithm.name, how.chunk_bytes,
        how.track, how.ignore, 0, 0, 0, 0.0, 0,
    )  # fmt: skip
