"""`closeranks speed`: how fast nodes may transfer, and faster or slower while they do."""

from __future__ import annotations

import argparse
import re
from typing import Any

from closeranks_proto.errors import UserError

from ..core.shapes import SpeedView
from ..core.speed import LEAST_BYTES_S, MOST_BYTES_S
from .client import Api, segment
from .screen import CARE, GOOD, Cell, Screen
from .session import OK, asking, open_api
from .words import size

_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kMGT]?)")
_TIMES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def add_speed(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "How fast nodes may transfer now and why; with an option, change it, also while a resync runs. What is said "
        "here stands until it is taken back with auto. Exit: 0 answered, 1 refused, 2 could not ask, or no such node."
    )
    parser.add_argument(
        "--node", metavar="NODE", help="only this node's (default: the sum of all that nodes fetch)"
    )
    change = parser.add_mutually_exclusive_group()
    change.add_argument(
        "--bytes-per-second",
        metavar="N|none|auto",
        help="a limit like 20M (k, M, G are powers of 1000), none for no limit, auto for what the configuration says",
    )
    change.add_argument("--faster", action="store_true", help="twice the limit that is in force")
    change.add_argument("--slower", action="store_true", help="half the limit that is in force")
    asking(parser)
    parser.set_defaults(run=speed)


def speed(args: argparse.Namespace, screen: Screen) -> int:
    body = _asked(args)
    api = open_api(args, screen)
    if args.faster or args.slower:
        body = _scaled(api, args)
    where = "/api/v1/speed"
    answer = api.get(where) if body is None else api.send("POST", where, body)
    if args.json:
        screen.raw_json(answer)
        return OK
    view = api.decode(answer, SpeedView)
    if args.node is not None and all(one["node"] != args.node for one in view.nodes):
        api.get(f"/api/v1/nodes/{segment(args.node)}")  # the coordinator says that there is none
    if body is not None:
        screen.line(_done(args.node, body), GOOD)
    _print(screen, view, args.node)
    return OK


def _asked(args: argparse.Namespace) -> dict[str, Any] | None:
    """The order that the flags spell; None for a question."""
    given = args.bytes_per_second
    if given is None:
        return None
    whose = {} if args.node is None else {"node": args.node}
    match given:
        case "none":
            return whose | {"unlimited": True}
        case "auto":
            return whose | {"bytes_s": None}
    return whose | {"bytes_s": parse_rate(given)}


def parse_rate(given: str) -> int:
    """Bytes per second as a person writes them. Raises UserError."""
    found = _NUMBER.fullmatch(given)
    if found is None:
        raise UserError(
            f"--bytes-per-second {given!r}: neither a number of bytes like 20000000 or 20M, nor none, nor auto"
        )
    wanted = round(float(found[1]) * _TIMES[found[2]])
    if not LEAST_BYTES_S <= wanted <= MOST_BYTES_S:
        raise UserError(
            f"--bytes-per-second {given}: allowed are {LEAST_BYTES_S} to {MOST_BYTES_S} bytes per second, none, or auto"
        )
    return wanted


def _scaled(api: Api, args: argparse.Namespace) -> dict[str, Any]:
    """Twice or half of what is in force now."""
    view = api.decode(api.get("/api/v1/speed"), SpeedView)
    whose: dict[str, Any] = {} if args.node is None else {"node": args.node}
    if args.node is None:
        now = view.fleet_bytes_s
    else:
        limits = [one["serve_bytes_s"] for one in view.nodes if one["node"] == args.node]
        if not limits:
            return whose | {"bytes_s": None}  # the coordinator says that there is no such node
        now = limits[0] if isinstance(limits[0], int) else None
    if now is None:
        raise UserError(
            "there is no limit that could be doubled or halved: give one with --bytes-per-second 20M"
        )
    return whose | {"bytes_s": now * 2 if args.faster else now // 2}


def _done(node: str | None, body: dict[str, Any]) -> str:
    whose = "the fleet" if node is None else node
    if body.get("unlimited"):
        return f"{whose}: no limit, until you say otherwise"
    if body["bytes_s"] is None:
        return f"{whose}: as the configuration says"
    undo = f"closeranks speed {'' if node is None else f'--node {node} '}--bytes-per-second auto"
    return f"{whose}: {size(body['bytes_s'])}/s, until you say otherwise ({undo})"


def _print(screen: Screen, view: SpeedView, node: str | None) -> None:
    screen.line(f"fleet  {_rate(view.fleet_bytes_s)}  ({view.why})")
    rows = [
        [
            Cell(str(one["node"])),
            Cell(_rate(one["receive_bytes_s"]), right=True),
            Cell(_rate(one["serve_bytes_s"]), right=True),
            Cell(str(one["why"]), CARE if one["receive_bytes_s"] is not None else ""),
        ]
        for one in view.nodes
        if node in (None, one["node"])
    ]
    screen.table(("NODE", "FETCHES AT MOST", "SERVES AT MOST", "WHY"), rows)


def _rate(limit: str | int | None) -> str:
    return f"{size(limit)}/s" if isinstance(limit, int) else "no limit"
