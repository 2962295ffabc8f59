"""`closeranks scrub`: how far contents are read again; now, faster, slower, paused."""

from __future__ import annotations

import argparse
from typing import Any

from closeranks_proto.errors import UserError

from ..core.shapes import NodeVolumeView, ScrubNodeView, ScrubView, ScrubVolumeView
from ..core.speed import LEAST_BYTES_S, MOST_BYTES_S
from .client import Api, segment
from .screen import BAD, CARE, GOOD, Cell, Screen
from .session import OK, asking, now_ms, open_api
from .speed import parse_rate
from .words import NONE, age, plural, size

AMISS = ("decayed", "slipped")


def add_scrub(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Agents read every content again on a throttled tour, for what no stat tells. This shows how far they are, or "
        "changes it at once, also in the middle of a tour. What is said stands until the next word, over restarts too. "
        "Exit: 0 answered, 1 refused, 2 could not ask, or no such node."
    )
    parser.add_argument("node", nargs="?", metavar="NODE", help="only this node (default: all)")
    change = parser.add_mutually_exclusive_group()
    change.add_argument(
        "--now", action="store_true", help="begin a tour, or go on with the one under way; also ends a pause"
    )
    change.add_argument("--pause", action="store_true", help="read nothing until --resume or --now")
    change.add_argument("--resume", action="store_true", help="go on, and begin tours when they are due")
    change.add_argument(
        "--bytes-per-second",
        metavar="N|none|auto",
        help="a limit like 20M (k, M, G are powers of 1000), none for no limit, auto for what the configuration says; "
        "files per second follow in proportion",
    )
    change.add_argument("--faster", action="store_true", help="twice the limit that is in force")
    change.add_argument("--slower", action="store_true", help="half the limit that is in force")
    asking(parser)
    parser.set_defaults(run=scrub)


def scrub(args: argparse.Namespace, screen: Screen) -> int:
    body = _asked(args)
    api = open_api(args, screen)
    where = "/api/v1/scrub"
    if args.faster or args.slower:
        body = {"bytes_s": _scaled(api.decode(api.get(where), ScrubView), args)}
    if body is not None and args.node is not None:
        body["node"] = args.node
    answer = api.get(where) if body is None else api.send("POST", where, body)
    if args.json:
        screen.raw_json(answer)
        return OK
    view = api.decode(answer, ScrubView)
    if args.node is not None and all(one.node != args.node for one in view.nodes):
        api.get(f"/api/v1/nodes/{segment(args.node)}")  # the coordinator says that there is none
    if body is not None:
        screen.line(f"{args.node or 'all nodes'}: {_done(body, args.node)}", GOOD)
        screen.line("what the nodes told last, before that:", CARE)
    _print(screen, api, [one for one in view.nodes if args.node in (None, one.node)])
    return OK


def _asked(args: argparse.Namespace) -> dict[str, Any] | None:
    """The order that the flags spell; None for a question, or where the present limit must be known first."""
    if args.now:
        return {"now": True}
    if args.pause or args.resume:
        return {"paused": bool(args.pause)}
    match args.bytes_per_second:
        case None:
            return None
        case "none":
            return {"unlimited": True}
        case "auto":
            return {"auto": True}
    return {"bytes_s": parse_rate(args.bytes_per_second)}


def _scaled(view: ScrubView, args: argparse.Namespace) -> int:
    """Twice or half of the highest limit in force; 0 where nothing is limited."""
    known = [
        one.bytes_s
        for node in view.nodes
        if args.node in (None, node.node)
        for one in node.volumes.values()
        if one is not None
    ]
    limits = [limit for limit in known if limit is not None]
    if not limits or len(limits) < len(known):
        why = "there is no limit" if known else "no node has told its limit yet"
        raise UserError(f"{why} that could be doubled or halved: give one with --bytes-per-second 20M")
    wanted = max(limits) * 2 if args.faster else max(limits) // 2
    return max(LEAST_BYTES_S, min(MOST_BYTES_S, wanted))


def _done(body: dict[str, Any], node: str | None) -> str:
    if body.get("now"):
        return "a tour begins, or goes on"
    if "paused" in body:
        return (
            "paused, until you say --resume" if body["paused"] else "tours go on, and begin when they are due"
        )
    if body.get("unlimited"):
        return "no limit, until you say otherwise"
    if body.get("auto"):
        return "as the configuration says"
    undo = f"closeranks scrub {'' if node is None else f'{node} '}--bytes-per-second auto"
    return f"{size(body['bytes_s'])}/s, until you say otherwise ({undo})"


def _print(screen: Screen, api: Api, nodes: list[ScrubNodeView]) -> None:
    now = now_ms(api)
    rows = [_row(node, name, one, now) for node in nodes for name, one in node.volumes.items()]
    screen.table(
        ("NODE", "VOLUME", "STATE", "READ AGAIN", "OLDEST UNVERIFIED", "DEBT", "AT MOST", "DECAYED"), rows
    )


def _row(node: ScrubNodeView, name: str, one: ScrubVolumeView | None, now: int) -> list[Cell]:
    state: str = "unknown" if one is None else one.state
    if not node.connected:
        state = "not connected"
    elif node.paused:
        state = "paused"
    who = [Cell(node.node), Cell(name), Cell(state, CARE if state in ("paused", "not connected") else "")]
    if one is None:
        return who + [Cell(NONE, right=True)] * 5
    return [
        *who,
        Cell(_progress(one), right=True),
        Cell(age(one.oldest_unverified, now), right=True),
        Cell(size(one.debt_bytes), CARE if one.debt_bytes else "", right=True),
        Cell(_limit(one), right=True),
        Cell(str(one.decayed), BAD if one.decayed else "", right=True),
    ]


def _progress(one: ScrubVolumeView) -> str:
    if one.started is None:
        return NONE
    return f"{size(one.bytes)} of {size(one.bytes_total)}"


def _limit(one: ScrubVolumeView) -> str:
    slowed = " (slowed)" if one.slowed else ""
    return ("no limit" if one.bytes_s is None else f"{size(one.bytes_s)}/s") + slowed


def print_scrub(screen: Screen, volume: NodeVolumeView, now: int) -> None:
    """For all that is known of a node."""
    one = volume.scrub
    if one is None:
        return
    oldest = f"no content was last verified more than {age(one.oldest_unverified, now)} ago"
    told: str = one.state
    if one.started is not None:
        told += (
            f", {size(one.bytes)} of {size(one.bytes_total)} and {one.files} of {one.files_total} files read again, "
            f"at most {_limit(one)}"
        )
    screen.line(f"  scrub      {told}; {oldest}")
    if one.debt_bytes:
        screen.line(f"             {size(one.debt_bytes)} behind its interval", CARE)
    for path in volume.unreadable_paths:
        if path.get("why") in AMISS:
            screen.line(f"             {path.get('path', '?')}: {path['why']}: {path.get('detail', '')}", BAD)
    if one.decayed:
        screen.line(
            f"             {plural(one.decayed, 'file')} decayed on this disk so far: look at its health", BAD
        )
