"""`closeranks trash list|restore`: what converge set aside on a node, and how to have it back."""

from __future__ import annotations

import argparse
from typing import Any

import msgspec

from closeranks_proto.errors import UserError

from ..core.shapes import IncidentView
from .client import Api, segment
from .screen import FAINT, GOOD, Cell, Screen
from .session import OK, asking, now_ms, open_api
from .words import NONE, age, plural, size

ENTRIES_SHOWN = 30  # more are counted by directory on a terminal
DIRECTORIES_SHOWN = 15
NEWEST_SHOWN = 5


class TrashEntry(msgspec.Struct):
    id: str
    volume: str
    path: str
    kind: str
    bytes: int
    trashed_at: str | None
    incident: str | None
    why: str


class TrashPage(msgspec.Struct):
    items: list[TrashEntry]
    next_cursor: str | None = None


def add_trash(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "What converge set aside on a node. "
        "Exit: 0 done, 1 refused or failed, 2 no such name, or could not ask."
    )
    verbs = parser.add_subparsers(title="what to do", metavar="VERB", required=True)
    listing = verbs.add_parser("list", help="what lies in a node's trash", allow_abbrev=False)
    listing.add_argument("node", metavar="NODE")
    listing.add_argument("volume", metavar="VOLUME", nargs="?", help="only this volume's")
    listing.add_argument("--incident", metavar="ID", help="only what this incident set aside")
    listing.add_argument(
        "--under", metavar="DIR", help="only what lay in or below this directory of the volume"
    )
    listing.add_argument(
        "--all",
        action="store_true",
        help="on a terminal, too, each entry where there are many, not counts by directory",
    )
    asking(listing, "print the API's answer unchanged (the first 1000, with next_cursor)")
    listing.set_defaults(run=list_trash)
    restore = verbs.add_parser("restore", help="bring entries back", allow_abbrev=False)
    restore.add_argument("node", metavar="NODE")
    restore.add_argument("volume", metavar="VOLUME")
    restore.add_argument("ids", metavar="ID", nargs="+", help="from `closeranks trash list`")
    target = restore.add_mutually_exclusive_group(required=True)
    target.add_argument(
        "--to",
        metavar="DIR",
        help="a directory on that node outside every volume; created, never overwritten",
    )
    target.add_argument(
        "--in-place", action="store_true", help="where they were; only while NODE is quarantined by hand"
    )
    asking(restore)
    restore.set_defaults(run=restore_trash)


def list_trash(args: argparse.Namespace, screen: Screen) -> int:
    api = open_api(args, screen)
    where = f"/api/v1/nodes/{segment(args.node)}/trash"
    query: dict[str, str | None] = {"volume": args.volume, "incident": args.incident}
    if args.json:
        screen.raw_json(api.get(where, {**query, "limit": "1000"}))
        return OK
    found = [entry for page in api.pages(where, query, TrashPage) for entry in page.items]
    under = None if args.under is None else args.under.strip("/") + "/"
    shown = [one for one in found if under is None or under == "/" or f"{one.path}/".startswith(under)]
    if not shown:
        why = f"Nothing of {args.under} in the trash of {args.node}." if found else ""
        screen.line(why or _why_empty(api, args.node, args.volume, args.incident))
        return OK
    summed = screen.terminal and not args.all and len(shown) > ENTRIES_SHOWN
    if summed:
        _print_directories(screen, shown, now_ms(api))
    headers = ("ID", "VOLUME", "KIND", "SIZE", "TRASHED", "WHY", "INCIDENT", "PATH")
    rows = sorted(shown, key=_newest)[-NEWEST_SHOWN:] if summed else shown
    screen.table(headers, [_row(entry, now_ms(api)) for entry in rows], ("KIND", "INCIDENT", "TRASHED"))
    total = plural(len(shown), "entry", "entries")
    screen.line(
        f"{total}, {size(sum(entry.bytes for entry in shown))}; "
        f"restore with: closeranks trash restore {args.node} VOLUME ID --to DIR"
    )
    if summed:
        again = " ".join(["closeranks trash list", args.node, *([args.volume] if args.volume else [])])
        screen.line(f"each of them: {again} --all   (or --under DIR: those of one directory)", FAINT)
    return OK


