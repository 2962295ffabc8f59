"""Laying the stage: the tree, its sixteen copies, the configuration; and clearing it away."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
from pathlib import Path

from demo.screen import Screen, amount
from demo.settings import NODES, Settings, Wrong
from fleet import Fleet, VolumeSpec, photo_tree, tree_size
from fleet.config import Value
from fleet.trees import NoRoom, TreeSize, check_room, copy_tree

VOLUME = "photos"


def scan_interval_s(entries: int) -> float:
    """One second for some thousands of files; for large trees, so that sixteen scans on one machine fit.

    Sixteen agents share the cores of one machine: about 100,000 entries a second are looked at together,
    and scans are to take at most half of the time.
    """
    return round(max(1.0, entries * NODES / 100_000 * 2), 1)


def new_run(settings: Settings) -> Path:
    """A directory for this run; runs of before are removed unless their fleet was kept."""
    settings.base.mkdir(parents=True, exist_ok=True)
    for old in sorted(settings.base.glob("run-*")):
        if not _kept(old):
            shutil.rmtree(old, ignore_errors=True)
    run = settings.base / f"run-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    run.mkdir()
    return run


def check_port(port: int | None) -> None:
    if port is None:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise Wrong(
                f"PORT={port} can not be used: {error.strerror}. Choose another, or leave PORT out."
            ) from None


def lay(settings: Settings, run: Path, screen: Screen) -> tuple[Fleet, TreeSize]:
    """The pristine tree and the sixteen copies, ready to start."""
    check_port(settings.port)
    pristine = run / "pristine" / VOLUME
    pristine.parent.mkdir()
    started = time.monotonic()
    if settings.tree is None:
        photo_tree(pristine)
        size = tree_size(pristine)
        _check(size, NODES, run)
        made = "generated"
    else:
        size = tree_size(settings.tree)
        _check(size, NODES + 1, run)
        complaints = copy_tree(settings.tree, pristine, tolerant=True)
        shutil.rmtree(pristine / ".closeranks", ignore_errors=True)  # a volume's private part is no content
        if complaints:
            screen.plain(f"{len(complaints)} things in the tree could not be read and are left out, such as:")
            screen.plain(f"  {complaints[0]}")
        size = tree_size(pristine)
        made = f"copied from {settings.tree}"
    screen.plain(
        f"tree: {size.files:,} files, {amount(size.bytes)}, {made} in {time.monotonic() - started:.1f} s"
    )
    interval = scan_interval_s(size.entries)
    # special_bits: any tree may be given, and these are copies: set-uid bits are to be repaired as well.
    extra: dict[str, Value] = {"special_bits": True}
    volume = VolumeSpec(VOLUME, "resync", settle_s=1.0, scan_interval_s=interval, extra=extra)
    fleet = Fleet(
        run, NODES, [volume], {"max_quarantined": 1}, api_port=settings.port, leashed=not settings.keep
    )
    started = time.monotonic()
    fleet.lay_trees()
    screen.plain(f"copied {NODES} times in {time.monotonic() - started:.1f} s, into {run}")
    return fleet, size


def _check(size: TreeSize, copies: int, where: Path) -> None:
    try:
        check_room(size, copies, where)
    except NoRoom as error:
        raise Wrong(str(error)) from None


# --- a fleet that is kept ------------------------------------------------------------------------


def keep(fleet: Fleet) -> None:
    """Note what runs, so that `make demo-stop` can end exactly that."""
    running = {daemon.name: [daemon.pid, _started(daemon.pid)] for daemon in fleet.daemons if daemon.alive}
    (fleet.base / "kept.json").write_text(json.dumps(running))


def stop_kept(base: Path) -> int:
    """End the processes of kept fleets, and remove their directories; how many fleets."""
    ended = 0
    for run in sorted(base.glob("run-*")):
        if not (run / "kept.json").exists():
            continue
        for pid in _kept(run):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 12
        while _kept(run) and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid in _kept(run):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(run, ignore_errors=True)
        ended += 1
    return ended


def _kept(run: Path) -> list[int]:
    """Pids of a kept fleet that still run: the same pid with the same start time."""
    try:
        noted = json.loads((run / "kept.json").read_text())
    except FileNotFoundError:
        return []
    return [pid for pid, started in noted.values() if _started(pid) == started]


def _started(pid: int) -> int | None:
    """The process's start in clock ticks since boot; None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])


def clear(fleet: Fleet) -> None:
    """Remove the trees and the state; logs, configuration and reports stay for reading."""
    for name in ("pristine", "nodes", "coordinator"):
        shutil.rmtree(fleet.base / name, ignore_errors=True)
