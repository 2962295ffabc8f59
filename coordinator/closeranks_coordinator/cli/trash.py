"""`closeranks trash list|restore`: what converge set aside on a node, and how to have it back."""

from __future__ import annotations

import argparse
from typing import Any

import msgspec

from closeranks_proto.errors import CloseranksError, UserError

from ..core.shapes import IncidentView
from .client import Api, segment
from .screen import FAINT, GOOD, Cell, Screen
from .session import FOUND, OK, asking, now_ms, open_api
from .words import NONE, age, plural, size

ENTRIES_SHOWN = 30  # more are counted by directory on a terminal
DIRECTORIES_SHOWN = 15
NEWEST_SHOWN = 5
# Of one request, each file of which is synced: seconds, also on a slow disk. The API takes RESTORE_MAX.
ENTRIES_AT_ONCE = 200
BYTES_AT_ONCE = 256 * 1024 * 1024
RESTORE_MAX = 1000


class TrashEntry(msgspec.Struct):
    id: str
    volume: str
    path: str
    kind: str
    bytes: int
    trashed_at: str | None
    incident: str | None
    why: str


class Restored(msgspec.Struct):
    items: list[msgspec.Raw]


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
    restore.add_argument("ids", metavar="ID", nargs="*", help="from `closeranks trash list`")
    restore.add_argument(
        "--path",
        metavar="PREFIX",
        help="all that lay at, in or below this path of the volume, beside any IDs",
    )
    restore.add_argument(
        "--incident", metavar="ID", help="all that this incident set aside (with --path: below that)"
    )
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
    shown = [one for one in found if _lay_under(one, args.under)]
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


def _lay_under(entry: TrashEntry, directory: str | None) -> bool:
    """At this path of the volume, or below it. None and "/": anywhere."""
    under = "" if directory is None else directory.strip("/")
    return not under or f"{entry.path}/".startswith(f"{under}/")


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
    if not args.ids and args.path is None and args.incident is None:
        raise UserError(
            "say what to restore: IDs from `closeranks trash list`, --path PREFIX or --incident ID"
        )
    api = open_api(args, screen)
    where = "where they were" if args.in_place else f"to {args.to}"
    items: list[msgspec.Raw] = []
    done, batches = 0, _batches(args.ids, _selected(api, args))
    if not batches:
        screen.say(f"Nothing of that lies in the trash of {args.node}: `closeranks trash list {args.node}`")
        return FOUND
    for ids in batches:
        body: dict[str, Any] = {"volume": args.volume, "ids": ids}
        body |= {"in_place": True} if args.in_place else {"to": args.to}
        try:
            answer = api.send("POST", f"/api/v1/nodes/{segment(args.node)}/trash/restore", body)
        except CloseranksError:
            if done:
                screen.say(
                    f"{plural(done, 'entry', 'entries')} had been restored {where} on {args.node} before this:"
                )
            raise
        done += len(ids)
        if args.json and len(batches) == 1:
            screen.raw_json(answer)
        elif args.json:
            items += api.decode(answer, Restored).items
    if not args.json:
        screen.line(f"{plural(done, 'entry', 'entries')} restored {where} on {args.node}", GOOD)
    elif len(batches) > 1:
        screen.raw_json(msgspec.json.encode({"node": args.node, "items": items}))
    return OK


def _selected(api: Api, args: argparse.Namespace) -> list[TrashEntry]:
    """What --path and --incident name, besides what is named by its ID; nothing without them."""
    if args.path is None and args.incident is None:
        return []
    query: dict[str, str | None] = {"volume": args.volume, "incident": args.incident}
    pages = api.pages(f"/api/v1/nodes/{segment(args.node)}/trash", query, TrashPage)
    return [
        one for page in pages for one in page.items if _lay_under(one, args.path) and one.id not in args.ids
    ]


def _batches(ids: list[str], selected: list[TrashEntry]) -> list[list[str]]:
    """What is asked for at once: as much as a node copies while it is waited for, and all versions of a path.

    By path and age: whoever asks again after an interruption asks for the same.
    """
    batches = [list(ids)] if ids else []
    batch: list[str] = []
    size_bytes, before = 0, None
    for entry in sorted(selected, key=lambda one: (one.path, *_newest(one))):
        has_room = batch and len(batch) < ENTRIES_AT_ONCE and size_bytes + entry.bytes <= BYTES_AT_ONCE
        if not has_room and not (entry.path == before and len(batch) < RESTORE_MAX):
            batch, size_bytes = [], 0
            batches.append(batch)
        batch.append(entry.id)
        size_bytes, before = size_bytes + entry.bytes, entry.path
    return batches


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
