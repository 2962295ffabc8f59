"""Whose change a writer's root tells of, and which second versions are given up."""

from __future__ import annotations

from typing import Any

import pytest

from closeranks_coordinator.core import pushing
from closeranks_coordinator.core.model import BaselineCreateAsked, PinAsked, RootStored
from closeranks_coordinator.core.rules import GuardRules
from closeranks_proto import messages as wire
from fakeworld import FakeWorld, file_of, key_of, volume_config
from fakeworld.trees import tree

NAMES = ("node-01", "node-02", "node-03", "node-04")
FILES = tree("a/one.jpg", "c.txt")


def fleet(**changes: Any) -> FakeWorld:
    asked: dict[str, Any] = {"settle_s": 1.0, "scan_interval_s": 1.0, **changes}
    config = volume_config(policy="any-writer", nodes=NAMES, writers=NAMES, **asked)
    world = FakeWorld(NAMES, [config], {"photos": FILES})
    for agent in world.agents.values():
        agent.watches = True
    return world.started()


def same(world: FakeWorld) -> bool:
    disks = [agent.disk["photos"] for agent in world.agents.values()]
    return all(disk == disks[0] for disk in disks)


def test_a_tree_that_is_announced_with_a_push_has_the_writers_own_changes_in_it() -> None:
    """A journal that grew too long becomes one announcement, which has the cause of the last step in it."""
    world, writer = fleet(), "node-02"
    world["node-01"].put("photos", "c.txt", file_of("new"))
    world.until(lambda: same(world) and world.in_rank())
    files = world[writer].disk["photos"]
    world[writer].deaf = True
    world["node-01"].put("photos", "pushed.txt", file_of("pushed"))
    world.run(1)
    files[key_of("pushed.txt")] = file_of("pushed")
    files[key_of("c.txt")] = FILES[key_of("c.txt")]  # it went back to the elder version, and may
    root = world.node_roots[writer, "photos"] = world.plant(files)
    world.event(RootStored(writer, "photos", root, "push", world.mono))
    world[writer].deaf = False
    world.until(lambda: same(world) and world.in_rank())
    assert world["node-01"].disk["photos"][key_of("c.txt")] == FILES[key_of("c.txt")]


@pytest.mark.parametrize("told", [True, False])
def test_what_a_push_brought_is_no_change_also_where_it_is_told_anew_to_a_new_process(told: bool) -> None:
    """The path is absent again as it was when the writer was heard last: nothing else tells that it did not write."""
    world, writer, path = fleet(), "node-03", "new.txt"
    world[writer].deaf = True
    world["node-01"].put("photos", path, file_of("new"))
    world.until(lambda: key_of(path) in world["node-02"].disk["photos"])
    world["node-01"].remove("photos", path)
    world.until(lambda: key_of(path) not in world["node-02"].disk["photos"])
    world.restart()
    for agent in world.agents.values():
        agent.connect()
    world[writer].deaf = False
    files = world[writer].disk["photos"]
    files |= {key_of(path): file_of("new"), key_of("own.txt"): file_of("own")}
    root = world.node_roots[writer, "photos"] = world.plant(files)
    brought = (key_of(path),) if told else ()
    world.event(RootStored(writer, "photos", root, "scan", world.mono, brought=brought))
    world.until(lambda: same(world) and world.in_rank())
    found = world["node-01"].disk["photos"]
    assert found[key_of("own.txt")] == file_of("own"), "what it wrote itself is the truth"
    assert (key_of(path) in found) is not told


@pytest.mark.parametrize("had", [True, False])
@pytest.mark.parametrize("policy", ["quorum", "baseline"])
def test_an_agent_excuses_nothing_by_telling_that_it_was_brought(policy: str, had: bool) -> None:
    """Only what the truth has had can have been brought: a hostile agent would else be late, and never suspect."""
    world = FakeWorld(NAMES, [volume_config(policy=policy, nodes=NAMES)], {"photos": FILES})
    world.start(*NAMES)
    path, elder = key_of("c.txt"), FILES[key_of("c.txt")]
    for content in (elder, file_of("newer")):
        for node in NAMES:
            world[node].put("photos", "c.txt", content)
        world.run(2)
        if policy == "baseline":
            name = f"good-{len(content)}-{content.hex()[-4:]}"
            assert not isinstance(world.ask(BaselineCreateAsked(name, "photos", "node-01")), str)
            assert not isinstance(world.ask(PinAsked("photos", name)), str)
        world.until(world.in_rank)
    files = world["node-03"].disk["photos"]
    files[path] = elder if had else file_of("planted")
    root = world.node_roots["node-03", "photos"] = world.plant(files)
    known = len(world.incidents("divergence"))
    world.event(RootStored("node-03", "photos", root, "scan", world.mono, brought=(path,)))
    world.run(world.config.volumes[0].settle_s + 10)
    world.until(world.in_rank, 60)
    assert [one.node for one in world.incidents("divergence")][known:] == ([] if had else ["node-03"])


