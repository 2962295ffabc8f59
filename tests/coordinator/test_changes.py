"""A writer's own changes, taken on step by step; and a mass of them, merged in parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from closeranks_coordinator.core import merging, meters, stepping
from closeranks_coordinator.core.changes import Changes
from closeranks_coordinator.core.fleet import Fleet
from closeranks_coordinator.core.meters import Meter
from closeranks_coordinator.core.model import Event, Now, RootStored, Step
from fakeworld import FakeWorld, volume_config
from fakeworld.agents import DIRECTORY, Files
from fakeworld.trees import tree

NAMES = ("node-01", "node-02", "node-03")
FILES = 600
COMMIT = 100


def renamed() -> tuple[FakeWorld, list[tuple[bytes, bytes | None]]]:
    """A fleet in rank, and what a rename of its directory changes, new names first."""
    files: Files = tree(
        *(f"old/{number:04d}.jpg" for number in range(FILES)), *(f"{n}.txt" for n in range(200))
    )
    config = volume_config(policy="any-writer", nodes=NAMES, writers=NAMES, settle_s=1.0)
    world = FakeWorld(NAMES, [config], {"photos": files})
    for agent in world.agents.values():
        agent.watches, agent.scan_interval_s = True, 1e6
    world.started()
    below = {key: value for key, value in files.items() if key.startswith(b"old\0")}
    new: Files = {b"new": DIRECTORY, **{b"new" + key[3:]: value for key, value in below.items()}}
    return world, [*sorted(new.items()), *((key, None) for key in sorted((b"old", *below)))]


def commits(world: FakeWorld, edits: list[tuple[bytes, bytes | None]]) -> Iterator[bytes]:
    """Tell the edits as a burst does, COMMIT of them at a time: the root after each commit."""
    for first in range(0, len(edits), COMMIT):
        base = world.node_roots["node-01", "photos"]
        part = tuple(sorted(edits[first : first + COMMIT]))
        disk = world["node-01"].disk["photos"]
        for key, value in part:
            if value is None:
                del disk[key]
            else:
                disk[key] = value
        edited = world.tree.edit(base, part)
        world.objects.update(edited.pages)
        world.node_roots["node-01", "photos"] = edited.root
        world.event(RootStored("node-01", "photos", edited.root, "watch", world.mono, (), (), base, part))
        yield edited.root
        world.run(0.02)


def test_each_commit_of_a_burst_is_counted_at_the_price_of_what_it_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, edits = renamed()
    looked: list[int] = []
    listed: list[int] = []
    count, make = Meter.counting, Changes.__post_init__

    def counts(
        self: Meter, own: Any, entries: int, now: float, size_of: Any, moved: Any = None
    ) -> Iterator[None]:
        looked.append(len(own) if moved is None else len(moved))
        yield from count(self, own, entries, now, size_of, moved)

    def makes(self: Changes) -> None:
        make(self)
        listed.append(len(self.own))

    monkeypatch.setattr(Meter, "counting", counts)
    monkeypatch.setattr(Changes, "__post_init__", makes)
    for _ in commits(world, edits):
        pass
    waiting = world.fleet._world.nodes["node-01"].view("photos").changes
    assert waiting is not None, "the burst is observed"
    assert len(waiting.own) == len(edits)
    assert waiting.own == Changes(waiting.analysis).own, "what was taken on is what would be listed"
    assert sum(looked) == len(edits), "each change was counted once"
    assert sum(listed[:-1]) <= COMMIT, "they were listed once, with the first commit"


def test_a_mass_of_changes_is_merged_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at between two pauses is bounded, and what comes of it the same as at once."""
    monkeypatch.setattr(stepping, "PART_KEYS", 16)
    monkeypatch.setattr(merging, "PART_KEYS", 16)
    monkeypatch.setattr(meters, "PART_KEYS", 16)
    world, edits = renamed()
    work = [0]
    longest = merged = 0

    def counting(kind: type, method: str) -> None:
        original = getattr(kind, method)

        def called(*args: Any) -> Any:
            work[0] += 1
            return original(*args)

        monkeypatch.setattr(kind, method, called)

    for method in ("add", "remove", "contest", "is_ahead"):
        counting(merging._Merge, method)
    counting(Meter, "_do")

    def in_parts(fleet: Fleet, now: Now, event: Event) -> Step:
        nonlocal longest, merged
        under_way = fleet.begin(now, event)
        going_on = True
        while going_on:
            work[0] = 0
            going_on = under_way.go_on()
            longest = max(longest, work[0])
            merged += work[0]
        return under_way.end(now)

    monkeypatch.setattr(Fleet, "step", in_parts)
    last = b""
    for root in commits(world, edits):
        last = root
    world.until(lambda: world.fleet._world.volumes["photos"].truth == last)
    assert merged >= 2 * len(edits), "all of it was merged in steps that were counted"
    assert longest <= 3 * 16
    world.until(world.in_rank)
    disks = [world[name].disk["photos"] for name in NAMES]
    assert disks[1] == disks[0]
    assert disks[2] == disks[0]
