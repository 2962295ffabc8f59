"""How fast chunks may travel: the schedule, an operator's word, and the fleet's sum divided among who fetches."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from closeranks_coordinator.core.model import SpeedAsked
from closeranks_coordinator.core.rules import SpeedRules, SpeedWindow
from closeranks_coordinator.core.shapes import SpeedView
from closeranks_coordinator.core.speed import LEAST_BYTES_S, InForce, scheduled
from closeranks_proto import messages as wire
from fakeworld import FakeWorld, file_of

NAMES = ("node-01", "node-02", "node-03", "node-04", "node-05")
MB = 1_000_000
NIGHT = SpeedWindow((0, 5), 22 * 3600, 6 * 3600, None, None)
NOON = SpeedWindow((0,), 12 * 3600, 13 * 3600, 1 * MB, 2 * MB)


def at(text: str) -> int:
    """Unix milliseconds; 2026-03-02 is a Monday."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


# --- the schedule ----------------------------------------------------------------------------------


def test_without_rules_there_is_no_limit() -> None:
    assert scheduled(SpeedRules(), at("2026-03-02T12:00")) == InForce(None, None, "no limit is set")


@pytest.mark.parametrize(
    ("moment", "inside"),
    [
        ("2026-03-02T21:59:59", False), ("2026-03-02T22:00:00", True), ("2026-03-02T23:59:59", True),
        ("2026-03-03T00:00:00", True), ("2026-03-03T05:59:59", True), ("2026-03-03T06:00:00", False),
        ("2026-03-03T22:30:00", False),  # Tuesday is none of its days
        ("2026-03-02T05:00:00", False),  # Monday morning belongs to Sunday's night
        ("2026-03-07T22:00:00", True), ("2026-03-08T05:00:00", True),  # Saturday into Sunday
        ("2026-03-08T22:00:00", False),
    ],
)  # fmt: skip
def test_a_window_over_midnight_belongs_to_the_day_on_which_it_begins(moment: str, inside: bool) -> None:
    rules = SpeedRules(10 * MB, 20 * MB, 0, (NIGHT,))
    found = scheduled(rules, at(moment))
    assert (found.node, found.fleet) == ((None, None) if inside else (10 * MB, 20 * MB))
    assert ("mon, sat from 22:00 to 06:00" in found.why) is inside


@pytest.mark.parametrize(
    ("offset_s", "moment", "inside"),
    [
        (3600, "2026-03-02T10:59", False), (3600, "2026-03-02T11:00", True), (3600, "2026-03-02T12:00", False),
        (-5 * 3600, "2026-03-02T17:30", True), (13 * 3600, "2026-03-01T23:30", True),
    ],
)  # fmt: skip
def test_the_clock_is_the_sites(offset_s: int, moment: str, inside: bool) -> None:
    found = scheduled(SpeedRules(None, None, offset_s, (NOON,)), at(moment))
    assert (found.node is not None) is inside


@pytest.mark.parametrize(
    ("moment", "inside"),
    [
        ("2026-03-02T10:59", False), ("2026-03-02T11:00", True), ("2026-03-02T12:00", False),  # winter: UTC+1
        ("2026-07-06T09:59", False), ("2026-07-06T10:00", True), ("2026-07-06T11:00", False),  # summer: UTC+2
        ("2026-10-26T10:30", False), ("2026-10-26T11:00", True),  # the day after the clock was put back
    ],
)  # fmt: skip
def test_the_clock_of_a_zone_follows_summer_time(moment: str, inside: bool) -> None:
    """With an offset alone a window was an hour off for half of the year."""
    found = scheduled(SpeedRules(windows=(NOON,), zone="Europe/Berlin"), at(moment))
    assert (found.node is not None) is inside


def test_a_window_to_24_00_is_the_rest_of_the_day() -> None:
    whole = SpeedWindow(tuple(range(7)), 0, 86400, 1 * MB, None)
    for moment in ("2026-03-02T00:00:00", "2026-03-02T23:59:59"):
        assert scheduled(SpeedRules(windows=(whole,)), at(moment)).why == (
            "the schedule: every day from 00:00 to 24:00"
        )


def test_the_first_window_that_holds_is_in_force() -> None:
    rules = SpeedRules(windows=(NOON, replace(NOON, node_bytes_s=9 * MB)))
    assert scheduled(rules, at("2026-03-02T12:30")).node == 1 * MB


# --- told to nodes ---------------------------------------------------------------------------------


def started(**rules: int) -> FakeWorld:
    world = FakeWorld(NAMES, speed=SpeedRules(**rules)).started()
    world.run(0.1)
    return world


def limits(world: FakeWorld, node: str) -> list[tuple[int | None, int | None]]:
    found = world.sent(node, wire.Limits)
    return [(one.receive_bytes_s, one.serve_bytes_s) for one in found if isinstance(one, wire.Limits)]


def shown(world: FakeWorld, node: str) -> dict[str, str | int | None]:
    view = world.fleet.speed_view(world.now())
    return next(one for one in view.nodes if one["node"] == node)


def test_where_nothing_is_limited_nothing_is_sent() -> None:
    world = started()
    world.run(5)
    assert all(limits(world, name) == [] for name in NAMES)


