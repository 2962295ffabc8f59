"""Stories of replicated volumes whose configuration changes under them, and of what waits at that moment."""

from __future__ import annotations

from dataclasses import replace

import pytest

from closeranks_coordinator.core.model import AllowAsked, RejectAsked, RootStored
from closeranks_coordinator.core.rules import GuardRules
from closeranks_proto import messages as wire
from closeranks_proto.entries import decode_entry, encode_entry, same_content
from fakeworld import FakeWorld, file_of, key_of, volume_config
from fakeworld.trees import tree

NODES = ("node-01", "node-02", "node-03")
FILES = tree(*(f"d/{number:03}" for number in range(200)))
RULES = GuardRules(warm_up_s=0.0, share_min_paths=50)


def fleet(writers: tuple[str, ...], guards: GuardRules = RULES, policy: str = "writers") -> FakeWorld:
    volume = volume_config(policy=policy, nodes=NODES, writers=writers, settle_s=1.0, guards=guards)
    world = FakeWorld(NODES, [volume], {"photos": FILES})
    for agent in world.agents.values():
        agent.watches = True
    return world.started()


def with_mode(entry: bytes, mode: int) -> bytes:
    return encode_entry(replace(decode_entry(entry, 16), mode=mode))


def configure(world: FakeWorld, **changes: object) -> None:
    (volume,) = world.config.volumes
    world.configure(replace(world.config, volumes=(replace(volume, **changes),)))  # type: ignore[arg-type]


def truth(world: FakeWorld) -> dict[bytes, bytes]:
    view = world.fleet.volume_view(world.now(), "photos")
    assert view is not None
    assert view.truth_root is not None
    return dict(world.tree.walk(bytes.fromhex(view.truth_root)))


def holds(world: FakeWorld, state: str = "held"):  # type: ignore[no-untyped-def]
    found = [world.fleet.hold_view(one) for one in world.fleet.hold_ids()]
    return [one for one in found if one is not None and one.state == state]


def the_hold(world: FakeWorld):  # type: ignore[no-untyped-def]
    """The only one. Who deleted much is held once it has proven that nothing of it comes back under another name."""
    world.until(lambda: bool(holds(world)), 10.0)
    (found,) = holds(world)
    return found


