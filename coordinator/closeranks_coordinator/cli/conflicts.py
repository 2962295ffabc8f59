"""`closeranks conflicts`: paths that two writers changed without knowing of each other."""

from __future__ import annotations

import argparse

import msgspec

from ..core.shapes import ConflictView, VolumeView
from .client import Api, segment
from .screen import CARE, FAINT, Cell, Screen
from .session import FOUND, OK, asking, now_ms, open_api
from .words import NONE, age, plural


class ConflictPage(msgspec.Struct):
    items: list[ConflictView]
    next_cursor: str | None = None


class VolumePage(msgspec.Struct):
    items: list[VolumeView]
    next_cursor: str | None = None


def add_conflicts(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Paths that two writers changed without knowing of each other: whose version stands, where the other one is "
        "kept. Exit: 0 none is open, 1 some are, 2 could not ask, or no such volume."
    )
    parser.add_argument("volume", nargs="?", metavar="VOLUME", help="only this volume's")
    parser.add_argument("--all", action="store_true", help="also those that are resolved")
    asking(parser, "print one document as the API's, of all these volumes")
    parser.set_defaults(run=conflicts, refused=2)


def conflicts(args: argparse.Namespace, screen: Screen) -> int:
    api = open_api(args, screen)
    query: dict[str, str | None] = {"state": None if args.all else "open"}
    found: list[ConflictView] = []
    for name in [args.volume] if args.volume is not None else _volumes(api):
        where = f"/api/v1/volumes/{segment(name)}/conflicts"
        found += [one for page in api.pages(where, query, ConflictPage) for one in page.items]
    is_open = any(one.state == "open" for one in found)
    if args.json:
        screen.raw_json(msgspec.json.encode(ConflictPage(found)))
    else:
        _print(screen, found, now_ms(api))
    return FOUND if is_open else OK


def _volumes(api: Api) -> list[str]:
    return [volume.name for page in api.pages("/api/v1/volumes", {}, VolumePage) for volume in page.items]


def _print(screen: Screen, found: list[ConflictView], now: int) -> None:
    if not found:
        screen.line("No conflicts.")
        return
    _print_table(screen, found, now)
    count = sum(one.state == "open" for one in found)
    if count:
        screen.line(
            f"{plural(count, 'conflict')} open. PATH is as FIRST left it (not there, if FIRST deleted it), KEPT AS "
            "has the version of SECOND. Compare them on any node, write what is right under PATH on a writer, or leave "
            "it deleted, then remove KEPT AS: that ends the conflict."
        )


def _print_table(screen: Screen, found: list[ConflictView], now: int) -> None:
    """Into a file one line a conflict; on a terminal the two names, which are long, stand below each other.

    Where they do not fit beside the rest each has a line of its own: a torn name can not be copied into a command.
    """
    headers = ["VOLUME", "STATE", "WHEN", "FIRST", "SECOND", "WHAT"]
    if not screen.terminal:
        rows = [[*_about(one, now), Cell(one.path), Cell(_kept(one))] for one in found]
        screen.table([*headers, "PATH", "KEPT AS"], rows)
        return
    below = [Cell("")] * len(headers)
    rows = []
    for one in found:
        rows.append([*_about(one, now), Cell(one.path)])
        rows.append([*below, Cell(f"kept as {_kept(one)}", FAINT)])
    headers.append("PATH, KEPT AS")
    if screen.fits(headers, rows):
        screen.table(headers, rows)
        return
    for one in found:
        _, _, when, *_ = _about(one, now)
        screen.line(one.path)
        screen.line(f"    kept as {_kept(one)}")
        words = f"    {one.volume}, {one.state}, {when.text}: {one.winner} was first, {one.loser} second: {one.what}"
        screen.folded(words, CARE if one.state == "open" else FAINT)


def _kept(one: ConflictView) -> str:
    return one.kept_path or f"{NONE} (it was deleted there)"


def _about(one: ConflictView, now: int) -> list[Cell]:
    return [
        Cell(one.volume),
        Cell(one.state, CARE if one.state == "open" else FAINT),
        Cell(f"{age(one.at, now)} ago", right=True),
        Cell(one.winner),
        Cell(one.loser),
        Cell(one.what),
    ]