def test_a_second_version_that_others_have_stays_though_its_writer_has_lost_it() -> None:
    """Right after a start nobody was compared yet but the writer, on whose disk it is damaged: it is not given up."""
    world = fleet()
    loser = world["node-02"]
    world["node-01"].put("photos", "c.txt", file_of("first"))
    loser.put("photos", "c.txt", file_of("second"))
    world.until(lambda: same(world) and world.in_rank())
    kept = key_of(world.fleet.conflicts("photos")[0].kept_path or "")
    loser.deaf = True
    loser.disk["photos"][kept] = file_of("damaged")
    before = world.node_roots["node-02", "photos"]
    root = world.node_roots["node-02", "photos"] = world.plant(loser.disk["photos"])
    found = ((kept, file_of("damaged")),)  # by a scrub: it is only late
    world.event(RootStored("node-02", "photos", root, "scrub", world.mono, (), (), before, found))
    world.restart()
    loser.connect()
    loser.deaf = False
    world.until(lambda: same(world) and world.in_rank())
    assert loser.disk["photos"][kept] == file_of("second")


def test_a_second_version_within_another_ones_directory_is_not_given_up_with_it() -> None:
    """Nobody has it under its name yet, and whoever lost the conflict about the directory never had it."""
    world = fleet()
    loser = world["node-02"]
    for agent in world.agents.values():
        agent.deaf = True
    world["node-01"].disk["photos"].pop(key_of("a/one.jpg"))
    world["node-01"].put("photos", "a", file_of("a file now"))
    world.run(1)
    loser.put("photos", "a/one.jpg", file_of("second"))
    world.until(lambda: bool(world.fleet.conflicts("photos")), 5)
    directory = world.fleet.conflicts("photos")[0].kept_path or ""
    files = world["node-03"].disk["photos"]
    files[key_of(directory)] = FILES[key_of("a")]
    world["node-03"].put("photos", f"{directory}/one.jpg", file_of("within"))
    world.until(lambda: len(world.fleet.conflicts("photos")) == 2, 5)
    kept = world.fleet.conflicts("photos")[0].kept_path or ""
    assert kept.startswith(f"{directory}/one.conflict-node-03-")
    world.run(1)
    for agent in world.agents.values():
        agent.deaf = False
    world.until(lambda: same(world) and world.in_rank())
    found = world["node-01"].disk["photos"]
    assert (found[key_of(f"{directory}/one.jpg")], found[key_of(kept)]) == (
        file_of("second"),
        file_of("within"),
    )


def test_a_writer_that_is_behind_and_goes_to_an_elder_version_writes() -> None:
    """Of a truth that came twice it held the second: what was between is no step on its way, as it is for others."""
    world, writer, path = fleet(), "node-03", "c.txt"
    for value in (file_of("between"), FILES[key_of(path)]):
        world["node-01"].put("photos", path, value)
        world.until(lambda: same(world) and world.in_rank())
    world[writer].deaf = True
    world["node-01"].put("photos", path, file_of("newest"))
    world.run(1)
    world[writer].put("photos", path, file_of("between"))
    world.until(lambda: bool(world.fleet.conflicts("photos")), 5)
    world[writer].deaf = False
    world.until(lambda: same(world) and world.in_rank())
    (found,) = world.fleet.conflicts("photos")
    assert found.loser == writer
    assert world["node-01"].disk["photos"][key_of(found.kept_path or "")] == file_of("between")


def test_what_a_writer_was_seen_to_have_held_is_durable_with_the_merge() -> None:
    """It removed what another had changed before. Asked anew after a restart, that would be another conflict."""
    world = fleet(guards=GuardRules(warm_up_s=0.0))
    writer = world["node-02"]
    writer.deaf = True
    for path in ("c.txt", "other.txt"):
        world["node-01"].put("photos", path, file_of(f"first {path}"))
    world.until_state("node-02", "lagging")
    writer.write("photos", "c.txt", None)
    # A deletion waits: its node has told of it before.
    world.until(lambda: bool(world.fleet.conflicts("photos")))
    world.restart()
    writer.deaf = False
    world.until(lambda: same(world) and world.in_rank())
    assert len(world.fleet.conflicts("photos")) == 1


@pytest.mark.parametrize(("second", "edits_max"), [("x", 100), ("x/a", 100), ("x/a", 1)])
def test_what_came_first_is_brought_to_its_path_once_the_second_version_lies_under_its_conflict_name(
    second: str, edits_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else has the second one yet. Of a directory that is all that lies in it, which may take several pushes."""
    monkeypatch.setattr(pushing, "PUSH_MAX_EDITS", edits_max)
    world = fleet()
    first, loser = world["node-01"], world["node-02"]
    first.put("photos", "x", file_of("first"))
    loser.put("photos", second, file_of("second"))
    first.deaf = True
    for name in NAMES[2:]:
        world[name].disconnect()
    world.until(lambda: bool(world.fleet.conflicts("photos")))
    (found,) = world.fleet.conflicts("photos")
    assert found.loser == loser.name
    kept = key_of(found.kept_path or "") + key_of(second)[1:]
    if edits_max == 1:
        world.until(lambda: key_of(found.kept_path or "") in loser.disk["photos"])
        loser.pushes_fail = True  # what is left is chosen anew
        world.run(1)
        loser.pushes_fail = False
    world.until(lambda: loser.disk["photos"].get(key_of("x")) == file_of("first"))
    pushes = [one for one in loser.got if isinstance(one, wire.Push)]
    keys = [
        {edit.key for edit in push.edits} for push in pushes[1:]
    ]  # the first was made before the conflict
    placed = max(at for at, one in enumerate(keys) if kept in one)
    assert not any(key == b"x" or key.startswith(b"x\0") for one in keys[: placed + 1] for key in one)
    assert loser.disk["photos"][kept] == file_of("second")
