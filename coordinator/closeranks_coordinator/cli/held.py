"""`closeranks held`, `allow` and `reject`: changes that a guard keeps back until a person decides."""

from __future__ import annotations

import argparse
from typing import Any

import msgspec

from closeranks_proto import programs
from closeranks_proto.errors import UserError
from closeranks_proto.parts import OUTSIDE_SOMEWHERE

from ..core.advice import got_through, trash_first
from ..core.shapes import HandView, HoldView
from .actions import Accepted
from .client import segment
from .reasons import room_there
from .screen import BAD, CARE, FAINT, GOOD, Cell, Screen
from .session import FOUND, OK, asking, now_ms, open_api
from .words import NONE, age, allowance, plural, size

ALLOW_MAX_S = 30 * 86400


class HoldPage(msgspec.Struct):
    items: list[HoldView]
    next_cursor: str | None = None


def add_held(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Changes that a guard holds: what is unusual, by whose hand, and what to type. "
        "Exit: 0 nothing is held, 1 something is, 2 could not ask."
    )
    parser.add_argument("--all", action="store_true", help="also what was allowed, rejected or is over")
    asking(parser, "print the API's answer unchanged (the first 1000, with next_cursor)")
    parser.set_defaults(run=held, refused=2)


def add_allow(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Let what ID holds through. Until the allowance ends the same guard does not hold this node there again, "
        "whatever it does; every other guard stays on. "
        "Exit: 0 accepted, 1 refused, 2 no such hold, or could not ask."
    )
    parser.add_argument("id", metavar="ID")
    parser.add_argument(
        "--for", dest="seconds", metavar="SECONDS",
        help="for so long the same guard lets the node go on (default: guards.allow_s of the volume)",
    )  # fmt: skip
    asking(parser)
    parser.set_defaults(run=allow)


def add_reject(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Bring the writer back: what was paused or frozen is let go, then the node is fenced, converged to the truth, "
        "verified and released. What it wrote goes to its trash. Stop what writes there first. "
        "Exit: 0 accepted, 1 refused, 2 no such hold, or could not ask."
    )
    parser.add_argument("id", metavar="ID")
    asking(parser)
    parser.set_defaults(run=reject)


def held(args: argparse.Namespace, screen: Screen) -> int:
    api = open_api(args, screen)
    query = {"state": None if args.all else "held"}
    if args.json:
        body = api.get("/api/v1/held", {**query, "limit": "1000"})
        screen.raw_json(body)
        found = api.decode(body, HoldPage).items
    else:
        found = [one for page in api.pages("/api/v1/held", query, HoldPage) for one in page.items]
        found = [one for one in found if args.all or one.state == "held"]
        if not args.all:
            allowed = api.pages("/api/v1/held", {"state": "allowed"}, HoldPage)
            found += [one for page in allowed for one in page.items if one.state == "allowed"]
        _print(screen, found, now_ms(api))
    return FOUND if any(one.state == "held" for one in found) else OK


def _print(screen: Screen, found: list[HoldView], now: int) -> None:
    if not found:
        screen.folded("Nothing is held.", GOOD)
        return
    if all(one.state == "allowed" for one in found):
        screen.folded("Nothing is held; a guard looks away:", CARE)
    screen.table(
        ("ID", "STATE", "FOR", "NODE", "VOLUME", "GUARD", "KEPT BACK", "SIZE", "INCIDENT"),
        [_row(one, now) for one in found],
        ("INCIDENT", "SIZE", "VOLUME"),
    )
    for one in found:
        if one.state == "allowed":
            screen.line()
            screen.folded(allowance(one), CARE)
        if one.state == "held":
            screen.line()
            screen.folded(f"{one.id}  {one.reason}", BAD)
            for hand in one.writers:
                if hand.exe or hand.command:
                    screen.folded(
                        f"  {_whether(hand)} {_who(hand)}: {plural(hand.files, 'file')}, {size(hand.bytes)}"
                    )
                elif hand.beyond:
                    screen.folded(f"  and   {plural(hand.files, 'more file')}: {hand.detail}")
            for reaction in one.reactions:
                screen.folded(f"  done  {reaction}")
            if one.ends_by_itself:
                screen.folded(
                    "  note  its cause is gone: it ends by itself in half a minute, unless it begins again",
                    GOOD,
                )
                continue
            if one.wants_room:
                screen.folded(f"  next  {room_there(one.node)}", CARE)
                continue
            screen.folded(
                f"  next  closeranks allow {one.id}    (it is wanted; for a while {one.guard} does not hold it again)"
            )
            screen.folded(f"  next  closeranks reject {one.id}   (bring {one.node} back to the truth)")
            if one.merged_changes:
                screen.folded(f"  note  {got_through(one.node, one.merged_changes)}", CARE)
            if one.guard == "disk_full":
                screen.folded(f"  first {trash_first(one.node)}", CARE)


def _who(hand: HandView) -> str:
    unit = f", unit {hand.unit}" if hand.unit else ""
    where = f", {OUTSIDE_SOMEWHERE}" if hand.outside else ""
    pid = f", pid {hand.pid}" if hand.pid else ""
    return f"{programs.words(hand.exe, hand.command)}{pid}{unit}{where}"


def _whether(hand: HandView) -> str:
    """Who wrote in no volume may have had no part in it."""
    return "maybe" if hand.outside else "by   "


def _row(one: HoldView, now: int) -> list[Cell]:
    return [
        Cell(one.id),
        Cell(one.state, BAD if one.state == "held" else FAINT),
        Cell(age(one.since, now), right=True),
        Cell(one.node),
        Cell(", ".join(one.volumes) or one.volume or NONE),
        Cell(one.guard),
        Cell(str(one.waiting_paths), right=True),
        Cell(size(one.waiting_bytes), right=True),
        Cell(one.incident or NONE),
    ]


def allow(args: argparse.Namespace, screen: Screen) -> int:
    body: dict[str, Any] = {}
    if args.seconds is not None:
        body["seconds"] = _seconds(args.seconds)
    return _order(args, screen, "allow", body, "see when it ends with: closeranks held")


def reject(args: argparse.Namespace, screen: Screen) -> int:
    return _order(args, screen, "reject", {}, "follow it with: closeranks status")


def _seconds(given: str) -> float:
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= ALLOW_MAX_S:
        raise UserError(f"--for {given}: not a number of seconds from 1 to {ALLOW_MAX_S}")
    return seconds


def _order(args: argparse.Namespace, screen: Screen, verb: str, body: dict[str, Any], then: str) -> int:
    api = open_api(args, screen)
    answer = api.send("POST", f"/api/v1/held/{segment(args.id)}/{verb}", body)
    accepted = api.decode(answer, Accepted)
    if args.json:
        screen.raw_json(answer)
    else:
        screen.folded(f"{verb} of {args.id} accepted (action {accepted.action}); {then}")
    return OK
