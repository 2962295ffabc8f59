"""A first truth that follows another one: who was only late in that, brings nothing back and clashes with nobody."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closeranks_coordinator.core.succession import Heir, base_by_new_settings, up_to_date
from closeranks_proto import messages as wire
from closeranks_proto.digests import XXH3_128
from closeranks_proto.entries import decode_entry, encode_entry
from closeranks_proto.tree import Tree
from fakeworld import FakeWorld, file_of, key_of, volume_config
from fakeworld.agents import DIRECTORY, Files
from fakeworld.trees import is_tree, tree

OLD = tree("d/x", "d/y", "f")
NODES = ("node-01", "node-02", "node-03")


def caught_up(
    truth: Files,
    heirs: dict[str, tuple[Files, Files]],
    removals_max: int = 100,
    anew: str = "",
    whole_bytes: int | None = None,
) -> dict[str, Files]:
    """What each writer's tree counts as; `heirs` are (its base, its tree)."""
    objects: dict[bytes, bytes] = {}
    trees = Tree(XXH3_128, objects.__getitem__)
    objects.update(trees.empty.pages)

    def root(files: Files) -> bytes:
        made = trees.build(sorted(files.items()))
        objects.update(made.pages)
        return made.root

    roots = {
        name: Heir(root(tree), root(base), removals_max, name == anew) for name, (base, tree) in heirs.items()
    }
    found = up_to_date(trees, roots, root(truth), objects.update, whole_bytes)
    return {name: dict(trees.walk(one)) for name, one in found.items()}


def with_owner(value: bytes, owner: tuple[int, int] | None, mode: int = 0o644) -> bytes:
    return encode_entry(replace(decode_entry(value, 16), owner=owner, mode=mode))


def without(files: Files, *paths: str) -> Files:
    return {key: value for key, value in files.items() if key not in map(key_of, paths)}


def test_what_was_deleted_meanwhile_is_not_brought_back_by_who_was_late() -> None:
    truth = without(OLD, "d/x", "d/y", "d")
    found = caught_up(truth, {"a": (truth, truth), "b": (OLD, OLD)})
    assert found == {"a": truth, "b": truth}


def test_a_new_file_keeps_the_directory_that_was_deleted_meanwhile() -> None:
    truth = without(OLD, "d/x", "d/y", "d")
    late = {**OLD, **tree("d/new")}
    found = caught_up(truth, {"a": (truth, truth), "b": (OLD, late)})
    assert found["b"] == {**without(OLD, "d/x", "d/y"), **tree("d/new")}


def test_an_older_version_follows_the_newer_one() -> None:
    truth = {**OLD, b"f": file_of("newer")}
    assert caught_up(truth, {"a": (truth, truth), "b": (OLD, OLD)})["b"] == truth


def test_an_older_version_stays_where_nobody_is_heard_who_has_the_newer_one() -> None:
    truth = {**OLD, b"f": file_of("newer")}
    assert caught_up(truth, {"a": (OLD, OLD), "b": (OLD, OLD)})["b"] == OLD


def test_what_one_writer_has_changed_since_is_followed_by_the_others() -> None:
    changed = {**without(OLD, "d/y"), b"f": file_of("mine"), b"n": file_of("new")}
    found = caught_up(OLD, {"a": (OLD, OLD), "b": (OLD, changed), "c": (OLD, OLD)})
    assert list(found.values()) == [changed] * 3


def test_who_changed_an_older_version_clashes_with_the_truth_alone() -> None:
    """Who is only late has no vote between the two."""
    truth, mine = {**OLD, b"f": file_of("newer")}, {**OLD, b"f": file_of("mine")}
    found = caught_up(truth, {"a": (truth, truth), "b": (OLD, mine), "c": (OLD, OLD)})
    assert found == {"a": truth, "b": mine, "c": without(OLD, "f")}


def test_two_that_changed_it_clash_and_the_third_has_no_vote() -> None:
    one, two = {**OLD, b"f": file_of("one")}, {**OLD, b"f": file_of("two")}
    found = caught_up(OLD, {"a": (OLD, one), "b": (OLD, two), "c": (OLD, OLD)})
    assert found == {"a": one, "b": two, "c": without(OLD, "f")}


