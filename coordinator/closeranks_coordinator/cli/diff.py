"""`closeranks diff`: the paths in which a node differs, one a line, as they come.

A line is a symbol, one space and the path: nothing else, so that `cut -c3-` gives the paths. What is
no difference is on a line that begins with `#`: the chunk ranges of the path above it with --chunks, paths
whose special mode bits are withheld, and the totals at the end. Pages are printed as they arrive; memory
holds one of them.
"""

from __future__ import annotations

import argparse
from collections import Counter

import msgspec

from .client import Refused, segment
from .screen import BAD, CARE, FAINT, Screen
from .session import FOUND, NOT_ASKED, OK, asking, open_api

SYMBOLS = {"same": "=", "modified": "*", "added": "+", "missing": "-", "unreadable": "!"}
_STYLES = {"same": FAINT, "modified": CARE, "added": CARE, "missing": BAD, "unreadable": BAD}


class DiffEntry(msgspec.Struct):
    path: str
    change: str
    chunks: list[tuple[int, int]] | None = None
    bytes: int | None = None


class DiffPage(msgspec.Struct):
    """`entries` stay as they came, so that --json prints them unchanged."""

    entries: list[msgspec.Raw]
    next_cursor: str | None = None
    undetermined: int | None = None
    stale: list[str] = []


def add_diff(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "The paths in which NODE differs, one a line: '*' differs, '+' only on NODE, '-' missing on NODE, "
        "'!' could not be read, '=' same (only with --all). Lines that begin with '#' are no differences: totals, "
        "paths whose set-uid, set-gid or sticky bits are withheld, with --chunks the chunk indices that differ. "
        "Exit: 0 none, 1 some, "
        "2 could not ask, or nothing is known of how NODE is now."
    )
    parser.add_argument("volume", metavar="VOLUME")
    parser.add_argument("node", metavar="NODE")
    parser.add_argument(
        "--against",
        metavar="truth|NODE|BASELINE",
        default="truth",
        help="what to compare with (default: truth)",
    )
    parser.add_argument("--chunks", action="store_true", help="below each path: '# chunks 0-3,7'")
    parser.add_argument("--all", action="store_true", help="list the same paths too")
    asking(parser, "print one entry a line as JSON, unchanged")
    parser.set_defaults(run=diff)


def diff(args: argparse.Namespace, screen: Screen) -> int:
    api = open_api(args, screen)
    query = {"node": args.node, "against": args.against, "all": "true" if args.all else None}
    counts: Counter[str] = Counter()
    undetermined, stale = 0, dict[str, None]()
    try:
        for page in api.pages(f"/api/v1/volumes/{segment(args.volume)}/diff", query, DiffPage):
            undetermined = max(undetermined, page.undetermined or 0)
            stale.update(dict.fromkeys(page.stale))
            for raw in page.entries:
                entry = api.decode(bytes(raw), DiffEntry)
                counts[entry.change] += 1
                counts["bytes"] += entry.bytes or 0 if entry.change != "same" else 0
                _print_entry(screen, entry, raw, args)
    except Refused as error:
        screen.say(f"closeranks: {error}")
        return NOT_ASKED
    for name in stale:
        screen.say(
            f"closeranks: {name} can not be compared now (closeranks nodes {name} says why): this is what it "
            "reported last, and proves nothing about now"
        )
    if not args.json:
        screen.line(totals(counts, undetermined, args.node, args.against), FAINT)
    elif undetermined:
        screen.say(f"{undetermined} undetermined paths are left out")
    if any(counts[change] for change in counts if change not in ("same", "withheld", "bytes")):
        return FOUND
    return NOT_ASKED if stale else OK


def totals(counts: Counter[str], undetermined: int, node: str, against: str) -> str:
    """The last line."""
    text = (
        f"# {counts['modified']} differ, {counts['added']} only on {node}, {counts['missing']} missing on {node}, "
        f"{counts['unreadable']} could not be read; {counts['bytes']} bytes differ; against {against}"
    )
    if counts["withheld"]:
        text += (
            f"; {counts['withheld']} withheld, which count as equal: set-uid, set-gid and sticky bits are written only "
            "with special_bits = true"
        )
    if counts["same"]:
        text += f"; {counts['same']} same"
    if undetermined:
        text += f"; {undetermined} undetermined left out (no quorum holds one entry)"
    return text


def ranges(chunks: list[tuple[int, int]]) -> str:
    """Inclusive index ranges: `0-3,7`."""
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in chunks)


def _print_entry(screen: Screen, entry: DiffEntry, raw: msgspec.Raw, args: argparse.Namespace) -> None:
    if args.json:
        screen.raw_json(msgspec.json.format(bytes(raw), indent=-1) if b"\n" in bytes(raw) else bytes(raw))
        return
    if entry.change == "withheld":
        screen.line(f"# withheld {entry.path}", FAINT)
        return
    symbol = SYMBOLS.get(entry.change, "?")
    screen.line(f"{symbol} {entry.path}", _STYLES.get(entry.change, ""))
    if args.chunks and entry.chunks:
        screen.line(f"# chunks {ranges(entry.chunks)}", FAINT)
