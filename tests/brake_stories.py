"""A writer on a disk of a given size, before the real brake: what of it is spread, when it is held, who waits.

The coordinator's core and the agent's own forecast and reports (`Series`, `Activity`) on invented time; only the disk
and its files are invented. A story is a list of writes: what an ordinary program writes and what a runaway writes
differ in nothing but how much it is, how fast, and for how long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from types import SimpleNamespace
from typing import Any, cast

from closeranks_agent.hands.activity import STEP_S, Activity
from closeranks_agent.hands.disks import FORESEEN_MAX_S, Series
from closeranks_agent.watch.flood import Flood
from closeranks_agent.watch.storm import SAMPLE_EVERY_S, SAMPLE_S
from closeranks_coordinator.core.rules import GuardRules
from closeranks_coordinator.core.shapes import HoldView
from closeranks_coordinator.core.windows import USUAL_BUCKET_S
from closeranks_proto import messages as wire
from fakeworld import FakeWorld, file_of, key_of, volume_config

MB = 10**6
GB = 10**9
PHP = wire.Hand(4711, "/usr/bin/php", "php index.php", 33, None, "apache2", ("1 systemd",), 10, GB)
FILES = {key_of(f"f{n:03}"): file_of(n) for n in range(40)}
LOOK_S = 1.0
BEFORE_S = 60.0
AFTER_S = 40.0  # how long a story is watched when its writer has ended


@dataclass(frozen=True, slots=True)
class Write:
    """So many bytes at this moment, in a file of its own or over one that is there."""

    at_s: float
    size: int
    name: str
    committed: bool = True  # else it is seen, and its look lasts


@dataclass(slots=True)
class Told:
    """What became of a story."""

    held_s: float | None = None
    guard: str = ""
    written: int = 0  # when it was held, else in all
    spread: int = 0  # the same of what had reached the others
    waits: list[float] = field(default_factory=list)  # of each write that reached them, seconds

    @property
    def longest_wait_s(self) -> float:
        return max(self.waits, default=0.0)


class _Disk:
    """Implements what `Activity` asks of `Disks`, of one invented disk."""

    def __init__(self, total: int, free: int) -> None:
        self.total, self.free, self.taken, self.series = total, free, 0, Series()

    def states(self) -> tuple[wire.DiskState, ...]:
        rate, full = self.series.rate_bytes_s(), self.series.full_in_s()
        return (
            wire.DiskState(
                "/srv", ("photos",), False, self.total, self.free, round(min(FORESEEN_MAX_S, rate), 1),
                None if full is None else round(full, 1), self.taken,
            ),
        )  # fmt: skip


def files(size: int, every_s: float, count: int, start_s: float = 0.0, name: str = "new") -> Iterator[Write]:
    """One file after the other."""
    return (Write(start_s + number * every_s, size, f"{name}{number:05}") for number in range(count))


def bursts(size: int, each: int, every_s: float, count: int, pause_s: float) -> Iterator[Write]:
    """`each` files, a pause, and so on."""
    length_s = each * every_s + pause_s
    for number in range(count):
        yield from files(size, every_s, each, number * length_s, f"burst{number:03}-")


def over(name: str, size: int, every_s: float, count: int) -> Iterator[Write]:
    """One file that is written again and again, and takes no more room."""
    return (Write(number * every_s, size, name) for number in range(count))


def play(
    story: Iterable[Write], total: int, free: int, rules: GuardRules | None = None, usual_bytes: int = 0,
    before_s: float = BEFORE_S, look_s: float = LOOK_S,
) -> Told:  # fmt: skip
    """`usual_bytes`: what this node wrote in each five minutes of work of the last week.

    `look_s`: how often it looks at its disk; on a machine that has too much to do that is more than a second.
    """
    world, disk, activity = _begun(total, free, rules or GuardRules(warm_up_s=0.0), usual_bytes, look_s)
    world.run(before_s)
    return _follow(world, list(story), disk, activity)


def _begun(
    total: int, free: int, guards: GuardRules, usual_bytes: int = 0, look_s: float = LOOK_S
) -> tuple[FakeWorld, _Disk, Activity]:
    world = FakeWorld(
        ("n1", "n2", "n3"),
        [volume_config(policy="writers", writers=("n1",), guards=guards)],
        {"photos": FILES},
    )
    for agent in world.agents.values():
        agent.watches, agent.scan_interval_s, agent.disk_bytes = True, 300.0, (total, free)
    world.started()
    if usual_bytes:
        usual = world.fleet._world.usuals["n1/photos"]
        now = world.now().wall_ms // 1000 // USUAL_BUCKET_S
        usual.buckets = [(now - back, 100, usual_bytes) for back in range(100, 1, -1)]
    node, disk = world["n1"], _Disk(total, free)
    activity = Activity(
        cast(Any, SimpleNamespace()), cast(Any, disk), node._say, lambda: True, lambda: world.mono
    )

    def look() -> None:
        disk.series.add(world.mono, disk.free)
        report = activity.report()
        if report is not None:
            node._say(report)
        world.later(look_s, look)

    look()
    return world, disk, activity


class _Flood(Flood):
    """Whose files are as long as a story says."""

    size = 0

    def _mean(self, keys: Sequence[bytes]) -> float:
        return self.size


def flood(
    size: int, bytes_s: int, total: int, free: int, beside_bytes_s: int = 0, for_s: float = 8.0
) -> Told:
    """Files of this size, so many that the agent only listens in samples: nothing is committed, most is not seen.

    `beside_bytes_s`: what somebody else writes on that disk meanwhile.
    """
    world, disk, activity = _begun(total, free, GuardRules())
    world.run(BEFORE_S)
    node, told, began = world["n1"], Told(), world.mono
    node.storm = True
    node._status("photos")
    volume = SimpleNamespace(name="photos", taken=SimpleNamespace(bytes=0))
    one = _Flood(cast(Any, volume), cast(Any, activity), lambda: world.mono, lambda: (1, disk.free))
    one.size = size
    activity.pending("photos", 1)
    one.begin([b"a name"])
    sample_due = began + SAMPLE_EVERY_S
    while told.held_s is None and world.mono < began + for_s:
        world.run(STEP_S)
        told.written += int(bytes_s * STEP_S)
        disk.free -= int((bytes_s + beside_bytes_s) * STEP_S)
        if world.mono >= sample_due:
            sample_due += SAMPLE_EVERY_S
            one.sampled([b"a name"], int(bytes_s / size * SAMPLE_S), SAMPLE_S)
        one.look()
        _hurry(world, activity, node._say)
        _look(world, {}, told, began)
    return told


@dataclass(slots=True)
class Replica:
    """What became of a node that only receives."""

    holds: list[HoldView] = field(default_factory=list)
    behind: int = 0  # of what its writer has
    free: int = 0
    said: list[str] = field(default_factory=list)  # warnings that name it


def receive(story: Iterable[Write], total: int, free: int, outside_bytes_s: int = 0) -> Replica:
    """A writer with a large disk; n2 has one of this size. `outside_bytes_s`: written beside its volume."""
    world = FakeWorld(
        ("n1", "n2", "n3"), [volume_config(policy="writers", writers=("n1",), guards=GuardRules())], {"photos": FILES}
    )  # fmt: skip
    for agent in world.agents.values():
        agent.watches, agent.scan_interval_s, agent.disk_bytes = True, 300.0, (10**13, 10**13)
    world.started()
    node, disk, began = world["n2"], _Disk(total, free), world.mono
    node.disk_bytes = (total, free)
    activity = Activity(
        cast(Any, SimpleNamespace()), cast(Any, disk), node._say, lambda: True, lambda: world.mono
    )

    def look() -> None:
        outside = int(outside_bytes_s * max(0.0, world.mono - began - BEFORE_S))
        disk.taken, disk.free = node.taken, max(0, free - node.taken - outside)
        disk.series.add(world.mono, disk.free)
        report = activity.report()
        if report is not None:
            node._say(report)
        world.later(LOOK_S, look)

    look()
    world.run(BEFORE_S)
    told, seen = Replica(), dict[str, HoldView]()
    for write in story:
        world.run(max(0.0, began + BEFORE_S + write.at_s - world.mono))
        world["n1"].put("photos", write.name, file_of(f"{write.name} {write.at_s}", write.size))
        seen |= {
            hold: view for hold in world.fleet.hold_ids() if (view := world.fleet.hold_view(hold)) is not None
        }
    world.run(AFTER_S)
    seen |= {
        hold: view for hold in world.fleet.hold_ids() if (view := world.fleet.hold_view(hold)) is not None
    }
    told.holds, told.free = list(seen.values()), disk.free
    mine = world["n1"].disk["photos"]
    told.behind = sum(node.disk["photos"].get(key) != value for key, value in mine.items())
    told.said = [one for one in world.logs if one.startswith("warning: n2")]
    return told


def _follow(world: FakeWorld, story: list[Write], disk: _Disk, activity: Activity) -> Told:
    node, told, began = world["n1"], Told(), world.mono
    sizes: dict[bytes, int] = {}
    waiting: dict[bytes, tuple[float, bytes, int]] = {}
    for write in [*story, None]:
        until = began + (write.at_s if write is not None else story[-1].at_s + AFTER_S)
        while world.mono < until and told.held_s is None:
            world.run(min(0.25, until - world.mono))
            _look(world, waiting, told, began)
        if told.held_s is not None or write is None:
            break
        key, size = key_of(write.name), min(write.size, disk.free + sizes.get(key_of(write.name), 0))
        grown = sizes.get(key, 0)
        disk.free += grown - size
        sizes[key] = size
        told.written += size
        value = file_of(f"{write.name} {write.at_s}", size)
        if not write.committed:
            activity.pending("photos", 1)
            activity.note("photos", 0, size - grown, PHP)
            _hurry(world, activity, node._say)
            continue
        node.put("photos", write.name, value)
        waiting[key] = (world.mono, value, size)
        activity.note("photos", 1, size, PHP)
        _hurry(world, activity, node._say)
    return told


def _hurry(world: FakeWorld, activity: Activity, say: Callable[[wire.AgentMessage], None]) -> None:
    """As `Activity.run` does it."""
    due_s = activity.due_s()
    if due_s > world.mono:
        if due_s < inf:
            world.later(due_s - world.mono, lambda: _hurry(world, activity, say))
        return
    report = activity.report(hurried=True)
    if report is not None:
        say(report)


def _look(world: FakeWorld, waiting: dict[bytes, tuple[float, bytes, int]], told: Told, began: float) -> None:
    """What has reached the truth, and whether the writer is held."""
    root = world.fleet.volume_view(world.now(), "photos").truth_root  # type: ignore[union-attr]
    for key, (at, value, size) in list(waiting.items()):
        if world.tree.lookup(bytes.fromhex(root or ""), key) == value:
            told.waits.append(world.mono - at)
            told.spread += size
            del waiting[key]
    for hold in world.fleet.hold_ids():
        view = world.fleet.hold_view(hold)
        if view is not None and view.state == "held":
            told.held_s, told.guard = world.mono - began, view.guard
