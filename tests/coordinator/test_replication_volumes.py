"""Stories of nodes that have more than one volume: each is carried by its own standing."""

from __future__ import annotations

from dataclasses import replace

from closeranks_coordinator.core.model import (
    Connected,
    Disconnected,
    QuarantineAsked,
    ReleaseAsked,
    ResyncAsked,
)
from closeranks_proto import messages as wire
from fakeworld import FakeWorld, file_of, key_of, volume_config
from fakeworld.trees import tree

NAMES = ("node-01", "node-02", "node-03")
FILES = tree("a/one.jpg", "c.txt")


def fleet() -> FakeWorld:
    config = volume_config(policy="any-writer", nodes=NAMES, writers=NAMES, settle_s=1.0)
    world = FakeWorld(NAMES, [config], {"photos": FILES})
    for agent in world.agents.values():
        agent.watches = True
    return world.started()


def add_volume(world: FakeWorld) -> None:
    """The coordinator's configuration has it; no agent does yet."""
    second = replace(world.config.volumes[0], name="any")
    world.configure(replace(world.config, volumes=(second, *world.config.volumes)))


def restart_with_it(world: FakeWorld, name: str, **files: str) -> None:
    world[name].stop()
    world[name].disk["any"] = dict(tree("x.txt"))
    for path, content in files.items():
        world[name].disk["any"][key_of(path)] = file_of(content)
    world.run(1)
    world[name].start()


def same(world: FakeWorld, volume: str) -> bool:
    disks = [agent.disk.get(volume) for agent in world.agents.values()]
    return all(disk == disks[0] for disk in disks)


def test_a_new_volume_does_not_stop_the_others() -> None:
    world = fleet()
    add_volume(world)
    world.run(2)
    assert world.states() == {"joining"}
    world["node-01"].put("photos", "new.jpg", file_of("new"))
    assert world.until(lambda: same(world, "photos"), 5) < 0.5
    assert world["node-03"].disk["photos"][key_of("new.jpg")] == file_of("new")
    assert world.view("node-01").waiting == (
        "node-01 has no volume any: add it to its agent.toml and reload its agent (SIGHUP)"
    )
    for name in NAMES[:2]:
        restart_with_it(world, name)
    world.until(lambda: world.state("node-01") == world.state("node-02") == "in_rank")
    assert world.view("node-01").waiting is None
    assert world.state("node-03") == "joining"
    world["node-03"].put("photos", "late.jpg", file_of("late"))
    world.until(lambda: same(world, "photos"), 5)
    restart_with_it(world, "node-03")
    world.until(world.in_rank)
    assert not world.incidents()


def test_pending_changes_outlive_the_restart_that_adds_a_volume() -> None:
    world = fleet()
    add_volume(world)
    for name in NAMES[:2]:
        restart_with_it(world, name)
    world.until(lambda: world.state("node-01") == world.state("node-02") == "in_rank")
    world["node-03"].stop()
    world["node-03"].put("photos", "pending.jpg", file_of("pending"))
    restart_with_it(world, "node-03", stray="stray")  # it has to be converged on the new volume first
    world.until(lambda: world.in_rank() and same(world, "photos") and same(world, "any"))
    assert world["node-01"].disk["photos"][key_of("pending.jpg")] == file_of("pending")
    assert not world.incidents()


def test_what_a_recovery_waits_for_is_told() -> None:
    world = fleet()
    world["node-03"].fails = wire.Problem("no_space", "no room: 5 GiB are needed", 5 << 30, 1 << 20)
    world["node-03"].pushes_fail = True
    world["node-01"].put("photos", "new.jpg", file_of("new"))
    world.until_state("node-03", "resyncing")
    world.until(lambda: world.view("node-03").waiting == "photos: no room: 5 GiB are needed")
    world["node-03"].fails, world["node-03"].pushes_fail = None, False
    world.until(world.in_rank)
    assert world.view("node-03").waiting is None


def rebuilt(world: FakeWorld, name: str, *gone: str) -> None:
    """Another agent with a fresh state comes up on what is left of the tree."""
    world[name].stop()
    world.run(2)
    for path in gone:
        del world[name].disk["photos"][key_of(path)]
    world[name].agent_id = "id-new"
    world.node_roots.pop((name, "photos"), None)
    world[name].journal.clear()
    world[name].start()


