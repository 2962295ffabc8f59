"""`closeranks incidents` and `closeranks incident ID`: what happened, with its evidence."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ..core.shapes import IncidentView
from .client import Api, segment
from .screen import BAD, FAINT, STRONG, Cell, Screen
from .session import OK, asking, now_ms, open_api
from .status import IncidentPage
from .words import NONE, age


def add_incidents(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "The incidents, newest first as the coordinator lists them. Exit: 0 answered, 2 could not ask."
    )
    parser.add_argument("--open", action="store_true", help="only those that are open")
    parser.add_argument("--node", metavar="NODE", help="only this node's")
    asking(parser, "print the API's answer unchanged (the first 1000, with next_cursor)")
    parser.set_defaults(run=incidents, refused=2)


def add_incident(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "The report of one incident: timeline, evidence, writers, what was moved and trashed. "
        "Exit: 0 answered, 2 no such incident, or could not ask."
    )
    parser.add_argument("id", metavar="ID")
    parser.add_argument(
        "--format", choices=("md", "text", "html", "json"),
        help="of the report (default: text on a terminal, md elsewhere)",
    )  # fmt: skip
    asking(parser, "print the API's answer unchanged")
    parser.set_defaults(run=incident)


def incidents(args: argparse.Namespace, screen: Screen) -> int:
    api = open_api(args, screen)
    query = {"state": "open" if args.open else None, "node": args.node}
    if args.json:
        screen.raw_json(api.get("/api/v1/incidents", {**query, "limit": "1000"}))
        return OK
    found = list(_all_incidents(api, query))
    if not found and args.node is not None:
        api.get(f"/api/v1/nodes/{segment(args.node)}")  # a node that nobody has is not one without incidents
    if not found:
        screen.line("No incidents." if not args.open and args.node is None else "No such incidents.")
        return OK
    screen.table(
        ("ID", "STATE", "KIND", "NODE", "VOLUME", "OPENED", "PATHS", "SUMMARY"),
        [_row(view, now_ms(api)) for view in found],
        ("PATHS", "OPENED"),
    )
    return OK


def incident(args: argparse.Namespace, screen: Screen) -> int:
    api = open_api(args, screen)
    where = f"/api/v1/incidents/{segment(args.id)}"
    if args.json:
        screen.raw_json(api.get(where))
        return OK
    form = args.format or ("text" if screen.terminal else "md")
    body = api.get(f"{where}/report", {"format": form})
    if form == "json":
        screen.raw_json(body)
    elif form == "text":
        for line in body.decode("utf-8", "replace").splitlines():
            screen.folded(line, STRONG if line.isupper() else "")
    else:
        screen.lines(body.decode("utf-8", "replace"))
    return OK


def _all_incidents(api: Api, query: dict[str, str | None]) -> Iterator[IncidentView]:
    for page in api.pages("/api/v1/incidents", query, IncidentPage):
        yield from page.items


def _row(view: IncidentView, now: int) -> list[Cell]:
    is_open = view.state == "open"
    return [
        Cell(view.id),
        Cell(view.state, BAD if is_open else FAINT),
        Cell(view.kind),
        Cell(view.node or NONE),
        Cell(view.volume or NONE),
        Cell(f"{age(view.opened_at, now)} ago", right=True),
        Cell(str(view.path_count), right=True),
        Cell(view.summary),
    ]
