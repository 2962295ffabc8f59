"""A step in parts decides what it decides as a whole, and nobody sees it half done."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from closeranks_coordinator.core import presence, stepping
from closeranks_coordinator.core.fleet import Fleet
from closeranks_coordinator.core.model import Event, Now, Step, Tick
from fakeworld import FakeWorld, file_of, volume_config

NAMES = tuple(f"node-{number:02d}" for number in range(1, 6))


def story() -> tuple[object, ...]:
    """A rogue is named and repaired, a change rolls out, a node goes and comes back; all that was said meanwhile."""
    world = FakeWorld(NAMES, [volume_config(on_divergence="resync")], recurrence_max=2).started()
    world[NAMES[2]].write("photos", "a/one.jpg", file_of("rogue"))
    world.until_state(NAMES[2], "quarantined")
    world.until_state(NAMES[2], "in_rank")
    for name in NAMES:
        world[name].write("photos", "b/two.jpg", file_of("new"))
        world.run(0.3)
    world[NAMES[4]].stop()
    world.run(20)
    sent = [repr(world[name].got) for name in NAMES]
    return sent, [repr(one) for one in world.incidents()], world.states(), repr(world.observed)


def in_parts(fleet: Fleet, now: Now, event: Event) -> Step:
    under_way = fleet.begin(now, event)
    while under_way.go_on():
        pass
    return under_way.end(now)


def looked_at(fleet: Fleet, now: Now, event: Event) -> Step:
    """Somebody asks for everything after the first part, at another moment."""
    under_way = fleet.begin(now, event)
    if under_way.go_on():
        fleet.fleet_view(Now(now.mono + 100.0, now.wall_ms + 100_000))
        assert not under_way.go_on(), "nothing was left to do when it was looked at"
    return under_way.end(now)


@pytest.mark.parametrize("step", [in_parts, looked_at])
def test_a_step_in_parts_decides_what_it_decides_as_a_whole(
    step: Callable[[Fleet, Now, Event], Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = story()
    monkeypatch.setattr(stepping, "PART_NODES", 1)
    monkeypatch.setattr(Fleet, "step", step)
    assert story() == whole


def test_a_large_fleet_is_gone_through_in_many_parts() -> None:
    world = FakeWorld(NAMES).started()

    def parts_of(fleet: Fleet) -> int:
        now = Now(world.mono + 10.0, 0)
        under_way, count = fleet.begin(now, Tick()), 1
        while under_way.go_on():
            count += 1
        under_way.end(now)
        return count

    few = parts_of(world.fleet)
    many = FakeWorld(tuple(f"node-{number:03d}" for number in range(10 * stepping.PART_NODES)))
    assert parts_of(many.fleet) >= few + 4 * 9, "four of its loops go through every node"


def test_a_step_that_failed_in_the_middle_has_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    world = FakeWorld(NAMES).started()

    def fails(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(presence, "watch", fails)
    under_way = world.fleet.begin(world.now(), Tick())
    with pytest.raises(ZeroDivisionError):
        world.fleet.fleet_view(world.now())
    with pytest.raises(AssertionError, match="a step that failed"):
        under_way.end(world.now())