def test_a_rebuilt_machine_joins_and_has_deleted_nothing() -> None:
    world = fleet()
    rebuilt(world, "node-03", *(key.decode().replace("\0", "/") for key in FILES))
    world["node-03"].disk["photos"][key_of("stray.txt")] = file_of("stray")
    world.until(lambda: world.in_rank() and same(world, "photos"))
    assert world["node-01"].disk["photos"] == FILES
    assert ("photos", key_of("stray.txt"), file_of("stray")) in world["node-03"].trash
    assert "node-03 joining" in world.told
    assert not world.incidents()


def test_an_agent_whose_index_went_with_most_of_its_tree_has_deleted_nothing() -> None:
    """It is the same agent with the same name; what it knew of its tree was made anew."""
    world = fleet()
    world["node-03"].stop()
    world["node-03"].disk["photos"].clear()
    world["node-03"]._commit("photos", world.plant({}), wire.MADE_ANEW)
    world["node-03"].start()
    world.until(lambda: world.in_rank() and same(world, "photos"))
    assert world["node-01"].disk["photos"] == FILES
    assert "node-03 joining" in world.told
    assert not world.incidents()


def test_a_lost_state_alone_loses_no_changes() -> None:
    world = fleet()
    rebuilt(world, "node-03", "c.txt")
    world["node-03"].disk["photos"][key_of("newer.txt")] = file_of("newer")
    world.until(lambda: world.in_rank() and same(world, "photos"))
    files = world["node-01"].disk["photos"]
    assert key_of("newer.txt") in files
    assert key_of("c.txt") not in files
    assert not world.incidents()


def test_a_machine_that_is_restored_from_a_backup_is_only_late() -> None:
    world = fleet()
    backup = dict(world["node-03"].disk["photos"])
    world["node-01"].put("photos", "c.txt", file_of("second"))
    world["node-01"].put("photos", "new.jpg", file_of("new"))
    world.until(lambda: same(world, "photos"))
    files = dict(world["node-01"].disk["photos"])
    world["node-03"].disk["photos"] = {**backup, key_of("own.txt"): file_of("own")}
    rebuilt(world, "node-03")
    world.until(lambda: world.in_rank() and same(world, "photos"))
    assert world["node-01"].disk["photos"] == {**files, key_of("own.txt"): file_of("own")}
    assert "node-03 joining" not in world.told
    assert not world.incidents()


def test_a_machine_that_is_put_back_with_its_agent_joins() -> None:
    """Its old versions are nobody's change, however long ago the truth had them."""
    world = fleet()
    world["node-03"].put("photos", "never.jpg", file_of("what no truth is remembered to have had"))
    world["node-03"].stop()
    old = dict(world["node-03"].disk["photos"])
    world["node-01"].put("photos", "c.txt", file_of("second"))
    world.run(1)
    files = dict(world["node-01"].disk["photos"])
    world["node-03"]._commit("photos", world.plant(old), wire.PUT_BACK)
    world["node-03"].start()
    world.until(lambda: world.in_rank() and same(world, "photos"))
    assert world["node-01"].disk["photos"] == files
    assert "node-03 joining" in world.told
    (told,) = world.incidents()
    assert (told.kind, told.node, told.state) == ("put_back", "node-03", "closed")
    assert told.files_trashed == 1
    assert {key for _, key, _ in world["node-03"].trash} == {key_of("c.txt"), key_of("never.jpg")}
    assert [one.text for one in told.timeline][1] == (
        "Volume photos: node-03 differs from the others in 2 paths; what it has in 2 of them goes to its trash."
    )


def put_back_alone(fetched: bool) -> FakeWorld:
    """The only writer is put back to an image while all others are fenced; what it wrote last was `fetched` or not."""
    world = FakeWorld(
        NAMES, [volume_config(policy="writers", writers=(NAMES[0],))], {"photos": dict(FILES)}
    ).started()
    image = dict(world["node-01"].disk["photos"])
    if fetched:
        world["node-01"].put("photos", "c.txt", file_of("second"))
        world.until(lambda: world.in_rank() and same(world, "photos"))
    for name in NAMES[1:]:
        assert not isinstance(world.ask(QuarantineAsked(name, "by hand")), str)
    if not fetched:
        world["node-01"].put("photos", "c.txt", file_of("second"))
        world["node-01"].put("photos", "new.jpg", file_of("new"))
    world.run(2)
    world["node-01"].stop()
    world["node-01"].disk["photos"] = image
    world["node-01"]._commit("photos", world.plant(image), wire.PUT_BACK)
    world["node-01"].start()
    world.run(5)
    assert world.state("node-01") == "resyncing"
    return world