def test_so_many_removals_that_it_looks_like_another_disk_are_none() -> None:
    empty = without(OLD, "d/x", "d/y", "d", "f")
    assert caught_up(OLD, {"a": (OLD, OLD), "b": (OLD, empty)}, 3)["a"] == OLD
    assert caught_up(OLD, {"a": (OLD, OLD), "b": (OLD, empty)}, 4)["a"] == empty


def test_what_a_tree_out_of_a_backup_has_otherwise_is_followed_by_nobody() -> None:
    """It may be older than what it held last. It clashes, so that it is kept whatever it is."""
    restored = {**OLD, b"f": file_of("of last year")}
    found = caught_up(OLD, {"a": (OLD, OLD), "b": (OLD, restored), "c": (OLD, OLD)}, anew="b")
    assert found == {"a": OLD, "b": restored, "c": OLD}


def test_what_the_new_settings_alone_show_is_nobodys_change() -> None:
    """Owners are tracked from now on: who holds an older version has not written it again."""
    truth = {**OLD, b"f": file_of("newer")}
    now = {key: with_owner(value, (0, 0)) if value != DIRECTORY else value for key, value in truth.items()}
    late = {**now, b"f": with_owner(OLD[b"f"], (0, 0))}
    assert caught_up(truth, {"a": (truth, now), "b": (OLD, late)})["b"] == now


def test_a_changed_mode_is_a_change() -> None:
    changed = {**OLD, b"f": with_owner(OLD[b"f"], None, 0o600)}
    assert caught_up(OLD, {"a": (OLD, OLD), "b": (OLD, changed)})["a"] == changed


# --- other chunks: everything beyond a byte is cut otherwise -------------------------------------


def sized(text: str, size: int) -> bytes:
    return encode_entry(replace(decode_entry(file_of(text), 16), size=size))


def cut(files: Files) -> Files:
    """The same contents in other chunks: of a longer file the digest is another one."""
    found = dict(files)
    for key, value in files.items():
        entry = decode_entry(value, 16)
        if value != DIRECTORY and entry.size > 1:
            found[key] = encode_entry(replace(entry, digest=bytes(reversed(entry.digest))))
    return found


LONG = {**tree("d"), key_of("d/x"): sized("x", 900), key_of("d/y"): sized("y", 900), b"f": sized("f", 900)}


def recut(truth: Files, heirs: dict[str, tuple[Files, Files]]) -> dict[str, Files]:
    return caught_up(truth, {name: (base, cut(now)) for name, (base, now) in heirs.items()}, whole_bytes=1)


def test_what_was_deleted_meanwhile_stays_so_where_contents_are_cut_otherwise() -> None:
    truth = without(LONG, "d/x", "d/y")
    assert recut(truth, {"a": (truth, truth), "b": (LONG, LONG)})["b"] == cut(truth)
    assert recut(LONG, {"a": (LONG, truth), "b": (LONG, LONG)})["b"] == cut(truth), "and what was just now"


@pytest.mark.parametrize("size", [900, 901])
def test_an_older_version_follows_the_newer_one_where_contents_are_cut_otherwise(size: int) -> None:
    truth = {**LONG, b"f": sized("newer", size)}
    assert recut(truth, {"a": (truth, truth), "b": (LONG, LONG)})["b"] == cut(truth)
    assert recut(truth, {"b": (truth, truth), "a": (LONG, LONG)})["a"] == cut(truth)


def test_a_change_of_the_length_is_followed_and_any_other_clashes_where_contents_are_cut_otherwise() -> None:
    longer, other = {**LONG, b"f": sized("longer", 901)}, {**LONG, b"f": sized("other", 900)}
    assert list(recut(LONG, {"a": (LONG, LONG), "b": (LONG, longer)}).values()) == [cut(longer)] * 2
    found = recut(LONG, {"a": (LONG, LONG), "b": (LONG, other)})
    assert found == {"a": cut(LONG), "b": cut(other)}, "both are kept"