def test_every_session_is_told_the_nodes_limit() -> None:
    world = started(node_bytes_s=5 * MB)
    assert limits(world, "node-02") == [(5 * MB, 5 * MB)]
    world["node-02"].drop(0.5)
    world.run(3)
    assert limits(world, "node-02") == [(5 * MB, 5 * MB)] * 2


def test_the_fleets_sum_is_divided_among_those_who_fetch() -> None:
    world = started(fleet_bytes_s=12 * MB)
    assert shown(world, "node-01")["receive_bytes_s"] == 12 * MB
    for name in ("node-02", "node-03"):
        world[name].stop()
    world.run(12)
    world.everywhere("a/one.jpg", file_of("newer"), but=("node-02", "node-03"))
    world.run(3)
    for name in ("node-02", "node-03"):
        world[name].order_s = 30.0
        world[name].start()
    world.until(lambda: all(world.state(name) == "resyncing" for name in ("node-02", "node-03")))
    world.run(2.5)
    assert limits(world, "node-02")[-1] == (6 * MB, None)
    assert limits(world, "node-03")[-1] == (6 * MB, None)
    assert limits(world, "node-01")[-1] == (4 * MB, None), "its share, were it to begin"
    assert "fetching now" in str(shown(world, "node-02")["why"])
    world.until(world.in_rank, 120)
    world.run(5)
    assert limits(world, "node-02")[-1] == (12 * MB, None)


def test_a_share_is_never_nothing() -> None:
    world = started(fleet_bytes_s=1024)
    assert shown(world, "node-01")["receive_bytes_s"] == LEAST_BYTES_S


def test_the_lower_of_node_and_share_holds() -> None:
    world = started(node_bytes_s=3 * MB, fleet_bytes_s=12 * MB)
    assert limits(world, "node-01") == [(3 * MB, 3 * MB)]


def test_a_node_is_told_at_most_once_a_second() -> None:
    world = started()
    for number in range(20):
        config = replace(world.config, speed=SpeedRules(node_bytes_s=(number + 1) * MB))
        world.configure(config)
        world.run(0.1)
    world.run(2)
    told = limits(world, "node-01")
    assert len(told) <= 4
    assert told[-1] == (20 * MB, 20 * MB)


# --- an operator's word ----------------------------------------------------------------------------


def test_an_operators_word_overrules_until_it_is_taken_back() -> None:
    world = started(node_bytes_s=5 * MB)
    view = world.ask(SpeedAsked("node-02", 1 * MB))
    assert isinstance(view, SpeedView)
    assert shown(world, "node-02")["why"] == "by hand"
    world.run(0.1)
    assert limits(world, "node-02")[-1] == (1 * MB, 1 * MB)
    assert limits(world, "node-01")[-1] == (5 * MB, 5 * MB)
    world.ask(SpeedAsked("node-02", None, unlimited=True))
    world.run(0.1)
    assert limits(world, "node-02")[-1] == (None, None)
    world.ask(SpeedAsked("node-02", None))
    world.run(0.1)
    assert limits(world, "node-02")[-1] == (5 * MB, 5 * MB)


def test_the_fleets_sum_can_be_said_by_hand_too() -> None:
    world = started(fleet_bytes_s=12 * MB)
    world.ask(SpeedAsked(None, 20 * MB))
    assert world.fleet.speed_view(world.now()).fleet_bytes_s == 20 * MB
    world.ask(SpeedAsked(None, None, unlimited=True))
    assert world.fleet.speed_view(world.now()).fleet_bytes_s is None
    world.ask(SpeedAsked(None, None))
    assert world.fleet.speed_view(world.now()).fleet_bytes_s == 12 * MB


def test_a_word_on_the_fleet_does_not_claim_what_the_configuration_says_of_nodes() -> None:
    world = started(node_bytes_s=5 * MB, fleet_bytes_s=12 * MB)
    world.ask(SpeedAsked(None, None, unlimited=True))
    told = shown(world, "node-02")
    assert (told["serve_bytes_s"], told["why"]) == (5 * MB, "the configuration")
    assert world.fleet.speed_view(world.now()).why == "by hand"
    world = started(fleet_bytes_s=12 * MB)
    world.ask(SpeedAsked(None, None, unlimited=True))
    assert shown(world, "node-02")["why"] == "by hand"


def test_it_outlives_a_restart() -> None:
    world = started()
    world.ask(SpeedAsked("node-02", 1 * MB))
    world.ask(SpeedAsked(None, 7 * MB))
    world.restart()
    world.run(3)
    assert limits(world, "node-02")[-1] == (1 * MB, 1 * MB)
    assert world.fleet.speed_view(world.now()).why == "by hand"


@pytest.mark.parametrize(
    ("asked", "refused"),
    [
        (SpeedAsked("node-09", 1 * MB), "404 unknown_node"), (SpeedAsked(None, 10), "400 bad_speed"),
        (SpeedAsked(None, 2**60), "400 bad_speed"), (SpeedAsked(None, MB, unlimited=True), "400 bad_speed"),
    ],
)  # fmt: skip
def test_what_can_not_be_is_refused(asked: SpeedAsked, refused: str) -> None:
    assert started().ask(asked) == refused