def test_an_only_writer_that_is_put_back_while_all_are_fenced_is_let_stand_by_a_person() -> None:
    """What it wrote last lies nowhere any more, and it can not be fenced: no other way but to found anew was left."""
    world = put_back_alone(fetched=False)
    assert world.ask(QuarantineAsked("node-01", "nobody has what it lacks")) == "409 quorum_would_be_lost"
    waits = world.view("node-01").waiting
    assert "had the last version of 2 files" in waits
    assert "`closeranks release node-01` lets stand what node-01 itself has there" in waits
    assert not isinstance(world.ask(ReleaseAsked("node-01")), str)
    world.until_state("node-01", "in_rank")
    for name in NAMES[1:]:
        world.ask(ResyncAsked(name, None, False))
        world.until(lambda name=name: world.view(name).quarantine.verified)  # type: ignore[misc]
        world.ask(ReleaseAsked(name))
    world.until(lambda: world.in_rank() and same(world, "photos"))
    assert world["node-01"].disk["photos"] == FILES
    assert any("let node-01's own state of 2 files stand" in line for line in world.logs)
    assert world.ask(ReleaseAsked("node-01")) == "409 not_quarantined"


def test_what_fenced_nodes_still_have_is_not_given_up() -> None:
    world = put_back_alone(fetched=True)
    assert (
        "Fenced nodes give nothing (node-02 and node-03): `closeranks resync node-02"
        in world.view("node-01").waiting
    )
    assert world.ask(ReleaseAsked("node-01")) == "409 not_quarantined"
    world.ask(ReleaseAsked("node-02"))
    world.until(lambda: world.state("node-01") == "in_rank")
    assert world["node-01"].disk["photos"][key_of("c.txt")] == file_of("second")


def test_what_a_machine_was_put_back_with_is_kept_while_it_is_told() -> None:
    """What it did since then goes to its trash under the incident, and stays there as long as that is open."""
    world = fleet()
    world["node-03"].put("photos", "never.jpg", file_of("what no truth is remembered to have had"))
    world.until(lambda: same(world, "photos"))
    world["node-03"].stop()
    world["node-03"].disk["photos"][key_of("own.txt")] = file_of("written since")
    world["node-03"]._commit("photos", world.plant(world["node-03"].disk["photos"]), wire.PUT_BACK)
    world["node-03"].fails = wire.Problem("no_space", "no room: 5 GiB are needed", 5 << 30, 1 << 20)
    world["node-03"].start()
    world.until(lambda: bool(world.incidents("put_back")))
    (told,) = world.incidents("put_back")
    world.run(5)
    assert world.incidents("put_back")[0].state == "open"
    membership = world["node-03"].membership
    assert membership is not None
    assert told.id in membership.open_incidents
    world["node-03"].fails = None
    world.until(lambda: world.in_rank() and same(world, "photos"))
    assert key_of("own.txt") not in world["node-01"].disk["photos"]
    assert ("photos", key_of("own.txt"), file_of("written since")) in world["node-03"].trash
    (told,) = world.incidents("put_back")
    assert (told.state, told.files_trashed) == ("closed", 1)
    assert f"closeranks trash list node-03 --incident {told.id}" in told.advice


def test_an_entry_of_two_changes_is_not_lost_because_nobody_has_it_as_a_whole_yet() -> None:
    """One changed the mode, another the content: a third one's content does not take the place of theirs."""
    world = fleet()
    for agent in world.agents.values():
        agent.push_s = 5.0
    world["node-02"].write("photos", "c.txt", file_of("c.txt", mode=0o600))
    world.run(0.2)
    world["node-01"].write("photos", "c.txt", file_of("first"))
    world.run(0.2)
    world["node-03"].write("photos", "c.txt", file_of("second"))
    world.until(lambda: world.in_rank() and same(world, "photos"))
    contents = {value[12:28] for value in world["node-02"].disk["photos"].values()}
    assert {file_of("first")[12:28], file_of("second")[12:28]} <= contents


