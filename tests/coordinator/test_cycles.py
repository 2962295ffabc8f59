"""When dead cycles are looked for, and that sessions leave none behind."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from closeranks_coordinator import cycles
from closeranks_coordinator.cycles import (
    COUNT_EVERY_S,
    GROWN_IDLE,
    GROWN_MAX,
    IDLE_SHARE,
    SWEEP_AFTER_PASSES,
    Act,
    Collector,
    Cycles,
)


@pytest.mark.parametrize(
    ("passes", "grown", "share", "act"),
    [
        (0, 0, 0.0, Act.NOTHING),
        (SWEEP_AFTER_PASSES - 1, 0, 0.0, Act.NOTHING),
        (SWEEP_AFTER_PASSES, 0, 1.0, Act.SWEEP),
        (10**6, -1000, 0.0, Act.SWEEP),
        (0, GROWN_IDLE - 1, 0.0, Act.NOTHING),
        (0, GROWN_IDLE, IDLE_SHARE, Act.NOTHING),
        (SWEEP_AFTER_PASSES, GROWN_MAX - 1, 1.0, Act.SWEEP),
        (0, GROWN_IDLE, 0.01, Act.WHOLE),
        (0, GROWN_MAX, 1.0, Act.WHOLE),
    ],
)  # fmt: skip
def test_what_is_due(passes: int, grown: int, share: float, act: Act) -> None:
    """Sweeps by count, whole collections by growth: at rest early, under load late, never for no reason."""
    assert Cycles(70_000).due(passes, 70_000 + grown, share) is act


class Knot:
    """Refers to itself: only the collector can end it."""

    def __init__(self) -> None:
        self.me = self


class Clocks:
    now = spent = 0.0


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def collector(clocks: Clocks) -> Iterator[Collector]:
    found = Collector(lambda: clocks.now, lambda: clocks.spent)
    thresholds = gc.get_threshold()
    found.begin()
    yield found
    found.end()
    assert gc.get_threshold() == thresholds
    assert gc.get_freeze_count() == 0


def outlive() -> None:
    """Let what lives outlive generations 0 and 1, as often as a sweep needs."""
    for _ in range(SWEEP_AFTER_PASSES):
        gc.collect(1)


def test_the_interpreter_never_goes_through_everything_by_itself(collector: Collector) -> None:
    full = gc.get_stats()[2]["collections"]
    kept = [[number] for number in range(300_000)]
    assert gc.get_stats()[2]["collections"] == full
    assert len(kept) == 300_000


def test_a_sweep_ends_dead_cycles_and_sets_aside_what_lives(collector: Collector) -> None:
    dead, living = Knot(), Knot()
    ended, lives = weakref.ref(dead), weakref.ref(living)
    outlive()
    del dead
    before = gc.get_freeze_count()
    assert collector.look() is Act.SWEEP
    assert ended() is None
    assert lives() is living
    assert gc.get_freeze_count() > before
    assert collector.look() is Act.NOTHING


def test_what_dies_in_a_cycle_when_it_was_set_aside_is_found_by_a_whole_collection(
    collector: Collector, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    knot = Knot()
    ended = weakref.ref(knot)
    outlive()
    collector.look()
    del knot
    outlive()
    clocks.now += COUNT_EVERY_S
    assert collector.look() is Act.SWEEP
    assert ended() is not None, "a sweep does not look at what is set aside"
    monkeypatch.setattr(cycles, "GROWN_IDLE", 100_000)
    monkeypatch.setattr(cycles, "COUNT_AFTER_BLOCKS", 0)
    grown = [[number] for number in range(150_000)]
    outlive()
    clocks.now, clocks.spent = clocks.now + COUNT_EVERY_S, clocks.spent + COUNT_EVERY_S
    assert collector.look() is Act.SWEEP, "there is much to do"
    clocks.now, clocks.spent = clocks.now + COUNT_EVERY_S, clocks.spent + 0.1
    assert collector.look() is Act.WHOLE
    assert ended() is None
    clocks.now += 1
    assert collector.look() is Act.NOTHING, f"the {len(grown)} others live: they are no reason any more"


def test_what_a_large_fleet_left_behind_is_no_room_for_dead_cycles_when_the_fleet_has_shrunk(
    collector: Collector, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cycles, "GROWN_IDLE", 100_000)
    monkeypatch.setattr(cycles, "COUNT_AFTER_BLOCKS", 0)

    def look_again() -> Act:
        outlive()
        clocks.now += COUNT_EVERY_S
        return collector.look()

    fleet = [[number] for number in range(250_000)]
    assert look_again() is Act.SWEEP, "it is not set aside before"
    assert look_again() is Act.WHOLE, "it is counted, and lives"
    fleet.clear()
    assert look_again() is Act.SWEEP
    grown = [[number] for number in range(150_000)]
    assert look_again() is Act.SWEEP
    assert look_again() is Act.WHOLE, f"{len(grown)} more than are left, though fewer than there were"


def test_what_is_set_aside_is_counted_in_a_quiet_moment_after_memory_has_changed(
    collector: Collector, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[float] = []
    monkeypatch.setattr(collector, "_count", lambda: counted.append(clocks.now))

    def look_again(used_s: float) -> None:
        clocks.now, clocks.spent = clocks.now + COUNT_EVERY_S, clocks.spent + used_s
        collector.look()

    Collector._count(collector)
    look_again(0.0)
    assert counted == [], "nothing has changed"
    kept = [[number] for number in range(2 * cycles.COUNT_AFTER_BLOCKS)]
    look_again(COUNT_EVERY_S)
    assert counted == [], "there is much to do"
    look_again(0.0)
    assert counted == [clocks.now], f"{len(kept)} more live"
    monkeypatch.setattr(cycles, "GROWN_MAX", cycles.COUNT_AFTER_BLOCKS)
    look_again(COUNT_EVERY_S)
    assert len(counted) == 2, "so much more does not wait for a quiet moment"
