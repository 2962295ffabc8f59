"""`closeranks baseline …`: roots that an operator named as known good."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import msgspec

from ..core.shapes import BaselineView
from .client import Api, segment
from .screen import GOOD, Cell, Screen
from .session import OK, asking, now_ms, open_api
from .words import age, short_root, size

Order = Callable[[Api, argparse.Namespace], tuple[bytes, str]]


class BaselinePage(msgspec.Struct):
    items: list[BaselineView]
    next_cursor: str | None = None


def add_baseline(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Known-good states of a volume. Exit: 0 done, 1 refused, 2 no such name, or could not ask."
    )
    verbs = parser.add_subparsers(title="what to do", metavar="VERB", required=True)
    create = _verb(verbs, "create", "name a state as known good", create_baseline)
    create.add_argument("name", metavar="NAME")
    create.add_argument("--volume", required=True, metavar="V")
    create.add_argument("--node", metavar="NODE", help="what this node holds (default: the truth)")
    listing = _verb(verbs, "list", "the baselines", list_baselines)
    listing.add_argument("--volume", metavar="V", help="only this volume's")
    show = _verb(verbs, "show", "one baseline", show_baseline)
    show.add_argument("name", metavar="NAME")
    pin = _verb(verbs, "pin", "make a baseline the truth of a volume whose policy is baseline", pin_baseline)
    pin.add_argument("volume", metavar="VOLUME")
    pin.add_argument("name", metavar="NAME")
    unpin = _verb(verbs, "unpin", "take a volume's pin away", unpin_baseline)
    unpin.add_argument("volume", metavar="VOLUME")
    delete = _verb(verbs, "delete", "forget a baseline that is not pinned", delete_baseline)
    delete.add_argument("name", metavar="NAME")


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    run: Callable[[argparse.Namespace, Screen], int],
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False
    )
    asking(parser)
    parser.set_defaults(run=run)
    return parser


def create_baseline(args: argparse.Namespace, screen: Screen) -> int:
    api = open_api(args, screen)
    body = {"name": args.name, "volume": args.volume} | ({"node": args.node} if args.node is not None else {})
    answer = api.send("POST", "/api/v1/baselines", body)
    if args.json:
        screen.raw_json(answer)
        return OK
    view = api.decode(answer, BaselineView)
    screen.line(
        f"baseline {view.name} of {view.volume} created from {view.source}: {view.files} files, {size(view.bytes)}",
        GOOD,
    )
    screen.line(f"compare with it: closeranks diff {view.volume} NODE --against {view.name}")
    screen.line(
        f"where the volume's policy is baseline, make it the truth: closeranks baseline pin {view.volume} {view.name}"
    )
    return OK


def list_baselines(args: argparse.Namespace, screen: Screen) -> int:
    api = open_api(args, screen)
    query = {"volume": args.volume}
    if args.json:
        screen.raw_json(api.get("/api/v1/baselines", {**query, "limit": "1000"}))
        return OK
    found = list(_all_baselines(api, query))
    if not found and args.volume is not None:
        api.get(f"/api/v1/volumes/{segment(args.volume)}")  # one that nobody has is not one without baselines
    if not found:
        screen.line("No baselines. Create one with: closeranks baseline create NAME --volume VOLUME")
        return OK
    headers = ("NAME", "VOLUME", "PINNED", "FROM", "CREATED", "FILES", "SIZE", "ROOT")
    screen.table(headers, [_row(view, now_ms(api)) for view in found], ("ROOT", "FILES", "CREATED"))
    return OK


def show_baseline(args: argparse.Namespace, screen: Screen) -> int:
    api = open_api(args, screen)
    answer = api.get(f"/api/v1/baselines/{segment(args.name)}")
    if args.json:
        screen.raw_json(answer)
        return OK
    view = api.decode(answer, BaselineView)
    screen.line(f"{view.name}{'  PINNED' if view.pinned else ''}", GOOD if view.pinned else "")
    screen.line(f"  volume   {view.volume}")
    screen.line(f"  root     {view.root}")
    screen.line(f"  from     {view.source}, {age(view.created_at, now_ms(api))} ago ({view.created_at})")
    screen.line(f"  holds    {view.files} files, {size(view.bytes)}")
    return OK


def pin_baseline(args: argparse.Namespace, screen: Screen) -> int:
    return _pin(args, screen, args.name, f"{args.name} is the pinned baseline of {args.volume}")


def unpin_baseline(args: argparse.Namespace, screen: Screen) -> int:
    return _pin(
        args,
        screen,
        None,
        f"{args.volume} has no pinned baseline any more; under policy baseline it is undetermined",
    )


def _pin(args: argparse.Namespace, screen: Screen, name: str | None, said: str) -> int:
    api = open_api(args, screen)
    answer = api.send("POST", f"/api/v1/volumes/{segment(args.volume)}/pin", {"baseline": name})
    if args.json:
        screen.raw_json(answer)
    else:
        screen.line(said)
    return OK


def delete_baseline(args: argparse.Namespace, screen: Screen) -> int:
    api = open_api(args, screen)
    answer = api.send("DELETE", f"/api/v1/baselines/{segment(args.name)}")
    if not args.json:
        screen.line(f"baseline {args.name} deleted")
    elif answer.strip():
        screen.raw_json(answer)
    return OK


def _all_baselines(api: Api, query: dict[str, str | None]) -> Iterator[BaselineView]:
    for page in api.pages("/api/v1/baselines", query, BaselinePage):
        yield from page.items


def _row(view: BaselineView, now: int) -> list[Cell]:
    return [
        Cell(view.name),
        Cell(view.volume),
        Cell("pinned" if view.pinned else "", GOOD),
        Cell(view.source),
        Cell(f"{age(view.created_at, now)} ago", right=True),
        Cell(str(view.files), right=True),
        Cell(size(view.bytes), right=True),
        Cell(short_root(view.root)),
    ]