def test_a_writer_that_comes_after_other_chunks_brings_nothing_back_and_loses_no_content() -> None:
    truth = {**without(LONG, "d/x"), b"f": sized("newer", 900)}
    objects: dict[bytes, bytes] = {}
    trees = Tree(XXH3_128, objects.__getitem__)
    objects.update(trees.empty.pages)
    roots = []
    for files in (cut(LONG), LONG, cut(truth)):
        made = trees.build(sorted(files.items()))
        objects.update(made.pages)
        roots.append(made.root)
    made_base = base_by_new_settings(trees, *roots, whole_bytes=1)
    objects.update(made_base.pages)
    held = dict(trees.walk(made_base.root))
    assert held[key_of("d/x")] == cut(LONG)[key_of("d/x")], "it is as it was held: it is late there"
    assert held[b"f"] not in (cut(LONG)[b"f"], cut(truth)[b"f"]), "who knows: both are kept"


PATHS = ("a", "a/b", "a/b/c", "a/d", "e")
trees_of = st.lists(st.tuples(st.sampled_from(PATHS), st.sampled_from("123")), max_size=6).map(
    lambda found: _tree_of(dict(found))
)


def _tree_of(found: dict[str, str]) -> Files:
    files: Files = {}
    for path in sorted(found):
        parts = path.split("/")
        above = ["\0".join(parts[:count]).encode() for count in range(1, len(parts))]
        if any(files.get(one, DIRECTORY) != DIRECTORY for one in above):
            continue
        files |= dict.fromkeys(above, DIRECTORY)
        files[key_of(path)] = file_of(found[path])
    return files


@settings(deadline=None)
@given(
    truth=trees_of,
    bases=st.lists(trees_of, min_size=3, max_size=3),
    now=st.lists(trees_of, min_size=3, max_size=3),
)
def test_any_trees_give_trees_that_a_disk_can_hold_and_lose_no_change(
    truth: Files, bases: list[Files], now: list[Files]
) -> None:
    heirs = dict(zip("abc", zip(bases, now, strict=True), strict=True))
    found = caught_up(truth, heirs)
    for name, (base, own) in heirs.items():
        assert is_tree(found[name].items())
        for key, value in own.items():
            if value != DIRECTORY and value != base.get(key):
                assert found[name].get(key) == value, "what a writer has changed stands in its tree"


# --- in a fleet -----------------------------------------------------------------------------------


def fleet() -> FakeWorld:
    files = tree(*(f"d/{number:03}" for number in range(50)))
    config = volume_config(policy="any-writer", nodes=NODES, writers=NODES, settle_s=1.0)
    world = FakeWorld(NODES, [config], {"photos": files})
    for agent in world.agents.values():
        agent.watches = True
    return world.started()


def ignore(world: FakeWorld, pattern: str) -> None:
    """Every agent dials again, and scans by the new settings."""
    (volume,) = world.config.volumes
    world.configure(replace(world.config, volumes=(replace(volume, ignore=(pattern,)),)))
    for agent in world.agents.values():
        if agent.session:
            agent.drop(0.1)


def truth(world: FakeWorld) -> dict[bytes, bytes]:
    root = world.fleet._world.volumes["photos"].truth
    return {} if root is None else dict(world.tree.walk(root))


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("late", ["behind", "asleep"])
def test_other_settings_bring_no_deleted_file_back_and_make_no_conflict(late: str, restart: bool) -> None:
    world = fleet()
    node = world["node-03"]
    if late == "asleep":
        node.stop()
    node.pushes_fail = True
    world["node-01"].put("photos", "d/001", None)
    world["node-02"].put("photos", "d/002", file_of("newer"))
    world.run(2)
    ignore(world, "*.tmp")
    if restart:
        world.restart()
    if late == "asleep":
        node.start()
    node.pushes_fail = False
    world.until(lambda: bool(truth(world)) and world.in_rank(), 60)
    assert key_of("d/001") not in truth(world)
    assert truth(world)[key_of("d/002")] == file_of("newer")
    assert node.disk["photos"] == world["node-01"].disk["photos"] == truth(world)
    assert not world.incidents("conflict")


