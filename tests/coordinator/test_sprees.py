"""What is done to files that are there: how much of a runaway is spread before its hold, and what else waits."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from braked import KEYS, LINK, NODES, TREE, a_world, commit, guards_that_hold, truth
from closeranks_coordinator.core.sprees import DOUBLINGS_MAX, HANDFUL, HANDFUL_REST_S, REST_S, Spree
from closeranks_proto import messages as wire
from fakeworld import FakeWorld, file_of, key_of

PHP = wire.Hand(4711, "/usr/bin/php", "php index.php", 33, None, "apache2", ("1 systemd",), 0, 0)


@dataclass(frozen=True, slots=True)
class Story:
    """`each` files in each commit, `count` in all; then a pause, after every `pause_every` commits."""

    each: int
    pause_s: float
    count: int = 1200
    links: bool = False
    removes: bool = False


# story, (guard, most that may be spread when it is held)
RUNAWAYS = {
    "20 in each commit": (Story(20, 0.02), "changed_share", 0),
    "256 in each commit": (Story(256, 0.05), "changed_share", 0),
    "20 a second": (Story(1, 0.05), "changed_share", 1),
    "5 a second": (Story(1, 0.2), "changed_share", 2),
    "8 at once, a pause of 0.3 s": (Story(8, 0.3), "changed_share", 8),
    "8 at once, a pause of 1 s": (Story(8, 1.0), "changed_share", 16),
    "8 at once, a pause of 4 s": (Story(8, 4.0), "changed_share", 32),
    "80 at once, a pause of 0.4 s": (Story(80, 0.4), "changed_share", 0),
    "links, 50 a second": (Story(1, 0.02, 40, links=True), "type_changes", 0),
    "links, 2 a second": (Story(1, 0.5, 40, links=True), "type_changes", 1),
    "removes 100 a second": (Story(1, 0.01, removes=True), "deleted_share", 0),
    "removes 17 a second": (Story(1, 0.06, removes=True), "deleted_share", 0),
    "removes 5 a second": (Story(1, 0.2, removes=True), "deleted_share", 0),
    "removes 8, a pause of 1 s": (Story(8, 1.0, removes=True), "deleted_share", 16),
    "removes 8, a pause of 4 s": (Story(8, 4.0, removes=True), "deleted_share", 32),
}


def spread(world: FakeWorld) -> int:
    """Files of which the others have another version than in the beginning."""
    changed = [
        key for key in KEYS if any(world[node].disk["photos"].get(key) != TREE[key] for node in NODES[1:])
    ]
    return len(changed)


def replace(world: FakeWorld, keys: list[bytes], value: bytes | None = None) -> None:
    for key in keys:
        world["n1"].disk["photos"][key] = value or file_of(f"replaced {key!r}")


def play(world: FakeWorld, story: Story) -> None:
    for start in range(0, story.count, story.each):
        keys = KEYS[start : start + story.each]
        if story.removes:
            for key in keys:
                del world["n1"].disk["photos"][key]
        else:
            replace(world, keys, LINK if story.links else None)
        commit(world)
        world.run(story.pause_s)
        if guards_that_hold(world):
            return


@pytest.mark.parametrize("name", list(RUNAWAYS))
def test_of_a_runaway_through_a_volume_at_most_a_handful_is_spread(name: str) -> None:
    story, guard, most = RUNAWAYS[name]
    world = a_world()
    play(world, story)
    assert guards_that_hold(world) == [guard]
    assert spread(world) <= most
    before = spread(world)
    world.run(60.0)
    assert spread(world) == before, "nothing follows"


@pytest.mark.parametrize("moves", [False, True])
def test_whoever_keeps_a_copy_of_each_file_spreads_no_more_than_a_handful(moves: bool) -> None:
    """As `sed -i.bak` does: what was copied lately was taken for made lately, and all of the volume was spread."""
    world = a_world()
    disk = world["n1"].disk["photos"]
    for start in range(0, 600, 5):
        keys = KEYS[start : start + 5]
        for key in keys:
            disk[key + b".bak"] = disk.pop(key) if moves else disk[key]
        if moves:
            replace(world, keys)
        commit(world)
        world.run(0.1)
        if not moves:
            replace(world, keys)
            commit(world)
            world.run(0.1)
        if guards_that_hold(world):
            break
    assert spread(world) <= HANDFUL


def test_a_lone_change_is_not_delayed() -> None:
    world = a_world()
    for number in range(10):
        replace(world, [KEYS[number]])
        commit(world)
        assert truth(world)[KEYS[number]] != TREE[KEYS[number]], "it is the truth in the step of its commit"
        world.run(3.0)
    assert spread(world) == 10


@pytest.mark.parametrize(("count", "rest_s"), [(3, HANDFUL_REST_S), (HANDFUL, HANDFUL_REST_S), (200, REST_S)])
def test_what_is_saved_together_waits_for_a_moment(count: int, rest_s: float) -> None:
    world = a_world()
    replace(world, KEYS[:count])
    commit(world)
    assert truth(world) == TREE
    assert rest_s * 0.9 <= world.until(lambda: spread(world) == count, rest_s + 0.2)


def test_a_script_that_does_fifty_files_reaches_the_others_when_it_has_ended() -> None:
    world = a_world()
    play(world, Story(1, 0.05, 50))
    world.until(lambda: spread(world) == 50, REST_S + 0.2)


def test_files_that_are_rewritten_again_and_again_go_on_reaching_the_others() -> None:
    world = a_world()
    replace(world, KEYS[:200])
    commit(world)
    world.run(1.0)
    for turn in range(100):
        value = file_of(f"turn {turn}")
        replace(world, KEYS[turn : turn + 3], value)
        commit(world)
        assert truth(world)[KEYS[turn]] == value
        world.run(0.1)


def test_who_has_just_made_files_may_write_them_again_at_once() -> None:
    world = a_world()
    disk = world["n1"].disk["photos"]
    for turn in range(2):
        for number in range(100):
            disk[key_of(f"new{number}")] = file_of(f"{turn} {number}")
        commit(world)
        world.until(
            lambda turn=turn: truth(world).get(key_of("new0")) == file_of(f"{turn} 0"), HANDFUL_REST_S + 0.05
        )
        world.run(1.0)


def make(world: FakeWorld, name: str, count: int) -> None:
    world["n1"].disk["photos"] |= {
        key_of(f"{name}{number}"): file_of(f"{name} {number}") for number in range(count)
    }
    commit(world)


def test_the_beginning_of_a_flood_of_new_files_is_not_spread() -> None:
    world = a_world()
    for turn in range(40):
        make(world, f"flood{turn}-", 50)
        world.run(0.05)
    assert truth(world) == TREE, "it is observed from its first file on"


def test_a_new_directory_is_spread_with_what_is_written_there() -> None:
    """A flood that takes a moment for its first file has made its directory before."""
    world = a_world()
    disk = world["n1"].disk["photos"]
    disk[key_of("new")] = TREE[key_of("d0")]
    commit(world)
    world.run(0.05)
    assert truth(world) == TREE
    disk[key_of("new/file")] = file_of("file", 20_000_000)
    commit(world)
    world.run(0.5)
    assert truth(world) == TREE, "all of it is observed"
    world.run(5.0)
    assert truth(world) == disk
    disk[key_of("other")] = TREE[key_of("d0")]
    commit(world)
    world.run(HANDFUL_REST_S + 0.05)
    assert truth(world) == disk, "it is not followed by anything"
    disk[key_of("another")] = TREE[key_of("d0")]
    disk[key_of("another/page")] = file_of("page", 1000)
    commit(world)
    assert truth(world) == disk, "a page in a new directory does not wait"


def test_a_steady_stream_of_new_files_flows_after_a_moment() -> None:
    world = a_world()
    late = 0
    for turn in range(40):
        make(world, f"new{turn}-", 10)
        late += key_of(f"new{turn}-0") not in truth(world)
        world.run(0.05)
    assert late <= 12, "half a second of it"


def test_a_stream_that_was_ordinary_says_nothing_of_what_comes_after_it() -> None:
    world = a_world()
    for turn in range(20):
        make(world, f"new{turn}-", 10)
        world.run(0.05)
    world.run(5.0)
    before = truth(world)
    assert key_of("new19-9") in before
    world["n1"]._say(wire.Activity(50, (wire.VolumeActivity("photos", 50, 3_000_000, 50),), (), ()))
    world.run(0.01)
    make(world, "flood-", 50)
    world.run(0.05)
    assert truth(world) == before, "its agent told of it before its commit came"


def test_the_incident_names_the_hands_of_all_that_is_held() -> None:
    world = a_world()
    for start in range(0, 40, 8):
        replace(world, KEYS[start : start + 8], LINK)
        world["n1"].hands |= {("photos", key): PHP for key in KEYS[start : start + 8]}
        commit(world)
        world.run(0.05)
    world.run(12.0)
    (hold,) = (world.fleet.hold_view(one) for one in world.fleet.hold_ids())
    assert hold is not None
    assert (hold.guard, hold.paths, [one.files for one in hold.writers]) == ("type_changes", 40, [40])
    (incident,) = world.incidents("runaway")
    (writer,) = incident.writers
    assert "40 files" in writer


# --- the rule itself ------------------------------------------------------------------------------


def ask(spree: Spree, now: float, count: int, changed_at: float, pace: float = 1.0) -> float | None:
    return spree.due(now, count, pace, changed_at, 5.0, 600.0)


def test_who_keeps_to_the_pace_never_waits() -> None:
    spree = Spree()
    assert [ask(spree, 1.01 * number, number, 1.01 * number) for number in range(1, 1000)] == [None] * 999


def test_each_rest_is_twice_the_one_before_until_it_is_paid() -> None:
    spree, now, rests = Spree(), 100.0, list[float]()
    for number in range(8):
        due = ask(spree, now, 10 * number + 10, now)
        assert due is not None
        rests.append(round(due - now, 3))
        assert ask(spree, due, 10 * number + 10, now) is None
        now = due
    assert rests == [min(5.0, REST_S * 2**number) for number in range(8)]
    assert ask(spree, now + 1000.0, 81, now + 1000.0) is None, "all was paid"


def test_a_debt_is_paid_by_time() -> None:
    spree = Spree()
    assert ask(spree, 10.0, 4, 10.0, pace=100.0) == pytest.approx(10.04)
    assert ask(spree, 10.04, 4, 10.0, pace=100.0) is None


def test_whoever_owes_for_a_whole_window_is_let_through_at_last() -> None:
    spree, now = Spree(), 0.0
    while ask(spree, now, int(2 * now) + 10, now) is not None:
        now += 0.05
    assert now == pytest.approx(600.0, abs=0.1)


def test_what_is_undone_is_no_debt() -> None:
    spree = Spree()
    assert ask(spree, 0.0, 50, 0.0) is not None
    assert ask(spree, 0.01, 1, 0.0) is None
    assert REST_S * 2**DOUBLINGS_MAX > 5.0, "so many doublings reach observe_s"