def claimed(world: FakeWorld, name: str) -> None:
    """Another machine dials with this name, is let in, tells nothing, and goes."""
    session = world.new_session()
    world.event(Connected(name, session, "id-second", "x:1", 0, None, ("photos",)))
    world.run(1)
    world.event(Disconnected(name, session))


def test_a_machine_that_only_took_its_name_does_not_make_it_a_rebuilt_one() -> None:
    world = fleet()
    world["node-03"].stop()
    world["node-03"].put("photos", "own.txt", file_of("own"))
    claimed(world, "node-03")
    for number in range(10):  # so that it lacks more than half of what there is by now
        world["node-01"].put("photos", f"new-{number}.txt", file_of(f"new-{number}"))
    world.run(2)
    world["node-03"].start()
    world.until(lambda: world.in_rank() and same(world, "photos"))
    assert world["node-01"].disk["photos"][key_of("own.txt")] == file_of("own")
    assert "node-03 joining" not in world.told


def test_a_new_index_that_is_told_once_more_sets_no_change_aside() -> None:
    """The agent was not told that it had been heard; the others went on, and it has nearly all that it had."""
    world = fleet()
    node = world["node-03"]
    node.stop()
    node.disk["photos"][key_of("own.txt")] = file_of("own")
    node._commit("photos", world.plant(node.disk["photos"]), wire.MADE_ANEW)
    for number in range(10):  # so that it lacks more than half of what there is by now
        world["node-01"].put("photos", f"new-{number}.txt", file_of(f"new-{number}"))
    world.run(2)
    node.start()
    world.until(lambda: world.in_rank() and same(world, "photos"))
    assert world["node-01"].disk["photos"][key_of("own.txt")] == file_of("own")
    assert "node-03 joining" not in world.told


def test_a_rebuilt_machine_is_known_also_after_a_restart_of_the_coordinator() -> None:
    world = fleet()
    world["node-03"].stop()
    session = (
        world.new_session()
    )  # its new agent dials, and the coordinator ends before its first scan has come
    world.event(Connected("node-03", session, "id-new", "node-03:7342", 0, None, ("photos",)))
    world.restart()
    rebuilt(world, "node-03", *(key.decode().replace("\0", "/") for key in FILES))
    world.until(lambda: world.in_rank() and same(world, "photos"))
    assert world["node-01"].disk["photos"] == FILES


def test_a_machine_that_is_rebuilt_while_it_is_brought_on_has_deleted_nothing() -> None:
    world = fleet()
    world["node-03"].fails = wire.Problem("no_space", "no room: 5 GiB are needed", 5 << 30, 1 << 20)
    world["node-03"].pushes_fail = True
    world["node-01"].put("photos", "new.jpg", file_of("new"))
    world.until_state("node-03", "resyncing")
    rebuilt(world, "node-03", *(key.decode().replace("\0", "/") for key in FILES))
    world["node-03"].fails, world["node-03"].pushes_fail = None, False
    world.until(lambda: world.in_rank() and same(world, "photos"))
    assert world["node-01"].disk["photos"] == {**FILES, key_of("new.jpg"): file_of("new")}


def test_a_rebuilt_machine_is_one_once_and_may_delete_what_it_likes_afterwards() -> None:
    """Whose word a root is, is kept with the root: the next one of the same agent is no other machine's."""
    world = fleet()
    rebuilt(world, "node-03", *(key.decode().replace("\0", "/") for key in FILES))
    world.until(lambda: world.in_rank() and same(world, "photos"))
    for path in ("a", "c.txt"):
        world["node-03"].remove("photos", path)
    world.until(lambda: not world["node-01"].disk["photos"], 30)
    world.until(lambda: world.in_rank() and same(world, "photos"))


def test_a_machine_that_lacks_more_than_half_is_a_rebuilt_one_though_something_is_left() -> None:
    world = fleet()
    rebuilt(world, "node-03", "a/one.jpg", "c.txt")
    world.until(lambda: world.in_rank() and same(world, "photos"))
    assert world["node-01"].disk["photos"] == FILES
    assert not world.incidents()