def test_what_is_written_while_others_scan_by_other_settings_stands() -> None:
    world = fleet()
    ignore(world, "*.tmp")
    world["node-01"].put("photos", "d/002", file_of("newer"))
    world["node-02"].put("photos", "d/003", None)
    world.until(lambda: bool(truth(world)) and world.in_rank(), 60)
    assert truth(world)[key_of("d/002")] == file_of("newer")
    assert key_of("d/003") not in truth(world)
    assert not world.incidents("conflict")


def test_who_had_not_joined_joins_the_new_truth_as_well() -> None:
    """A machine from a backup has files that were removed long ago."""
    world = fleet()
    node = world["node-03"]
    node.stop()
    world.run(2)
    node.agent_id, node.disk["photos"] = "id-of-another-machine", tree("long/gone")
    world.node_roots.pop(("node-03", "photos"))
    ignore(world, "*.tmp")
    node.start()
    world.until(lambda: bool(truth(world)) and world.in_rank(), 60)
    assert key_of("long/gone") not in truth(world)
    assert len(truth(world)) == 51, "nor does what it lacks count as removed"


def test_a_writer_that_was_away_while_settings_changed_is_merged_path_by_path() -> None:
    world = fleet()
    away = world["node-03"]
    away.stop()
    world["node-01"].put("photos", "d/001", None)
    world["node-02"].put("photos", "d/002", file_of("newer"))
    world["node-01"].put("photos", "d/003", file_of("first"))
    world.run(2)
    ignore(world, "*.tmp")
    world.until(lambda: bool(truth(world)) and world.state("node-01") == "in_rank", 60)
    own = {key_of("mine"): file_of("mine"), key_of("d/003"): file_of("second")}
    away.disk["photos"] |= own
    del away.disk["photos"][key_of("d/004")]
    away.start()
    world.until(lambda: key_of("mine") in truth(world), 60)
    world.until(world.in_rank, 60)
    found = truth(world)
    assert key_of("d/001") not in found
    assert found[key_of("d/002")] == file_of("newer")
    assert key_of("d/004") not in found
    assert found[key_of("d/003")] == file_of("first")
    assert sum(value == file_of("second") for value in found.values()) == 1, "kept under a conflict name"
    assert away.disk["photos"] == found


@pytest.mark.parametrize("returns", ["before", "after"])
def test_a_second_version_that_its_writer_alone_has_outlives_other_settings(returns: str) -> None:
    """It lies under its plain name there: what came first was to take its place once it had been put aside."""
    world = fleet()
    loser = world["node-03"]
    loser.stop()
    world["node-01"].put("photos", "d/003", file_of("first"))
    world.run(2)
    loser.disk["photos"][key_of("d/003")] = file_of("second")
    loser.pushes_fail = True
    loser.start()
    world.until(lambda: bool(world.incidents("conflict")), 60)
    loser.stop()
    ignore(world, "*.tmp")
    if returns == "after":
        world.until(lambda: bool(truth(world)), 60)
    loser.pushes_fail = False
    loser.start()
    world.run(5)
    world.until(lambda: bool(truth(world)) and world.in_rank(), 60)
    assert truth(world)[key_of("d/003")] == file_of("first")
    assert [*truth(world).values()].count(file_of("second")) == 1, "kept under a conflict name"
    assert loser.disk["photos"] == world["node-01"].disk["photos"] == truth(world)


@pytest.mark.parametrize("returns", ["before", "after"])
def test_what_we_brought_and_nobody_had_heard_of_does_not_come_back_with_other_settings(returns: str) -> None:
    world = fleet()
    parted = world["node-03"]
    parted.pushes_fail = True
    world["node-01"].put("photos", "d/002", file_of("newer"))
    world.run(1)
    parted.disconnect()
    parted.disk["photos"][key_of("d/002")] = file_of("newer")
    parted._made("photos", {key_of("d/002"): file_of("newer")})
    world["node-02"].put("photos", "d/002", None)
    world.run(2)
    assert key_of("d/002") not in truth(world)
    ignore(world, "*.tmp")
    if returns == "after":
        world.until(lambda: bool(truth(world)), 60)
    parted.pushes_fail = False
    parted.connect()
    world.run(5)
    world.until(lambda: bool(truth(world)) and world.in_rank(), 60)
    assert key_of("d/002") not in truth(world)
    assert key_of("d/002") not in parted.disk["photos"]


