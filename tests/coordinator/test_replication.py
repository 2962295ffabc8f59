"""Stories of volumes whose writes closeranks carries itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from closeranks_coordinator.core.model import (
    Connected,
    QuarantineAsked,
    Refusal,
    ReleaseAsked,
    ResyncAsked,
    RootStored,
)
from closeranks_coordinator.core.shapes import ActionView
from closeranks_proto import messages as wire
from closeranks_proto.digests import XXH3_128
from closeranks_proto.entries import decode_entry, encode_entry
from fakeworld import FakeWorld, file_of, key_of, volume_config
from fakeworld.trees import tree


def names(count: int) -> list[str]:
    return [f"node-{number:02d}" for number in range(1, count + 1)]


FILES = tree("a/one.jpg", "a/two.jpg", "b/three.jpg", "c.txt", "d/e/f.bin")


def fleet(count: int, writers: int | None = None) -> FakeWorld:
    """`writers` of `count` nodes write; None: all of them."""
    nodes = names(count)
    policy = "any-writer" if writers is None else "writers"
    config = volume_config(
        policy=policy, nodes=nodes, writers=tuple(nodes[:writers]), settle_s=1.0, scan_interval_s=1.0
    )
    world = FakeWorld(nodes, [config], {"photos": FILES})
    for agent in world.agents.values():
        agent.watches = True
    return world.started()


def same(world: FakeWorld) -> bool:
    disks = [agent.disk["photos"] for agent in world.agents.values()]
    return all(disk == disks[0] for disk in disks)


def conflicts(world: FakeWorld):  # type: ignore[no-untyped-def]
    return world.fleet.conflicts("photos")


def test_a_writers_change_reaches_every_node_within_moments() -> None:
    world = fleet(4, 1)
    world["node-01"].put("photos", "new/file.jpg", file_of("new"))
    took = world.until(lambda: same(world))
    assert took < 0.5
    assert world["node-04"].disk["photos"][key_of("new/file.jpg")] == file_of("new")
    world.until(world.in_rank, 2)
    assert not world.incidents()


def test_a_change_elsewhere_is_divergence() -> None:
    world = fleet(4, 1)
    world["node-03"].put("photos", "a/one.jpg", file_of("rogue"))
    world.until(lambda: world.incidents("divergence"))
    world.until(lambda: same(world) and world.in_rank())
    assert world.incidents()[0].node == "node-03"
    assert world["node-01"].disk["photos"] == FILES
    assert "writers: only what node-01 changed" in world.incidents()[0].evidence["decided_by"]


def test_what_comes_second_is_kept_under_a_conflict_name() -> None:
    world = fleet(4)
    world["node-01"].put("photos", "c.txt", file_of("first"))
    world["node-02"].put("photos", "c.txt", file_of("second"))
    world.until(lambda: same(world) and world.in_rank())
    (found,) = conflicts(world)
    assert (found.winner, found.loser, found.state) == ("node-01", "node-02", "open")
    files = world["node-03"].disk["photos"]
    assert files[key_of("c.txt")] == file_of("first")
    assert files[key_of(found.kept_path)] == file_of("second")
    assert [one.kind for one in world.incidents()] == ["conflict"]
    world["node-04"].remove("photos", found.kept_path)
    world.until(lambda: same(world) and world.in_rank())
    assert conflicts(world)[0].state == "resolved"
    assert world.incidents()[0].state == "closed"


def test_attributes_that_clash_are_told_as_what_they_are() -> None:
    """Two modes were given to the same bytes: nothing is kept beside, and nobody is said to have deleted anything."""
    world = fleet(4)
    content = FILES[key_of("c.txt")]
    assert content is not None
    entry = decode_entry(content, XXH3_128.width)
    world["node-01"].put("photos", "c.txt", encode_entry(replace(entry, mode=0o600)))
    world["node-02"].put("photos", "c.txt", encode_entry(replace(entry, mode=0o640)))
    world.until(lambda: same(world) and world.in_rank())
    (found,) = conflicts(world)
    assert (found.winner, found.loser, found.kept_path, found.state) == (
        "node-01",
        "node-02",
        None,
        "resolved",
    )
    assert found.what == "node-02 had changed only its attributes; nothing had to be kept"
    (incident,) = world.incidents("conflict")
    text = incident.timeline[0].text
    assert "node-02's had the same content and other attributes" in text
    assert "deleted" not in text


def test_a_conflict_with_a_deletion_that_came_first_is_not_told_as_two_versions() -> None:
    world = fleet(4)
    for agent in world.agents.values():
        agent.pushes_fail = True
    world["node-01"].remove("photos", "c.txt")
    world.until(lambda: world.volume("node-02").lagging_paths == 1)
    world["node-02"].put("photos", "c.txt", file_of("second"))
    world.until(lambda: conflicts(world))
    for agent in world.agents.values():
        agent.pushes_fail = False
    world.until(lambda: same(world) and world.in_rank(), 120)
    (found,) = conflicts(world)
    assert (found.winner, found.what) == (
        "node-01",
        "it had been deleted already; the version of node-02 is kept",
    )
    (incident,) = world.incidents("conflict")
    assert "node-01 deleted it first, so there is no c.txt any more" in incident.timeline[0].text
    assert "version came first" not in incident.timeline[0].text


def test_who_changes_the_mode_of_its_second_version_before_it_is_kept_does_not_lose_it() -> None:
    """It still has the content under the plain name: only somebody who wrote over it has given it up."""
    world = fleet(4)
    for agent in world.agents.values():
        agent.pushes_fail = True
    world["node-01"].put("photos", "c.txt", file_of("first"))
    world["node-02"].put("photos", "c.txt", file_of("second"))
    world.until(lambda: conflicts(world))
    mode = replace(decode_entry(file_of("second"), XXH3_128.width), mode=0o600)
    world["node-02"].put("photos", "c.txt", encode_entry(mode))
    world.run(0.2)
    for agent in world.agents.values():
        agent.pushes_fail = False
    world.until(lambda: same(world) and world.in_rank(), 120)
    (found,) = conflicts(world)
    assert found.state == "open"
    assert world["node-03"].disk["photos"][key_of(found.kept_path)] == file_of("second")


def test_a_converge_does_not_take_a_second_version_away_before_it_lies_under_its_conflict_name() -> None:
    """Removals come first in it: for a moment only a trash had what nobody had fetched, and it left the truth."""
    world = fleet(4)
    late = world["node-02"]
    late.pushes_fail = True
    world["node-01"].remove("photos", "c.txt")
    world.run(0.5)
    late.put("photos", "c.txt", file_of("second"))
    world.until(lambda: bool(world.sent("node-02", wire.Converge)), 60)
    (found,) = conflicts(world)
    order = world.sent("node-02", wire.Converge)[0]
    assert isinstance(order, wire.Converge)
    target = dict(world.tree.walk(order.target_root))
    assert target[key_of("c.txt")] == target[key_of(found.kept_path)] == file_of("second")
    late.pushes_fail = False
    world.until(lambda: same(world) and world.in_rank(), 120)
    files = world["node-03"].disk["photos"]
    assert files[key_of(found.kept_path)] == file_of("second")
    assert key_of("c.txt") not in files
    assert conflicts(world)[0].state == "open"


def test_a_second_version_that_waits_for_its_writer_is_not_given_up_by_a_release() -> None:
    """It lies on the disk of one who is away, under the plain name: nobody has it under its own, and it is not lost."""
    world = fleet(4)
    away = world["node-02"]
    away.pushes_fail = away.deaf = True
    world["node-01"].put("photos", "c.txt", file_of("first"))
    away.put("photos", "c.txt", file_of("second"))
    world.until(lambda: bool(conflicts(world)), 60)
    away.stop()
    world.run(30)
    assert world.state("node-03") == "lagging"
    for name in ("node-01", "node-03", "node-04"):
        assert world.ask(ReleaseAsked(name)) == "409 not_quarantined"
    away.pushes_fail = away.deaf = False
    away.start()
    world.until(lambda: same(world) and world.in_rank(), 120)
    (found,) = conflicts(world)
    assert found.state == "open"
    assert world["node-03"].disk["photos"][key_of(found.kept_path)] == file_of("second")


def test_a_merged_version_whose_only_holder_deletes_it_keeps_nobody_behind() -> None:
    """One gives it a mode, another its content, and deletes it before anybody could fetch it: no disk has it."""
    world = fleet(4)
    old = FILES[key_of("c.txt")]
    assert old is not None
    mode = encode_entry(replace(decode_entry(old, XXH3_128.width), mode=0o600))
    for agent in world.agents.values():
        agent.pushes_fail = True
    world["node-02"].put("photos", "c.txt", file_of("new content"))
    world.run(0.2)
    world["node-01"].put("photos", "c.txt", mode)
    world.run(0.2)
    world["node-02"].remove("photos", "c.txt")
    world.run(0.2)
    for agent in world.agents.values():
        agent.pushes_fail = False
    world.until(lambda: same(world) and world.in_rank(), 120)
    assert key_of("c.txt") not in world["node-03"].disk["photos"]


def test_a_node_that_slept_through_a_removal_does_not_bring_it_back() -> None:
    world = fleet(4)
    world["node-04"].stop()
    world.run(5)
    world["node-01"].remove("photos", "a")
    world.run(5)
    world["node-04"].start()
    world.until(lambda: same(world) and world.in_rank())
    assert key_of("a/one.jpg") not in world["node-04"].disk["photos"]
    assert not conflicts(world)


def test_voters_are_asked_when_a_difference_begins_and_never_at_rest() -> None:
    world = FakeWorld(names(5), [volume_config(settle_s=0.5, scan_interval_s=30.0, on_divergence="alert")])
    for agent in world.agents.values():
        agent.watches, agent.scan_interval_s = True, 30.0
    world.started()
    world.run(40)
    assert not any(world.sent(name, wire.Ask) for name in world.agents)
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    assert world.until(lambda: world.incidents()) < 1.0
    asked = {name: len(world.sent(name, wire.Ask)) for name in world.agents}
    world.run(60)
    assert {name: len(world.sent(name, wire.Ask)) for name in world.agents} == asked


def test_a_watcher_that_was_slow_to_answer_under_load_is_asked_again_as_soon_as_it_has_answered() -> None:
    """Else the verdict on whoever comes next would wait for as long as the load once made the answer wait."""
    config = volume_config(settle_s=0.5, scan_interval_s=300.0, on_divergence="alert")
    world = FakeWorld(names(5), [config])
    for agent in world.agents.values():
        agent.watches, agent.scan_interval_s = True, 300.0
    world.started()
    world["node-02"].deaf = True
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world.run(8)
    assert not world.incidents(), "node-02 has not looked"
    world["node-02"].deaf = False
    world.until(lambda: len(world.incidents()) == 1)
    world["node-04"].write("photos", "a/two.jpg", file_of("another"))
    assert world.until(lambda: len(world.incidents()) == 2) < 1.5


def test_a_node_that_pushes_do_not_bring_on_is_converged() -> None:
    world = fleet(3, 1)
    world["node-03"].pushes_fail = True
    world["node-01"].put("photos", "c.txt", file_of("new"))
    world.until(lambda: bool(world.sent("node-03", wire.Converge)))
    world.until(lambda: same(world) and world.in_rank())


def test_a_file_that_is_replaced_without_rest_fills_no_log() -> None:
    """Its half-written neighbour is pushed and gone again, each second; what lasts is told after a minute."""
    world = fleet(3, 1)

    def warned() -> int:
        return sum("some pushed paths could not be made" in one for one in world.logs)

    def fail_once(turn: int) -> None:
        world["node-03"].pushes_fail = True
        world["node-01"].put("photos", "c.txt.tmp", file_of(turn))
        world.run(1.0)
        world["node-03"].pushes_fail = False
        world["node-01"].remove("photos", "c.txt.tmp")
        world["node-01"].put("photos", "c.txt", file_of(turn))
        world.until(lambda: same(world))

    for turn in range(8):
        fail_once(turn)
    assert warned() == 1
    world.run(60.0)
    fail_once(8)
    assert warned() == 2


def test_a_node_that_has_no_room_for_a_push_says_so_at_once() -> None:
    """Not only when it is converged, ten seconds later: until then it would only look slow."""
    world = fleet(3, 1)
    late = world["node-03"]
    late.pushes_fail = True
    late.push_problem = wire.Problem("no_space", "2 MB are missing", needed_bytes=2_000_000, free_bytes=5)

    def problem() -> tuple[str, int | None] | None:
        found = world.view("node-03").volumes[0].problem
        assert found is None or found.since is not None
        return None if found is None else (found.code, found.needed_bytes)

    world["node-01"].put("photos", "c.txt", file_of("new"))
    assert world.until(lambda: problem() == ("no_space", 2_000_000)) < 1.0
    assert not world.sent("node-03", wire.Converge)
    late.pushes_fail = False
    world.until(lambda: same(world) and world.in_rank())
    assert problem() is None
    late.pushes_fail = True
    world["node-01"].put("photos", "d.txt", file_of("newer"))
    world.until(lambda: problem() is not None)
    world["node-01"].remove("photos", "d.txt")
    world.until(lambda: same(world) and world.in_rank())
    assert problem() is None, "there is nothing left to make room for"


def test_conflicts_survive_a_restart_of_the_coordinator() -> None:
    world = fleet(3)
    world["node-01"].put("photos", "c.txt", file_of("first"))
    world["node-02"].put("photos", "c.txt", file_of("second"))
    world.until(lambda: bool(conflicts(world)))
    before = conflicts(world)
    world.restart()
    assert conflicts(world) == before
    world.until(lambda: same(world) and world.in_rank())


def test_the_first_truth_is_the_union_of_the_writers() -> None:
    world = FakeWorld(
        names(3), [volume_config(policy="any-writer", nodes=names(3), writers=tuple(names(3)), settle_s=1.0)],
        {"photos": FILES},
    )  # fmt: skip
    world["node-01"].put("photos", "only/here", file_of("1"))
    world["node-02"].put("photos", "c.txt", file_of("differs"))
    world.start()
    world.until(lambda: same(world) and world.in_rank())
    files = world["node-03"].disk["photos"]
    assert files[key_of("only/here")] == file_of("1")
    assert files[key_of("c.txt")] == FILES[key_of("c.txt")]
    (found,) = conflicts(world)
    assert files[key_of(found.kept_path)] == file_of("differs")


@pytest.mark.parametrize("is_there", [True, False], ids=["still reads its tree", "was not heard"])
@pytest.mark.parametrize("policy", ["writers", "any-writer"])
def test_empty_trees_are_no_truth_while_a_writer_may_have_files(policy: str, is_there: bool) -> None:
    """They are read at once, and the one that has the site's files may take hours, or come up last.

    It joined what the empty ones had founded, and all its files went to its trash.
    """
    world = FakeWorld(
        names(3),
        [volume_config(policy=policy, nodes=names(3), writers=tuple(names(3)), settle_s=1.0)],
        {"photos": {}},
    )
    world["node-01"].put("photos", "only/here", file_of("1"))
    if is_there:
        world["node-01"].connect()
    world.start("node-02", "node-03")
    world.run(600)
    assert world.fleet.volume_view(world.now(), "photos").truth_root is None
    world["node-01"].start()
    world.until(lambda: same(world) and world.in_rank())
    assert world["node-03"].disk["photos"][key_of("only/here")] == file_of("1")
    assert not world["node-01"].trash


def test_the_first_file_is_a_truth_although_a_writer_has_not_been_heard() -> None:
    writers = tuple(names(3))
    world = FakeWorld(
        names(3),
        [volume_config(policy="any-writer", nodes=names(3), writers=writers, settle_s=1.0)],
        {"photos": {}},
    )
    world.start("node-02", "node-03")
    world.run(60)
    world["node-02"].put("photos", "first", file_of("1"))
    world.until(lambda: key_of("first") in world["node-03"].disk["photos"])


@pytest.mark.parametrize("ends", ["gone", "in trouble"])
def test_a_writer_that_will_not_read_its_tree_is_not_waited_for_without_end(ends: str) -> None:
    world = FakeWorld(
        names(3), [volume_config(policy="any-writer", nodes=names(3), writers=tuple(names(3)), settle_s=1.0)],
        {"photos": FILES},
    )  # fmt: skip
    world["node-01"].connect()
    world.start("node-02", "node-03")
    world.run(60)
    assert world.fleet.volume_view(world.now(), "photos").truth_root is None
    if ends == "gone":
        world["node-01"].disconnect()
    else:
        world["node-01"].problem("photos", "not_mounted")
    world.run(10)
    assert world.fleet.volume_view(world.now(), "photos").truth_root is not None


def test_a_rename_moves_no_content() -> None:
    world = fleet(3, 1)
    files = world["node-01"].disk["photos"]
    value = files[key_of("a/one.jpg")]
    world["node-01"].put("photos", "z/moved.jpg", value)
    world["node-01"].remove("photos", "a/one.jpg")
    world.until(lambda: same(world))
    assert world["node-03"].bytes_moved == 0


def test_a_late_writer_keeps_what_it_has_not_told_of_when_it_is_converged() -> None:
    """Its order was made of what was known of it: what it changed since waits to be merged."""
    world = fleet(3)
    late = world["node-02"]
    late.pushes_fail, late.order_s = True, 2.0
    world["node-01"].put("photos", "c.txt", file_of("theirs"))
    world["node-01"].put("photos", "a/one.jpg", file_of("theirs too"))
    world.until(lambda: bool(world.sent("node-02", wire.Converge)), 60)
    (order,) = world.sent("node-02", wire.Converge)
    assert isinstance(order, wire.Converge)
    assert (order.mode, order.base) == ("lag", world.node_roots["node-02", "photos"])
    assert order.ordinary, "what writers replaced may give way in its trash"
    session, late.session = late.session, None  # its commit is on its way for longer than the converge takes
    late.disk["photos"][key_of("c.txt")] = file_of("mine")
    late._commit("photos", world.plant(late.disk["photos"]), "watch")
    late.session = session
    world.until(lambda: same(world) and world.in_rank(), 120)
    assert late.disk["photos"][key_of("a/one.jpg")] == file_of("theirs too")
    assert late.disk["photos"][key_of("c.txt")] == file_of("theirs")
    (conflict,) = conflicts(world)
    assert (conflict.loser, conflict.winner) == ("node-02", "node-01")
    assert file_of("mine") in late.disk["photos"].values()


def test_who_is_on_its_way_to_the_truth_gives_what_it_has_where_nobody_else_is_left() -> None:
    """One is fenced, all others lack something that nobody has: each waited for the others to be healthy."""
    world = fleet(3, 1)
    world["node-01"].put("photos", "new.txt", file_of("gone before anybody fetched it"))
    for name in ("node-02", "node-03"):
        world[name].pushes_fail = True
    world.until(lambda: world.state("node-02") == world.state("node-03") == "lagging")
    world["node-01"].disk["photos"].pop(key_of("c.txt"))
    assert isinstance(world.ask(QuarantineAsked("node-01", "a person")), ActionView)
    for name in ("node-02", "node-03"):
        world[name].deaf = True
    world.until(lambda: world.state("node-02") == world.state("node-03") == "resyncing", 120)
    assert isinstance(world.ask(ResyncAsked("node-01", None, False)), ActionView)
    world.run(5)
    orders = world.sent("node-01", wire.Converge)
    assert orders
    assert set(orders[-1].sources) == {"node-02", "node-03"}


def lost_writer() -> FakeWorld:
    """The only writer is fenced, has changed its file again, and nobody has what the truth has there."""
    world = fleet(3, 1)
    for name in ("node-02", "node-03"):
        world[name].pushes_fail = True
    world["node-01"].put("photos", "new.txt", file_of("nobody fetched it"))
    world.until(lambda: world.state("node-02") == "lagging")
    assert isinstance(world.ask(QuarantineAsked("node-01", "a person")), ActionView)
    world["node-01"].write("photos", "new.txt", file_of("what is there now"))
    world.run(3)
    return world


def test_a_writer_is_released_by_hand_when_nobody_can_give_what_it_lacks() -> None:
    world = lost_writer()
    assert isinstance(world.ask(ReleaseAsked("node-01")), ActionView)
    for name in ("node-02", "node-03"):
        world[name].pushes_fail = False
    world.until(lambda: same(world) and world.in_rank(), 120)
    assert world["node-03"].disk["photos"][key_of("new.txt")] == file_of("what is there now")


def test_a_writer_is_not_released_while_somebody_can_give_what_it_lacks() -> None:
    world = lost_writer()
    world["node-02"].put("photos", "new.txt", file_of("nobody fetched it"))
    world.run(3)
    assert world.ask(ReleaseAsked("node-01")) == "409 not_verified"


def test_what_lies_behind_another_fence_alone_is_not_given_up() -> None:
    """node-02 waits for what node-01 alone has, and node-01 can be released: that has to be first."""
    world = fleet(3)
    for name in ("node-02", "node-03"):
        world[name].pushes_fail = True
    world["node-01"].put("photos", "new.txt", file_of("only there"))
    world.until(lambda: world.state("node-02") == "lagging")
    for name in ("node-02", "node-01"):
        assert isinstance(world.ask(QuarantineAsked(name, "a person")), ActionView)
    refused = world.event(ReleaseAsked("node-02")).answer
    assert isinstance(refused, Refusal)
    assert (refused.status, refused.code) == (409, "not_verified")
    assert "Some of what it lacks lies only on node-01, fenced as well" in refused.message
    assert isinstance(world.ask(ReleaseAsked("node-01")), ActionView)
    for name in ("node-02", "node-03"):
        world[name].pushes_fail = False
    world.until(lambda: world.state("node-03") == "in_rank", 60)
    assert isinstance(world.ask(ResyncAsked("node-02", None, False)), ActionView)
    world.until(lambda: world.view("node-02").quarantine.verified, 60)
    assert isinstance(world.ask(ReleaseAsked("node-02")), ActionView)
    world.until(lambda: same(world) and world.in_rank(), 60)
    assert world["node-02"].disk["photos"][key_of("new.txt")] == file_of("only there")


def test_nodes_that_wait_for_each_other_behind_their_fences_are_released_by_a_person() -> None:
    """Each has something that nobody else has: one of the two has to be given up, and a person says which."""
    world = fleet(3)
    for agent in world.agents.values():
        agent.pushes_fail = True
    for name in ("node-01", "node-02"):
        world[name].put("photos", f"{name}.txt", file_of(name))
        world.run(1)
    for name in ("node-01", "node-02"):
        assert isinstance(world.ask(QuarantineAsked(name, "a person")), ActionView)
    assert isinstance(world.ask(ReleaseAsked("node-02")), ActionView)
    for agent in world.agents.values():
        agent.pushes_fail = False
    world.until(lambda: world.state("node-03") == "in_rank", 60)
    assert world["node-03"].disk["photos"][key_of("node-02.txt")] == file_of("node-02")


def test_the_only_writer_is_released_while_there_is_no_truth() -> None:
    """Other settings make another truth, which is founded by what the writers have: behind a fence that never comes."""
    world = fleet(3, 1)
    assert isinstance(world.ask(QuarantineAsked("node-01", "a person")), ActionView)
    (volume,) = world.config.volumes
    world.configure(replace(world.config, volumes=(replace(volume, ignore=("*.tmp",)),)))
    for agent in world.agents.values():
        agent.drop(0.1)
    world.run(20)
    assert isinstance(world.ask(ReleaseAsked("node-01")), ActionView)
    world.until(world.in_rank, 60)


def test_who_is_behind_and_gets_a_later_truth_by_itself_is_late_also_where_one_came_twice() -> None:
    """It left when the path was removed for the first time, and missed that it came, went again and came anew."""
    world = fleet(4, 1)
    writer, late = world["node-01"], world["node-03"]
    writer.remove("photos", "c.txt")
    world.until(lambda: same(world) and world.in_rank())
    late.disconnect()
    for value in (file_of("second"), None, file_of("third")):
        writer.write("photos", "c.txt", value)
        world.run(2)
    late.write("photos", "c.txt", file_of("second"))
    late.connect()
    world.until(lambda: same(world) and world.in_rank())
    assert late.disk["photos"][key_of("c.txt")] == file_of("third")
    assert world.incidents("divergence") + world.incidents("regression") == []


def test_what_a_node_was_brought_and_has_lost_since_does_not_come_back_before_it_could_tell() -> None:
    """The connection broke while a push was made; somebody removed the file; then the node dials again."""
    world = fleet(3)
    node, path = world["node-03"], key_of("new.txt")
    node.disconnect()
    before = world.node_roots["node-03", "photos"]
    world["node-01"].put("photos", "new.txt", file_of("new"))
    world.run(2)
    node.session = world.new_session()
    world.event(
        Connected("node-03", node.session, node.agent_id, "node-03:7342", 0, None, ("photos",), ("photos",))
    )
    world.event(RootStored("node-03", "photos", before, "known", world.mono, heard=False))
    world.run(0.5)
    assert path not in node.disk["photos"]
    brought = world.plant({**node.disk["photos"], path: file_of("new")})
    world.event(RootStored("node-03", "photos", brought, "push", world.mono, heard=False))
    world.event(RootStored("node-03", "photos", before, "scan", world.mono))
    world.until(lambda: same(world) and world.in_rank())
    assert path not in world["node-01"].disk["photos"]
    world["node-01"].put("photos", "other.txt", file_of("other"))
    world.until(lambda: same(world) and world.in_rank())
    assert key_of("other.txt") in node.disk["photos"]


def test_a_release_behind_a_fence_does_not_give_up_what_lies_on_one_who_is_away() -> None:
    """Nobody who is there can give it. It is the truth all the same, and comes back with him."""
    world = fleet(4)
    away, fenced = world["node-02"], "node-03"
    assert not isinstance(world.ask(QuarantineAsked(fenced, "a person looks at it")), str)
    for name in ("node-01", "node-04"):
        world[name].deaf = True
    away.put("photos", "c.txt", file_of("new"))
    world.run(0.3)
    away.stop()
    assert world.ask(ReleaseAsked(fenced)) == "409 not_verified"
    for name in ("node-01", "node-04"):
        world[name].deaf = False
    away.start()
    world.ask(ResyncAsked(fenced, None, dry_run=False))
    world.until(lambda: world.view(fenced).quarantine.verified, 120)
    assert not isinstance(world.ask(ReleaseAsked(fenced)), str)
    world.until(lambda: same(world) and world.in_rank(), 120)
    assert world["node-01"].disk["photos"][key_of("c.txt")] == file_of("new")