def _print_directories(screen: Screen, entries: list[TrashEntry], now: int) -> None:
    """Where they lay, the directories with most of them first; behind it come the newest entries."""
    found: dict[tuple[str, str], list[TrashEntry]] = {}
    for entry in entries:
        found.setdefault((entry.volume, entry.path.rpartition("/")[0]), []).append(entry)
    most = sorted(found.items(), key=lambda one: (-len(one[1]), one[0]))
    rows = [
        [
            Cell(volume),
            Cell(str(len(of_it)), right=True),
            Cell(size(sum(entry.bytes for entry in of_it)), right=True),
            Cell(f"{age(max(of_it, key=_newest).trashed_at, now)} ago", right=True),
            Cell(f"{directory}/" if directory else "(the volume itself)"),
        ]
        for (volume, directory), of_it in most[:DIRECTORIES_SHOWN]
    ]
    screen.table(("VOLUME", "ENTRIES", "SIZE", "NEWEST", "DIRECTORY"), rows, ("SIZE",))
    if len(most) > DIRECTORIES_SHOWN:
        left = sum(len(of_it) for _, of_it in most[DIRECTORIES_SHOWN:])
        screen.line(f"and {left} more in {plural(len(most) - DIRECTORIES_SHOWN, 'directory', 'directories')}")
    screen.line()
    screen.line(f"the newest {NEWEST_SHOWN}:")


def _newest(entry: TrashEntry) -> tuple[str, str]:
    return entry.trashed_at or "", entry.id


def _why_empty(api: Api, node: str, volume: str | None, incident: str | None) -> str:
    """What it means that nothing was found. Raises Refused for an incident that nobody has."""
    of_volume = "" if volume is None else f" of {volume}"
    if incident is None:
        return f"Nothing{of_volume} in the trash of {node}."
    told = api.decode(api.get(f"/api/v1/incidents/{segment(incident)}"), IncidentView)
    if told.node is None:
        return f"Incident {incident} is about no single node ({told.kind}): nothing was set aside for it."
    if told.node != node:
        return (
            f"Nothing of incident {incident} in the trash of {node}: it is about {told.node}, and what was set aside "
            f"lies there: closeranks trash list {told.node} --incident {incident}"
        )
    if volume is not None and told.volume not in (None, volume):
        return f"Incident {incident} is about volume {told.volume}, not {volume}: leave {volume} out."
    if not told.files_trashed:
        return f"Incident {incident} set nothing aside on {node}."
    items = plural(told.files_trashed, "item")
    return (
        f"Incident {incident} set {items} aside on {node}, and nothing of it is in the trash any more: it was "
        "restored, or given up after trash_keep_s or for want of room."
    )


def restore_trash(args: argparse.Namespace, screen: Screen) -> int:
    if args.to is not None and not args.to.startswith("/"):
        raise UserError(
            f"--to {args.to!r}: not an absolute path; it names a directory on {args.node}, not here"
        )
    api = open_api(args, screen)
    body: dict[str, Any] = {"volume": args.volume, "ids": args.ids}
    body |= {"in_place": True} if args.in_place else {"to": args.to}
    answer = api.send("POST", f"/api/v1/nodes/{segment(args.node)}/trash/restore", body)
    if args.json:
        screen.raw_json(answer)
    else:
        where = "where they were" if args.in_place else f"to {args.to}"
        screen.line(f"{plural(len(args.ids), 'entry', 'entries')} restored {where} on {args.node}", GOOD)
    return OK


def _row(entry: TrashEntry, now: int) -> list[Cell]:
    return [
        Cell(entry.id),
        Cell(entry.volume),
        Cell(entry.kind),
        Cell(size(entry.bytes), right=True),
        Cell(f"{age(entry.trashed_at, now)} ago", right=True),
        Cell(entry.why),
        Cell(entry.incident or NONE),
        Cell(entry.path),
    ]