@pytest.mark.parametrize("rival", [None, "other"])
def test_what_a_writer_alone_has_of_the_old_truth_is_not_late_when_it_comes_after_the_new_one(
    rival: str | None,
) -> None:
    """It was accepted, and reached nobody else who writes: what they have is older, or clashes with it."""
    world = fleet()
    away = world["node-01"]
    for name in NODES[1:]:
        world[name].stop()
    away.put("photos", "d/002", file_of("newer"))
    world.run(1)
    away.stop()
    assert truth(world)[key_of("d/002")] == file_of("newer")
    if rival:
        world["node-02"].disk["photos"][key_of("d/002")] = file_of(rival)
    for name in NODES[1:]:
        world[name].start()
    ignore(world, "*.tmp")
    world.until(lambda: bool(truth(world)), 60)
    assert file_of("newer") not in truth(world).values()
    away.start()
    world.run(5)
    world.until(world.in_rank, 60)
    assert truth(world)[key_of("d/002")] == file_of(rival or "newer")
    assert [*truth(world).values()].count(file_of("newer")) == 1
    assert away.disk["photos"] == world["node-02"].disk["photos"] == truth(world)


def test_what_the_only_writer_had_is_kept_when_others_begin_without_it() -> None:
    world = fleet()
    away = world["node-01"]
    away.put("photos", "mine", file_of("mine"))
    world.until(world.in_rank, 60)
    for name in NODES:
        world[name].stop()
    for name in NODES[1:]:  # machines in the place of those that had joined
        world[name].agent_id, world[name].disk["photos"] = f"another-{name}", tree("theirs")
        world.node_roots.pop((name, "photos"))
    ignore(world, "*.tmp")
    for name in NODES[1:]:
        world[name].start()
    world.until(lambda: bool(truth(world)), 60)
    away.start()
    world.run(5)
    world.until(world.in_rank, 60)
    assert {key_of("mine"), key_of("theirs"), key_of("d/001")} <= truth(world).keys()
    assert away.disk["photos"] == world["node-02"].disk["photos"] == truth(world)


def test_how_long_contents_are_told_apart_by_all_settings_is_remembered_as_long_as_it_is_asked_for() -> None:
    world = fleet()

    def cut_at(chunk_bytes: int) -> int | None:
        (volume,) = world.config.volumes
        world.configure(replace(world.config, volumes=(replace(volume, chunk_bytes=chunk_bytes),)))
        return world.fleet._world.volumes["photos"].record.whole_bytes

    (volume,) = world.config.volumes
    first = volume.chunk_bytes
    world["node-03"].stop()
    assert cut_at(4 * first) == first
    for agent in world.agents.values():
        if agent.session:
            agent.drop(0.1)
    world.until(lambda: bool(truth(world)) and world.state("node-01") == "in_rank", 60)
    world.restart()
    assert cut_at(8 * first) == first, "node-03 held a truth of then"
    world["node-03"].start()
    for agent in world.agents.values():
        agent.drop(0.1)
    world.until(lambda: bool(truth(world)) and world.in_rank(), 60)
    ignore(world, "*.tmp")
    assert world.fleet._world.volumes["photos"].record.whole_bytes is None


def test_a_machine_that_was_put_back_while_settings_changed_joins_anew() -> None:
    world = fleet()
    node = world["node-03"]
    world["node-01"].put("photos", "d/002", file_of("newer"))
    world.until(lambda: node.disk["photos"][key_of("d/002")] == file_of("newer") and world.in_rank(), 20)
    node.stop()
    ignore(world, "*.tmp")
    node.disk["photos"] |= tree("d/002")
    world.node_roots.pop(("node-03", "photos"))
    node.connect()
    node._commit("photos", world.plant(node.disk["photos"]), wire.PUT_BACK)
    node.start()
    world.until(lambda: bool(truth(world)) and world.in_rank(), 60)
    assert truth(world)[key_of("d/002")] == file_of("newer")
    assert not [key for key in truth(world) if b"conflict" in key]
