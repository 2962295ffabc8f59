"""`closeranks quarantine`, `release` and `resync`: what an operator does by hand.

Each is accepted (202, an action's id) or refused with the guard's reason. `resync --wait` follows the
action to its end; a dry run always does, since its plan is the answer.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import msgspec

from closeranks_proto.errors import UserError

from ..core.shapes import ActionView, FleetView, NodeView
from .client import Api, NotAsked, Refused, segment
from .reasons import progress_text
from .screen import BAD, CARE, GOOD, Cell, Screen
from .session import FOUND, OK, asking, open_api
from .words import plural, size

POLL_S = 0.3
DRY_RUN_WAIT_S = 300.0
MISSED_POLLS_MAX = 10  # a coordinator that restarts while we wait
MAX_REASON = 500


class Accepted(msgspec.Struct):
    action: str


def add_quarantine(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Fence NODE by hand. It is never converged or released by itself afterwards. "
        "Exit: 0 accepted, 1 refused, 2 no such node, or could not ask."
    )
    parser.add_argument("node", metavar="NODE")
    parser.add_argument(
        "--reason",
        required=True,
        metavar="TEXT",
        help=f"why, for those who come after (at most {MAX_REASON} characters)",
    )
    asking(parser)
    parser.set_defaults(run=quarantine)


def add_release(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Release NODE from quarantine, which needs its root to be the truth's: resync first. "
        "Of a writer that waits for files which no node has any more it lets stand what NODE itself has there. "
        "Exit: 0 accepted, 1 refused, 2 no such node, or could not ask."
    )
    parser.add_argument("node", metavar="NODE")
    asking(parser)
    parser.set_defaults(run=release)


def add_resync(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Converge NODE to the truth: fetch only the chunks that differ, set aside what is replaced, verify. "
        "Returns when accepted. Exit: 0 accepted (with --wait: done), 1 refused or failed, "
        "2 no such name, or could not ask."
    )
    parser.add_argument("node", metavar="NODE")
    parser.add_argument(
        "volume", metavar="VOLUME", nargs="?", help="only this volume (default: all of the node's)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and change nothing")
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        nargs="?",
        const="",
        help="return when it is done or failed, or after SECONDS (--wait=SECONDS)",
    )
    asking(parser)
    parser.set_defaults(run=resync)


def quarantine(args: argparse.Namespace, screen: Screen) -> int:
    if not args.reason.strip() or len(args.reason) > MAX_REASON:
        raise UserError(f"--reason must have 1 to {MAX_REASON} characters, not {len(args.reason.strip())}")
    code = _order(
        args, screen, "quarantine", {"reason": args.reason}, f"look again with: closeranks nodes {args.node}"
    )
    if not args.json:
        _say_remarks(screen, open_api(args, screen), args.node)
    return code


def _say_remarks(screen: Screen, api: Api, node: str) -> None:
    """What the fence takes from the others, before anybody finds out by wiping the node."""
    try:
        fence = api.decode(api.get(f"/api/v1/nodes/{segment(node)}"), NodeView).quarantine
    except (NotAsked, Refused):
        return  # the order was accepted; `nodes` and `status` say it, too
    for remark in fence.remarks if fence is not None else ():
        screen.line(f"note: {remark}", CARE)


def release(args: argparse.Namespace, screen: Screen) -> int:
    return _order(args, screen, "release", {}, f"look again with: closeranks nodes {args.node}")


def resync(args: argparse.Namespace, screen: Screen) -> int:
    limit_s = _wait_limit(args.wait)
    body: dict[str, Any] = {"dry_run": True} if args.dry_run else {}
    if args.volume is not None:
        body["volume"] = args.volume
    if args.wait is None and not args.dry_run:
        return _order(args, screen, "resync", body, f"follow it with: closeranks nodes {args.node}")
    api = open_api(args, screen)
    accepted = api.decode(_post(api, args.node, "resync", body), Accepted)
    limit_s = DRY_RUN_WAIT_S if args.wait is None else limit_s
    progress = Progress(screen) if screen.live and not args.json else None
    try:
        view, answer = follow(api, accepted.action, limit_s, progress.show if progress else None)
    finally:
        if progress is not None:
            progress.clear()
    if args.json:
        screen.raw_json(answer)
    code = _report_end(screen, view, args.json)
    if view.state == "done" and not view.dry_run and not args.json:
        _say_undetermined(screen, api, view)
    return code


def _say_undetermined(screen: Screen, api: Api, view: ActionView) -> None:
    """A resync leaves alone what nobody can judge: without a word it would seem to be put right."""
    try:
        fleet = api.decode(api.get("/api/v1/fleet"), FleetView)
    except (NotAsked, Refused):
        return  # the action is done; `status` says it, too
    for volume in fleet.volumes:
        if volume.undetermined and view.node in volume.nodes and view.volume in (None, volume.name):
            screen.line(
                f"note: {plural(volume.undetermined, 'path')} of {volume.name} may still differ: nobody can tell which "
                "version is right, so a resync leaves them as they are. Look at: closeranks incidents --open",
                CARE,
            )


def _wait_limit(given: str | None) -> float | None:
    """None: without limit."""
    if not given:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise UserError(
            f"--wait={given}: not a number of seconds; write --wait=300, or --wait alone for no limit"
        )
    return seconds


def _post(api: Api, node: str, verb: str, body: dict[str, Any]) -> bytes:
    return api.send("POST", f"/api/v1/nodes/{segment(node)}/{verb}", body)


def _order(args: argparse.Namespace, screen: Screen, verb: str, body: dict[str, Any], then: str) -> int:
    api = open_api(args, screen)
    answer = _post(api, args.node, verb, body)
    accepted = api.decode(answer, Accepted)
    if args.json:
        screen.raw_json(answer)
    else:
        screen.line(f"{verb} of {args.node} accepted (action {accepted.action}); {then}")
    return OK


def follow(
    api: Api, action: str, limit_s: float | None, show: Callable[[ActionView, NodeView | None], None] | None
) -> tuple[ActionView, bytes]:
    """Ask for the action until it is done or failed, or the limit is reached; the last view and its bytes.

    A coordinator that is away for a moment is asked again. Raises NotAsked when it stays away.
    """
    end = None if limit_s is None else time.monotonic() + limit_s
    missed = 0
    while True:
        try:
            answer = api.get(f"/api/v1/actions/{segment(action)}")
            missed = 0
        except NotAsked:
            missed += 1
            if missed > MISSED_POLLS_MAX:
                raise
            time.sleep(POLL_S * missed)
            continue
        view = api.decode(answer, ActionView)
        over = end is not None and time.monotonic() >= end
        if view.state in ("done", "failed") or over:
            return view, answer
        if show is not None:
            show(view, _node_of(api, view))
        time.sleep(POLL_S if end is None else max(0.0, min(POLL_S, end - time.monotonic())))


def _node_of(api: Api, view: ActionView) -> NodeView | None:
    try:
        return api.decode(api.get(f"/api/v1/nodes/{segment(view.node)}"), NodeView)
    except (NotAsked, Refused):
        return None  # only the picture of progress lacks it; the action's own state decides


def _report_end(screen: Screen, view: ActionView, quiet: bool) -> int:
    what = f"{'dry run of ' if view.dry_run else ''}{view.kind} of {view.node}"
    if view.state == "failed":
        screen.say(
            f"closeranks: {what} failed: {view.error or 'no reason was given'}. Look at: closeranks nodes {view.node}"
        )
        return FOUND
    if view.state != "done":
        screen.say(
            f"closeranks: {what} is still {view.state}; it goes on. Look at: closeranks nodes {view.node}"
        )
        return FOUND
    if quiet:
        return OK
    if view.dry_run:
        print_plan(screen, view)
    else:
        screen.line(f"{what} done; {size(view.bytes_moved)} moved", GOOD)
    return OK


def print_plan(screen: Screen, view: ActionView) -> None:
    """The steps that a resync would take, in order."""
    steps = view.plan or ()
    if not steps and not view.plan_steps:
        screen.line(f"Nothing to do: {view.node} already holds the truth.", GOOD)
        return
    rows = []
    for step in steps:
        verb = str(step.get("verb", "?"))
        fetch = step.get("fetch_bytes")
        rows.append(
            [
                Cell(verb, BAD if verb == "remove" else ""),
                Cell(size(fetch) if isinstance(fetch, int) and fetch else "", right=True),
                Cell(str(step.get("path", "?"))),
                Cell(str(step.get("note", ""))),
            ]
        )
    screen.table(("STEP", "FETCH", "PATH", "NOTE"), rows)
    total = view.plan_steps if view.plan_steps is not None else len(steps)
    more = f", {total - len(steps)} more not shown" if total > len(steps) else ""
    screen.line(f"{plural(total, 'step')}{more}; {size(view.plan_bytes)} to fetch. Nothing was changed.")


class Progress:
    """One line on standard error that is written over, on terminals only."""

    WIDTH = 24

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._shown = False

    def show(self, view: ActionView, node: NodeView | None) -> None:
        text = f"{view.kind} {view.node}: {view.state}, {size(view.bytes_moved)} moved"
        for volume in node.volumes if node is not None else ():
            if volume.progress and view.volume in (None, volume.name):
                text = (
                    f"{view.node} {volume.name} {self._bar(volume.progress)} {progress_text(volume.progress)}"
                )
        self._screen.err.write("\r\x1b[K" + "".join(char for char in text if char.isprintable())[:110])
        self._screen.err.flush()
        self._shown = True

    def clear(self) -> None:
        if self._shown:
            self._screen.err.write("\r\x1b[K")
            self._screen.err.flush()

    def _bar(self, progress: dict[str, int | str]) -> str:
        moved, remaining = progress.get("bytes_moved"), progress.get("bytes_remaining")
        done, total = progress.get("steps_done"), progress.get("steps_total")
        share = 0.0
        if isinstance(moved, int) and isinstance(remaining, int) and moved + remaining > 0:
            share = moved / (moved + remaining)
        elif isinstance(done, int) and isinstance(total, int) and total > 0:
            share = done / total
        filled = min(self.WIDTH, int(share * self.WIDTH))
        return "[" + "#" * filled + "." * (self.WIDTH - filled) + "]"