def delete(world: FakeWorld, node: str, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        world[node].disk["photos"].pop(key_of(f"d/{number:03}"), None)
    world[node]._stream("photos", "watch")


def change(world: FakeWorld, node: str, count: int, what: str) -> None:
    for number in range(count):
        if key_of(f"d/{number:03}") in world[node].disk["photos"]:
            world[node].disk["photos"][key_of(f"d/{number:03}")] = file_of(f"{what}{number}")
    world[node]._stream("photos", "watch")


def test_what_is_held_of_a_writer_that_is_none_any_more_is_divergence() -> None:
    world = fleet(("node-01", "node-02"))
    delete(world, "node-01", 120)
    the_hold(world)
    configure(world, writers=("node-02",))
    world.until(lambda: bool(world.incidents("divergence")), 30)
    assert world.incidents("divergence")[0].node == "node-01"
    world.until(lambda: world.in_rank() and world["node-01"].disk["photos"] == FILES)
    assert truth(world) == FILES


def test_a_node_that_becomes_a_writer_is_not_accused_of_what_it_writes() -> None:
    world = fleet(("node-02",), replace(RULES, observe_files_s=1, observe_s=60.0))
    change(world, "node-01", 20, "mine")
    configure(world, writers=("node-01", "node-02"))
    for number in range(8):  # a burst that is observed for longer than a difference takes to be named
        change(world, "node-01", 20 + number, f"again{number}")
        world.run(0.5)
    world.until(lambda: world["node-03"].disk["photos"] == world["node-01"].disk["photos"])
    assert not world.incidents("divergence")
    assert truth(world) == world["node-01"].disk["photos"]


def test_only_the_guard_that_was_asked_about_looks_away() -> None:
    world = fleet(("node-01", "node-02"))
    delete(world, "node-01", 60)
    hold = the_hold(world)
    assert hold.guard == "deleted_share"
    world.ask(AllowAsked(hold.id, 600.0))
    world.run(3.0)
    assert len(truth(world)) == len(FILES) - 60
    change(world, "node-01", 200, "scrambled")
    hold = the_hold(world)
    assert hold.guard == "changed_share"
    world.run(10.0)
    assert len(world["node-03"].disk["photos"].items() & FILES.items()) == len(FILES) - 60


def test_an_allowance_that_ended_before_the_node_was_back_lets_nothing_through() -> None:
    world = fleet(("node-01", "node-02"))
    delete(world, "node-01", 120)
    hold = the_hold(world)
    world["node-01"].disconnect()
    world.ask(AllowAsked(hold.id, 2.0))
    world.run(5.0)
    world["node-01"].connect()
    world.run(10.0)
    assert truth(world) == FILES
    assert world["node-02"].disk["photos"] == FILES
    assert holds(world)


def test_one_node_is_always_left_to_give_the_truth_to_the_others() -> None:
    world = fleet(NODES)
    for node in NODES:
        delete(world, node, 120)
    world.until(lambda: len(holds(world)) == 3, 10.0)
    answers = [world.ask(RejectAsked(hold.id)) for hold in holds(world)]
    assert answers.count("409 quorum_would_be_lost") == 1
    world.ask(AllowAsked(holds(world)[0].id, None))
    world.until(world.in_rank, 120)


def test_a_held_node_is_neither_given_anything_nor_asked_for_anything() -> None:
    world = fleet(("node-01", "node-02"))
    delete(world, "node-01", 120)
    the_hold(world)
    before = len(world.sent("node-01", wire.Push))
    world["node-02"].put("photos", "new", file_of("new"))
    world.until(lambda: key_of("new") in world["node-03"].disk["photos"])
    world.run(5.0)
    assert len(world.sent("node-01", wire.Push)) == before
    pushes = [one for one in world.sent("node-03", wire.Push) if isinstance(one, wire.Push)]
    assert all("node-01" not in one.sources for one in pushes[-1:])


def test_nothing_held_comes_into_a_truth_that_is_founded_anew() -> None:
    world = fleet(("node-01", "node-02"))
    change(world, "node-01", 150, "scrambled")
    assert holds(world)
    configure(world, ignore=("*.tmp",))
    for agent in world.agents.values():
        agent.drop(0.1)
    world.run(30.0)
    assert truth(world) == FILES
    assert world["node-03"].disk["photos"] == FILES


def test_edits_of_another_base_are_not_believed() -> None:
    world = fleet(("node-01", "node-02"))
    files = dict(FILES) | {key_of("d/001"): file_of("new")}
    root, base = world.plant(files), world.plant({})
    world["node-01"].disk["photos"] = files
    world.node_roots["node-01", "photos"] = root
    told = ((key_of("d/002"), file_of("told")),)
    world.event(RootStored("node-01", "photos", root, "watch", world.mono, (), (), base, told))
    assert truth(world) == files


def test_a_silent_follower_is_counted_late_and_has_everything_when_it_is_back() -> None:
    world = fleet(("node-01", "node-02"))
    world["node-03"].disconnect()
    for number in range(30):
        world["node-01"].put("photos", f"new/{number}", file_of(number))
        world.run(0.1)
    world.run(1.5)
    assert world.volume("node-03").lagging_paths == 31
    world["node-03"].connect()
    world.until(lambda: world["node-03"].disk["photos"] == world["node-01"].disk["photos"], 3.0)


def test_a_deletion_whose_files_were_made_anew_is_held_no_longer() -> None:
    """A tree that is removed and unpacked again: nothing is lost, though every file of it is another one."""
    world = fleet(("node-01",))
    delete(world, "node-01", 60)
    hold = the_hold(world)
    for number in range(59):
        world["node-01"].disk["photos"][key_of(f"d/{number:03}")] = file_of(f"d/{number:03}", mode=0o600)
    world["node-01"]._stream("photos", "watch")
    world.run(60.0)
    assert [one.id for one in holds(world)] == [hold.id], "one is still gone"
    world["node-01"].write("photos", "d/059", file_of("anew"))
    world.run(25.0)
    assert holds(world)
    world.until(lambda: truth(world) == world["node-01"].disk["photos"], 20.0)
    assert not holds(world)
    (incident,) = world.incidents("runaway")
    assert incident.state == "closed"


def test_a_deletion_that_became_a_change_of_as_much_stays_held() -> None:
    world = fleet(("node-01",))
    delete(world, "node-01", 120)
    for number in range(120):
        world["node-01"].disk["photos"][key_of(f"d/{number:03}")] = file_of(f"encrypted {number}")
    world["node-01"]._stream("photos", "watch")
    world.run(900.0)  # longer than the window of the shares
    assert holds(world)
    assert truth(world) == FILES


def moved_while_held(world: FakeWorld) -> str:
    """node-01 moves a change that nobody has fetched, in a step that is held; node-02 writes where it was. The hold."""
    for agent in world.agents.values():
        agent.pushes_fail = True
    world["node-01"].put("photos", "d/199", file_of("first"))
    world.run(0.2)
    assert truth(world)[key_of("d/199")] == file_of("first")
    files = world["node-01"].disk["photos"]
    files[key_of("d/moved")] = files.pop(key_of("d/199"))
    delete(world, "node-01", 120)
    hold = the_hold(world)
    world["node-02"].put("photos", "d/199", file_of("second"))
    for agent in world.agents.values():
        agent.pushes_fail = False
    world.until(lambda: world["node-03"].disk["photos"][key_of("d/199")] == file_of("second"))
    return str(hold.id)


@pytest.mark.parametrize("again", [False, True])
def test_what_has_decayed_while_it_was_held_is_allowed_as_it_was_before(again: bool) -> None:
    """A rename waits for a person, and its writer's scrub tells of rot: others have the content under the old name."""
    world = fleet(("node-01", "node-02"))
    files, good = world["node-01"].disk["photos"], FILES[key_of("d/199")]
    files[key_of("d/moved")] = files.pop(key_of("d/199"))
    delete(world, "node-01", 120)
    hold = the_hold(world)
    files[key_of("d/moved")] = file_of("decayed")
    world["node-01"]._stream("photos", "scrub")
    world.run(1)
    assert files.get(key_of("d/moved")) == file_of("decayed"), "it is held, and nothing is brought to it"
    if again:
        world.restart()
        world.run(3)
    world.ask(AllowAsked(hold.id, None))
    world.until(
        lambda: world.in_rank() and world["node-03"].disk["photos"] == world["node-01"].disk["photos"]
    )
    found = world["node-03"].disk["photos"]
    assert (found[key_of("d/moved")], found.get(key_of("d/199"))) == (good, None)


def test_what_its_writer_has_moved_gives_way_where_it_was_and_lives_on_where_it_is() -> None:
    world = fleet(("node-01", "node-02"))
    world.ask(AllowAsked(moved_while_held(world), None))
    world.until(
        lambda: world.in_rank() and world["node-03"].disk["photos"] == world["node-01"].disk["photos"]
    )
    found = world["node-02"].disk["photos"]
    assert found == truth(world)
    assert (found[key_of("d/199")], found[key_of("d/moved")]) == (file_of("second"), file_of("first"))
    (told,) = world.fleet.conflicts("photos")
    assert (told.state, told.kept_path) == ("resolved", None), "nobody has to decide anything"


def test_what_its_writer_has_moved_lies_in_its_trash_once_the_move_is_rejected() -> None:
    world = fleet(("node-01", "node-02"))
    world.ask(RejectAsked(moved_while_held(world)))
    world.until(lambda: world["node-01"].disk["photos"] == truth(world), 120)
    assert truth(world) == {**FILES, key_of("d/199"): file_of("second")}
    assert ("photos", key_of("d/moved"), file_of("first")) in world["node-01"].trash


@pytest.mark.parametrize("meant", [file_of("meant"), None, with_mode(file_of("decayed"), 0o600)])
def test_what_is_written_over_rot_is_a_change_like_any_other(meant: bytes | None) -> None:
    """A scrub has told that nobody wrote what lies there; then somebody writes, removes it, or changes its mode."""
    world = fleet(("node-01", "node-02"))
    for agent in world.agents.values():
        agent.pushes_fail = True  # nothing is brought back before that
    world["node-01"].disk["photos"][key_of("d/199")] = file_of("decayed")
    world["node-01"]._stream("photos", "scrub")
    world.run(1)
    world["node-01"].put("photos", "d/199", meant)
    for agent in world.agents.values():
        agent.pushes_fail = False
    if meant is not None and same_content(meant, file_of("decayed"), 16):
        meant = with_mode(FILES[key_of("d/199")], 0o600)
    world.until(
        lambda: all(one.disk["photos"].get(key_of("d/199")) == meant for one in world.agents.values())
    )
    assert world.fleet.conflicts("photos") == (), "it began from what its disk has lost"


def test_conflicts_go_on_after_a_restart_until_their_second_version_is_gone() -> None:
    world = fleet(("node-01", "node-02"))
    for agent in world.agents.values():
        agent.pushes_fail = True
    for name in ("node-01", "node-02"):
        world[name].put("photos", "d/199", file_of(f"of {name}"))
    world.run(1)
    unplaced = list(world.fleet._world.unplaced)
    assert len(unplaced) == 1
    world.restart()
    assert list(world.fleet._world.unplaced) == unplaced, "nobody but its writer has it"
    for agent in world.agents.values():
        agent.pushes_fail = False
    (conflict,) = world.fleet.conflicts("photos")
    kept = conflict.kept_path
    assert (conflict.state, kept is not None) == ("open", True)
    world.until(lambda: key_of(str(kept)) in world["node-03"].disk["photos"], 60)
    world.restart()
    world.run(3)
    world["node-01"].put("photos", str(kept), None)
    world.until(lambda: [one.state for one in world.fleet.conflicts("photos")] == ["resolved"])


def test_a_conflict_ends_where_a_new_first_truth_has_not_got_its_second_version() -> None:
    """It was removed while other settings asked for a new truth: nothing is left to decide."""
    world = fleet(("node-01", "node-02"))
    for name in ("node-01", "node-02"):
        world[name].put("photos", "d/199", file_of(f"of {name}"))
    world.run(5)
    (conflict,) = world.fleet.conflicts("photos")
    kept = key_of(str(conflict.kept_path))
    world.until(lambda: all(kept in one.disk["photos"] for one in world.agents.values()))
    for agent in world.agents.values():
        agent.stop()
        del agent.disk["photos"][kept]
    configure(world, ignore=("*.tmp",))
    world.start(*NODES)
    world.until(lambda: world.fleet._world.volumes["photos"].truth is not None)
    assert [one.state for one in world.fleet.conflicts("photos")] == ["resolved"]
    assert not world.incidents("conflict", "open")
