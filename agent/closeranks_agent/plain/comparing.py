"""`closeranks compare A B`: two trees or manifests, path by path, in the symbols of `closeranks diff`.

Both sides are merged as they come, keys ascending; memory holds a page of each. Where a side could not read a
path, nothing is said of it nor of what is beneath but '!'.
"""

from __future__ import annotations

import argparse
import base64
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from closeranks_proto.content import decode_chunk_list
from closeranks_proto.entries import Entry, Kind, aspects, decode_entry
from closeranks_proto.errors import UserError
from closeranks_proto.paths import escape, parent_key, path_of

from .commands import DONE, INCOMPLETE, emit, say
from .manifest import read_manifest
from .options import how_of, refuse_others
from .progress import Progress
from .snapshot import How, Snapshot
from .telling import counted, tell_never_compared

ATTRIBUTES = frozenset(("mode", "owner", "mtime", "xattrs"))
SYMBOLS = {"same": "=", "modified": "*", "added": "+", "missing": "-", "unreadable": "!"}

Items = Iterator[tuple[bytes, bytes]]


class Difference(msgspec.Struct):
    """One line of `--json`. `bytes`: of the chunks that differ where both sides know them, else of the file."""

    path: str
    path_b64: str
    change: str
    aspects: tuple[str, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class Side:
    """What is compared: its entries, and what it could not read."""

    items: Callable[[], Items]
    chunk_list: Callable[[bytes], bytes | None]
    left_out: frozenset[bytes]
    untold: int  # paths that could not be read, beyond those named


def run(args: argparse.Namespace) -> int:
    """Compare, print, and say whether there was a difference."""
    with ExitStack() as stack:
        how, sides = _sides(args, stack)
        counts: Counter[str] = Counter()
        for found in differences(sides[0], sides[1], how):
            counts[found.change] += 1
            if found.change == "same":
                if not args.all:
                    continue
            else:
                counts["bytes"] += found.bytes
                counts["attributes"] += found.change == "modified" and ATTRIBUTES.issuperset(found.aspects)
            _print(found, args.json)
        untold = sum(side.untold for side in sides)
    counts["unreadable"] += untold
    if untold:
        say(f"{counted(untold, 'more path')} could not be read")
    if not args.json:
        alone = f" ({counts['attributes']} in {_tracked(how)} alone)" if counts["attributes"] else ""
        emit(
            f"# {counts['modified']} differ{alone}, {counts['added']} only in B, {counts['missing']} missing in B, "
            f"{counts['unreadable']} could not be read; {counts['bytes']} bytes differ; {counts['same']} same"
        )
    return INCOMPLETE if any(counts[name] for name in SYMBOLS if name != "same") else DONE


def _tracked(how: How) -> str:
    """What is compared besides contents."""
    return " or ".join(how.track)


def _print(found: Difference, as_json: bool) -> None:
    if as_json:
        emit(msgspec.json.encode(found).decode())
    else:
        emit(f"{SYMBOLS[found.change]} {found.path}")


# --- sides ---------------------------------------------------------------------------------------


def _sides(args: argparse.Namespace, stack: ExitStack) -> tuple[How, list[Side]]:
    """Both, by one set of settings: the manifests', else the options'."""
    given = [Path(args.a), Path(args.b)]
    manifests = {place: read_manifest(place) for place in given if not stat.S_ISDIR(place.stat().st_mode)}
    hows = [manifest.how for manifest in manifests.values()] or [how_of(args)]
    how = hows[0]
    if any(other != how for other in hows):
        raise UserError(
            "the two manifests were made by different settings (digest, chunk_bytes, track, ignore)"
        )
    for place in manifests:
        refuse_others(args, how, escape(os.fsencode(place)))
    sides: list[Side] = []
    for place in given:
        if place in manifests:
            header = manifests[place].header
            untold = header.left_out_count - len(header.left_out)
            sides.append(Side(manifests[place].items, _no_list, manifests[place].left_out, untold))
        else:
            sides.append(_tree(place, how, stack))
    return how, sides


def _tree(place: Path, how: How, stack: ExitStack) -> Side:
    path = os.fsencode(place)
    snapshot = Snapshot(path, how)
    stack.callback(snapshot.close)
    snapshot.open()
    with Progress(path, lambda: (snapshot.findings.hashed_files, snapshot.findings.hashed_bytes)):
        snapshot.take()
    tell_never_compared(path, snapshot)
    left_out = frozenset(one.key for one in snapshot.left_out)
    return Side(snapshot.items, snapshot.chunk_list, left_out, snapshot.left_out_count - len(left_out))


def _no_list(digest: bytes) -> None:
    """A manifest has no chunk lists."""
    return


# --- the difference ------------------------------------------------------------------------------


def differences(ours: Side, theirs: Side, how: How) -> Iterator[Difference]:
    """Every path of both, keys ascending; what could not be read stands where its path does."""
    unread = sorted(ours.left_out | theirs.left_out)
    hidden = frozenset(unread)
    at = 0
    for key, own, other in _beside(ours.items(), theirs.items()):
        while at < len(unread) and unread[at] <= key:
            yield _difference(unread[at], "unreadable", (), 0)
            at += 1
        if _is_hidden(key, hidden):
            continue
        if own == other:
            yield _difference(key, "same", (), 0)
            continue
        mine = None if own is None else decode_entry(own, how.algorithm.width)
        his = None if other is None else decode_entry(other, how.algorithm.width)
        change = "added" if mine is None else "missing" if his is None else "modified"
        yield _difference(key, change, aspects(mine, his), _bytes(ours, theirs, mine, his))
    for key in unread[at:]:
        yield _difference(key, "unreadable", (), 0)


def _difference(key: bytes, change: str, what: tuple[str, ...], size: int) -> Difference:
    path = path_of(key)
    return Difference(escape(path), base64.b64encode(path).decode(), change, what, size)


def _is_hidden(key: bytes, hidden: frozenset[bytes]) -> bool:
    """Whether the path, or a directory above it, could not be read on one side."""
    if hidden:
        while key:
            if key in hidden:
                return True
            key = parent_key(key)
    return False


def _beside(ours: Items, theirs: Items) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
    own, other = next(ours, None), next(theirs, None)
    while own is not None or other is not None:
        if other is None or (own is not None and own[0] < other[0]):
            assert own is not None
            yield own[0], own[1], None
            own = next(ours, None)
        elif own is None or other[0] < own[0]:
            yield other[0], None, other[1]
            other = next(theirs, None)
        else:
            yield own[0], own[1], other[1]
            own, other = next(ours, None), next(theirs, None)


def _bytes(ours: Side, theirs: Side, mine: Entry | None, his: Entry | None) -> int:
    """Of content that differs."""
    sizes = [0 if entry is None or entry.kind is not Kind.FILE else entry.size for entry in (mine, his)]
    if mine is None or his is None or mine.kind is not his.kind or mine.kind is not Kind.FILE:
        return max(sizes)
    if mine.digest == his.digest:
        return 0
    before, now = ours.chunk_list(mine.digest), theirs.chunk_list(his.digest)
    if before is None or now is None:
        return max(sizes)
    one, two = decode_chunk_list(before), decode_chunk_list(now)
    longer, shorter = (one, two) if one.count >= two.count else (two, one)
    return sum(
        longer.span(index)[1]
        for index in range(longer.count)
        if index >= shorter.count or longer[index] != shorter[index]
    )
