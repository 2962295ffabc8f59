"""The verdict: nothing that closeranks says counts here unless something else confirms it."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

from demo.acts import Outcome, Play, Unexpected, named_paths
from demo.screen import Screen, amount
from demo.stage import VOLUME
from fleet import compare_trees
from fleet.compare import walk

SLACK_BYTES = 64 * 1024


def check_blame(play: Play) -> None:
    """The rogue's node, all of its paths, nobody else."""
    outcome, rogue = play.outcome, play.rogue
    if rogue is None:
        raise Unexpected("a rogue", "none was started")
    accused = play.fleet.accused()
    if accused != {outcome.node}:
        raise Unexpected(f"only {outcome.node} accused", f"accused: {sorted(accused)}")
    missed = {os.fsencode(path) for path in rogue.paths()} - named_paths(outcome.incident)
    if missed:
        names = ", ".join(os.fsdecode(path) for path in sorted(missed)[:5])
        raise Unexpected(
            "every path that the rogue touched named", f"{len(missed)} were not, such as {names}"
        )
    if outcome.lb_while_fenced != 503:
        raise Unexpected("/lb answers 503 while the node is fenced", f"{outcome.lb_while_fenced}")


def check_trees(play: Play, screen: Screen) -> None:
    """Sixteen trees against the pristine one, byte by byte, by our own code."""
    started = time.monotonic()
    trees = {name: str(node.path(VOLUME)) for name, node in play.fleet.nodes.items()}
    found = compare_trees(str(play.fleet.pristine(VOLUME)), trees)
    wrong = {name: differences for name, differences in found.items() if differences}
    if wrong:
        name, differences = next(iter(wrong.items()))
        raise Unexpected(
            "all sixteen trees equal to the pristine one",
            f"{len(wrong)} differ; {name} in {len(differences)} paths, such as {differences[0]}",
        )
    screen.plain(
        f"independent comparison: all {len(trees)} trees equal the pristine copy, every byte read "
        f"(sha256, {time.monotonic() - started:.1f} s)"
    )


def check_nothing_lost(play: Play) -> None:
    """What the rogue added and altered is in the node's trash, not gone."""
    trash = play.fleet.nodes[play.outcome.node].path(VOLUME) / ".closeranks" / "trash"
    kept = sum(1 for _, status, _ in walk(trash) if not stat.S_ISDIR(status.st_mode)) if trash.exists() else 0
    touched = [d for d in play.rogue.deeds() if d["deed"] in ("add", "alter")] if play.rogue else []
    if kept < len(touched):
        raise Unexpected(f"the rogue's {len(touched)} files kept in the trash", f"{kept} things are there")


def check_bytes(play: Play) -> tuple[int, int]:
    """Bytes moved and bytes that had to be; the bound on their relation."""
    if play.rogue is None:
        raise Unexpected("a rogue", "none was started")
    needed = play.rogue.damaged_bytes(play.fleet.pristine(VOLUME))
    moved = int(play.outcome.incident["bytes_moved"])
    limit = int(1.1 * needed) + SLACK_BYTES
    if moved > limit:
        raise Unexpected(
            f"at most {amount(limit)} moved for {amount(needed)} damaged", f"{amount(moved)} moved"
        )
    return moved, needed


def show_table(play: Play, screen: Screen, moved: int, needed: int) -> None:
    outcome: Outcome = play.outcome
    at = outcome.at

    def between(first: float | None, then: float | None) -> str:
        return "unknown" if first is None or then is None else f"{then - first:.2f} s"

    share = moved / play.size.bytes if play.size.bytes else 0
    screen.table(
        f"{outcome.node}, from the first write to the release",
        [
            (
                "write → named",
                between(outcome.written_at, at.get("named")),
                "settle_s = 1 of it is waiting on purpose",
            ),
            (
                "named → fenced",
                between(at.get("named"), at.get("fenced")),
                f"fence token {outcome.fence_token}",
            ),
            (
                "fenced → back in rank",
                between(at.get("fenced"), at.get("released")),
                "the rogue wrote for most of it",
            ),
            ("rogue stopped → back in rank", between(outcome.rogue_stopped_at, at.get("released")), ""),
            ("bytes damaged", amount(needed), "chunks altered, files deleted"),
            ("bytes moved", amount(moved), f"{share:.2%} of the tree"),
            ("bytes of the tree", amount(play.size.bytes), f"{play.size.files:,} files"),
            ("files set aside", f"{outcome.incident['files_trashed']:,}", "in the node's trash, restorable"),
            ("recurrences", f"{outcome.incident['recurrences']:,}", "the rogue's file came back"),
        ],
    )
    screen.plain()


def write_reports(play: Play) -> Path:
    """The incident report as a page and as text, beside the logs; the page's path."""
    identity = play.outcome.incident["id"]
    for form in ("html", "md", "json"):
        (play.fleet.base / f"incident-{identity}.{form}").write_text(play.fleet.api.report(identity, form))
    return play.fleet.base / f"incident-{identity}.html"


def write_failure(base: Path, expected: str, seen: str, story: str) -> Path:
    path = base / "failure.md"
    path.write_text(
        f"# The demo failed\n\n- expected: {expected}\n- seen: {seen}\n- logs: {base / 'logs'}\n\n"
        f"## The ends of the logs\n\n```\n{story}\n```\n"
    )
    return path
