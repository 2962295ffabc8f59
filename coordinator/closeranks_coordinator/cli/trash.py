"""`closeranks trash list|restore`: what converge set aside on a node, and how to have it back."""

from __future__ import annotations

import argparse
from typing import Any

import msgspec

from closeranks_proto.errors import UserError

from .client import segment
from .screen import GOOD, Cell, Screen
from .session import OK, asking, now_ms, open_api
from .words import NONE, age, plural, size


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
        "What converge set aside on a node. Exit: 0 done, 1 refused or failed, 2 could not ask."
    )
    verbs = parser.add_subparsers(title="what to do", metavar="VERB", required=True)
    listing = verbs.add_parser("list", help="what lies in a node's trash", allow_abbrev=False)
    listing.add_argument("node", metavar="NODE")
    listing.add_argument("volume", metavar="VOLUME", nargs="?", help="only this volume's")
    listing.add_argument("--incident", metavar="ID", help="only what this incident set aside")
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
    if not found:
        screen.line(f"Nothing in the trash of {args.node}.")
        return OK
    headers = ("ID", "VOLUME", "KIND", "SIZE", "TRASHED", "WHY", "INCIDENT", "PATH")
    screen.table(headers, [_row(entry, now_ms(api)) for entry in found], ("KIND", "INCIDENT", "TRASHED"))
    total = sum(entry.bytes for entry in found)
    screen.line(
        f"{plural(len(found), 'entry', 'entries')}, {size(total)}; "
        f"restore with: closeranks trash restore {args.node} VOLUME ID --to DIR"
    )
    return OK


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
