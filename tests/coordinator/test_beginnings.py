"""The first of a flood, of a node that is too busy to tell of the rest at once: silence is no end of it."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from braked import KEYS, TREE, a_world, commit, guards_that_hold, truth
from fakeworld import file_of, key_of

Disk = dict[bytes, bytes]


def makes(count: int) -> Callable[[Disk], None]:
    return lambda disk: disk.update(
        {key_of(f"new{number}"): file_of(f"new {number}") for number in range(count)}
    )


def replaces(count: int) -> Callable[[Disk], None]:
    return lambda disk: disk.update({key: file_of(f"other {key!r}") for key in KEYS[:count]})


def removes(count: int) -> Callable[[Disk], None]:
    def remove(disk: Disk) -> None:
        for key in KEYS[:count]:
            del disk[key]

    return remove


BEGINNINGS = {
    "40 new files": makes(40),
    "400 new files": makes(400),
    "80 files replaced": replaces(80),
    "90 files removed": removes(90),
}


@pytest.mark.parametrize("name", list(BEGINNINGS))
def test_what_a_node_tells_no_more_of_for_a_moment_waits_for_its_word_that_this_is_all(name: str) -> None:
    """On a machine with much to do the second commit of a flood came a third of a second behind the first."""
    world = a_world()
    node = world["n1"]
    node.deaf = True  # it has no moment to answer in
    BEGINNINGS[name](node.disk["photos"])
    commit(world)
    world.run(2.5)
    assert truth(world) == TREE
    node.deaf = False
    world.until(lambda: truth(world) == node.disk["photos"], 3.0)


@pytest.mark.parametrize("name", list(BEGINNINGS))
def test_a_node_that_never_gives_its_word_is_waited_for_no_longer_than_a_burst_is_observed(name: str) -> None:
    world = a_world()
    node = world["n1"]
    node.deaf = True
    BEGINNINGS[name](node.disk["photos"])
    commit(world)
    world.until(lambda: truth(world) == node.disk["photos"], 5.5)


@pytest.mark.parametrize("name", list(BEGINNINGS))
def test_where_nobody_watches_silence_has_to_do(name: str) -> None:
    """A question is a scan there, and a scan finds all at once."""
    world = a_world()
    node = world["n1"]
    node.watches, node.deaf = False, True
    node._status("photos")
    BEGINNINGS[name](node.disk["photos"])
    commit(world)
    world.until(lambda: truth(world) == node.disk["photos"], 1.5)


@pytest.mark.parametrize("name", list(BEGINNINGS))
def test_in_a_hush_silence_has_to_do(name: str) -> None:
    """A proof takes as long as a scan then: each nine files that were saved together were late by 5 s."""
    world = a_world()
    node = world["n1"]
    node.hush, node.deaf = True, True
    node._status("photos")
    BEGINNINGS[name](node.disk["photos"])
    commit(world)
    world.until(lambda: truth(world) == node.disk["photos"], 1.5)


def test_the_few_that_were_told_before_a_storm_was_known_wait_for_its_end() -> None:
    world = a_world()
    node = world["n1"]
    makes(40)(node.disk["photos"])
    commit(world)
    node.storm, node.deaf = True, True
    node._status("photos")
    world.run(20.0)
    assert truth(world) == TREE
    node.storm, node.deaf = False, False
    node._status("photos")
    world.until(lambda: truth(world) == node.disk["photos"], 3.0)


def test_a_burst_that_was_let_through_says_nothing_of_what_begins_after_a_rest() -> None:
    """Whoever had copied 200 pictures a moment before had the first 70 files of a flood spread at once."""
    world = a_world()
    node = world["n1"]
    makes(400)(node.disk["photos"])
    commit(world)
    world.until(lambda: truth(world) == node.disk["photos"], 3.0)
    before = truth(world)
    world.run(2.0)
    node.deaf = True
    node.disk["photos"] |= {key_of(f"flood{number}"): file_of(f"flood {number}") for number in range(70)}
    commit(world)
    world.run(2.5)
    assert truth(world) == before


def test_a_few_dozen_deletions_amid_ordinary_writing_wait_for_its_word() -> None:
    """Who goes on writing without becoming a burst is not glanced at again, and may begin to delete."""
    world = a_world()
    node = world["n1"]
    for turn in range(16):
        node.disk["photos"] |= {key_of(f"new{turn}-{at}"): file_of(f"{turn} {at}") for at in range(10)}
        commit(world)
        world.run(0.05)
    world.run(0.05)
    before = truth(world)
    assert before == node.disk["photos"]
    node.deaf = True
    removes(30)(node.disk["photos"])
    commit(world)
    world.run(2.5)
    assert truth(world) == before
    node.deaf = False
    world.until(lambda: truth(world) == node.disk["photos"], 3.0)


@pytest.mark.parametrize("answers", [True, False])
def test_who_rewrites_the_same_files_on_and_on_is_spread_on_and_on(answers: bool) -> None:
    """Some are removed and come back, too. A silence that never comes is not waited for, once what is owed is paid."""
    world, rng, keys = a_world(), random.Random(1), KEYS[:70]
    writer = world["n1"]
    writer.deaf, disk = not answers, writer.disk["photos"]
    moves, last = 0, truth(world)
    for number in range(900):
        disk.update({key: file_of(f"{number} {key!r}") for key in rng.sample(keys, 4)})
        gone = rng.choice(keys)
        disk[gone] = file_of(number)
        if number % 2:
            del disk[gone]
        commit(world)
        world.run(0.4)
        if number >= 600:
            now = truth(world)
            moves, last = moves + (now != last), now
    assert not guards_that_hold(world)
    assert moves > 200
