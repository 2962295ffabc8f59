"""`closeranks nodes`: one line a node, or all that is known of one."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import msgspec

from closeranks_proto import programs
from closeranks_proto.parts import OUTSIDE, is_outside

from ..core.shapes import HandView, NodeView, NodeVolumeView
from ..core.words import join
from .client import Api, segment
from .reasons import is_going_on, next_steps, out_of_service, progress_text
from .screen import BAD, CARE, FAINT, Cell, Screen
from .scrub import print_scrub
from .session import OK, asking, now_ms, open_api
from .status import STATE_STYLES
from .words import NONE, age, count, lag, plural, short_root, size

WRITERS_SHOWN = 5
OUTSIDERS_SHOWN = 2  # writers beside the volumes: only a disk that fills concerns them
AWAY_NAMED = 20


class NodePage(msgspec.Struct):
    items: list[NodeView]
    next_cursor: str | None = None


def add_nodes(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "One line a node, or all that is known of one. Exit: 0 answered, 2 no such node, or could not ask."
    )
    parser.add_argument("node", nargs="?", metavar="NODE", help="show everything about this node")
    asking(parser, "print the API's answer unchanged (the first 1000 nodes, with next_cursor)")
    parser.set_defaults(run=nodes)


def nodes(args: argparse.Namespace, screen: Screen) -> int:
    api = open_api(args, screen)
    if args.node is not None:
        body = api.get(f"/api/v1/nodes/{segment(args.node)}")
        if args.json:
            screen.raw_json(body)
        else:
            view = api.decode(body, NodeView)
            _print_node(screen, view, now_ms(api))
    elif args.json:
        screen.raw_json(api.get("/api/v1/nodes", {"limit": "1000"}))
    else:
        every = list(_all_nodes(api))
        rows = [_row(node, now_ms(api)) for node in every]
        headers = (
            "NODE",
            "STATE",
            "FOR",
            "DIFFER",
            "BYTES",
            "LAG",
            "FILES",
            "CONTACT",
            "ROOT",
            "ADDRESS",
        )
        screen.table(headers, rows, ("ADDRESS", "ROOT", "FILES", "FOR"))
        away = [node.node for node in every if not node.in_service]
        if away:
            screen.line()
            screen.folded(f"{join(away, AWAY_NAMED)}  {out_of_service(away)}", CARE)
    return OK


def _all_nodes(api: Api) -> Iterator[NodeView]:
    for page in api.pages("/api/v1/nodes", {}, NodePage):
        yield from page.items


def _sum(values: list[int | None]) -> int | None:
    """None as soon as one is not known: an unknown is not a zero."""
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _row(node: NodeView, now: int) -> list[Cell]:
    volumes = node.volumes
    differing = _sum([volume.differing_paths for volume in volumes])
    lags = [volume.lag_s for volume in volumes if volume.lag_s is not None]
    at_least = any(volume.lag_at_least for volume in volumes)
    root = short_root(volumes[0].root) if len(volumes) == 1 else f"({plural(len(volumes), 'volume')})"
    return [
        Cell(node.node),
        Cell(node.state, STATE_STYLES.get(node.state, "")),
        Cell(age(node.since, now), right=True),
        Cell(count(differing), BAD if differing else "", right=True),
        Cell(size(_sum([volume.differing_bytes for volume in volumes])), right=True),
        Cell(lag(max(lags, default=None), at_least), right=True),
        Cell(count(_sum([volume.files for volume in volumes])), right=True),
        Cell(
            "now" if node.connected else age(node.last_contact, now),
            "" if node.connected else BAD,
            right=True,
        ),
        Cell(root),
        Cell(node.address or NONE),
    ]


def _print_node(screen: Screen, node: NodeView, now: int) -> None:
    since = f" for {age(node.since, now)}" if node.since else ""
    screen.folded(f"{node.node}  {node.state.upper()}{since}", STATE_STYLES.get(node.state, ""))
    contact = (
        "connected"
        if node.connected
        else f"last heard {age(node.last_contact, now)} ago"
        if node.last_contact
        else "never"
    )
    screen.folded(f"  contact    {contact}")
    screen.folded(f"  address    {node.address or NONE}")
    if not node.in_service:
        screen.folded(f"  serves     no, {out_of_service([node.node])}", CARE)
    if node.blocked_by is not None:
        screen.folded(f"  blocked by {node.blocked_by}", CARE)
    if node.waiting is not None:
        screen.folded(f"  waits for  {node.waiting}", CARE)
    if node.quarantine is not None:
        fence = node.quarantine
        how = "by hand" if fence.by_hand else "by the judge"
        held = (
            "the node holds its fence"
            if fence.acknowledged
            else "the node has not confirmed its fence yet; its peers refuse it all the same"
        )
        screen.folded(
            f"  fenced     {how}, {age(fence.since, now)} ago, token {fence.fence_token}: {fence.reason}", BAD
        )
        screen.folded(
            f"             {held}; release {'by itself' if fence.release == 'automatic' else 'by hand'}"
        )
        screen.folded(
            f"             incident {fence.incident or NONE}, {'verified' if fence.verified else 'not verified'}"
        )
        for remark in fence.remarks:
            screen.folded(f"  note       {remark}", CARE)
    for volume in node.volumes:
        screen.line()
        _print_volume(screen, volume, now)
    for disk in node.disk:
        share = (
            f" ({100 * disk.free_bytes // disk.total_bytes}% of {size(disk.total_bytes)})"
            if disk.total_bytes
            else ""
        )
        trash = f"; {size(disk.trash_bytes)} of the disk are trash" if disk.trash_bytes else ""
        screen.folded(f"  disk       {disk.volume}: {size(disk.free_bytes)} free{share}{trash}")
    for care in node.cares:
        screen.folded(f"  note       {care.text}", CARE)
        screen.folded(f"  next       {care.next}")
    _print_writers(screen, node, now)
    for step in [] if node.state == "in_rank" else next_steps(node, []):
        screen.folded(f"  next       {step}")


def _print_writers(screen: Screen, node: NodeView, now: int) -> None:
    """Who wrote most in the last hour: by bytes, by files where that is another order, then who wrote elsewhere."""
    if not node.writers:
        return
    by_bytes = sorted(node.writers, key=lambda one: (-one.bytes, -one.files))
    inside = [one for one in by_bytes if not is_outside(one.detail)]
    outside = [one for one in by_bytes if is_outside(one.detail)]
    by_files = sorted((one for one in inside if one.files), key=lambda one: (-one.files, -one.bytes))
    screen.line()
    if inside:
        screen.folded("written in the last hour, most bytes first")
    for hand in inside[:WRITERS_SHOWN]:
        _print_hand(screen, hand, now)
    if by_files and by_files[:WRITERS_SHOWN] != inside[:WRITERS_SHOWN]:
        screen.folded("written in the last hour, most files first")
        for hand in by_files[:WRITERS_SHOWN]:
            screen.folded(f"  {plural(hand.files, 'file'):>14}  {_hand_name(hand)}")
    if outside:
        screen.folded("written in the last hour beside the volumes, most bytes first")
    for hand in outside[:OUTSIDERS_SHOWN]:
        _print_hand(screen, hand, now)
    left = len(inside[WRITERS_SHOWN:]) + len(outside[OUTSIDERS_SHOWN:])
    if left:
        screen.folded(f"  and {left} more: closeranks nodes {node.node} --json")


def _print_hand(screen: Screen, hand: HandView, now: int) -> None:
    files, seen = plural(hand.files, "file"), age(hand.last_seen, now)
    screen.folded(f"  {size(hand.bytes):>14}  {_hand_name(hand)}, {files}, last {seen} ago")
    if hand.command:
        screen.folded(f"  {'':>14}  {hand.command}", FAINT)
    if hand.parents:
        screen.folded(f"  {'':>14}  started by {', '.join(hand.parents)}", FAINT)


def _hand_name(hand: HandView) -> str:
    if not hand.pid:
        return f"unknown: {hand.detail or 'the node did not tell'}"
    runs = programs.inside(hand.exe, hand.command)
    runs = f"{runs}, " if runs else ""
    unit = f", unit {hand.unit}" if hand.unit else ""
    uid = f", uid {hand.uid}" if hand.uid is not None else ""
    login = f", login uid {hand.login_uid}" if hand.login_uid is not None else ""
    where = f", {OUTSIDE}" if hand.outside else ""
    return f"{hand.exe or hand.command or 'a process'} ({runs}pid {hand.pid}{unit}{uid}{login}){where}"


def _print_volume(screen: Screen, volume: NodeVolumeView, now: int) -> None:
    screen.folded(f"volume {volume.name}")
    screen.folded(f"  root       {volume.root or NONE}")
    screen.folded(f"  holds      {count(volume.files)} files, {size(volume.bytes)}")
    paths = NONE if volume.differing_paths is None else plural(volume.differing_paths, "path")
    differing = f"{paths} ({size(volume.differing_bytes)})"
    differing += f", {count(volume.unconfirmed_paths)} unconfirmed"
    screen.folded(f"  differs    {differing}", BAD if volume.differing_paths else "")
    if volume.lagging_paths:
        behind = ("at least " if volume.lag_at_least and volume.lag_s else "") + lag(volume.lag_s, False)
        screen.folded(f"  lags       {behind}, {plural(volume.lagging_paths, 'path')}", CARE)
    screen.folded(
        f"  last scan  {age(volume.last_full_scan, now) + ' ago' if volume.last_full_scan else 'none yet'}"
    )
    print_scrub(screen, volume, now)
    if volume.watch:
        detail = f": {volume.watch_detail}" if volume.watch_detail else ""
        screen.folded(f"  watched    {volume.watch}{detail}", CARE if volume.watch == "rescan" else "")
    if volume.watch_dropped:
        screen.folded(
            f"  lost       events {plural(volume.watch_dropped, 'time')}; each was answered by a scan", CARE
        )
    if volume.hard_links:
        screen.folded(f"  hard links {plural(volume.hard_links, 'name')}, each a file of its own here")
    if is_going_on(volume) and volume.progress:
        screen.folded(f"  progress   {progress_text(volume.progress)}")
    if volume.problem is not None:
        problem = volume.problem
        room = ""
        if problem.needed_bytes is not None and problem.free_bytes is not None:
            room = f" (needs {size(problem.needed_bytes)}, {size(problem.free_bytes)} free)"
        screen.folded(f"  problem    {problem.code}: {problem.message}{room}", BAD)
    if volume.withheld:
        screen.folded(
            f"  withheld   {plural(volume.withheld, 'path')} whose set-uid, set-gid or sticky bits are not written",
            CARE,
        )
    if volume.unreadable:
        screen.folded(f"  left out   {plural(volume.unreadable, 'path')} that could not be compared", CARE)
        for path in volume.unreadable_paths:
            detail = f" ({path['detail']})" if path.get("detail") else ""
            screen.folded(f"             {path.get('path', '?')}: {path.get('why', '?')}{detail}")
        if volume.unreadable > len(volume.unreadable_paths):
            screen.folded(f"             and {volume.unreadable - len(volume.unreadable_paths)} more")
