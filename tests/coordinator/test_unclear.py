"""Paths that nobody can judge: the incident says who holds what, so that a person can choose."""

from __future__ import annotations

from fakeworld import FakeWorld, file_of, key_of, volume_config

NAMES = ("node-01", "node-02", "node-03", "node-04", "node-05")


def split(world: FakeWorld, *paths: str) -> None:
    """Two nodes hold one thing, two another, one nothing."""
    for path in paths:
        for name, content in zip(NAMES, ("left", "left", "right", "right", None), strict=True):
            world[name].write("photos", path, None if content is None else file_of(content))


def test_the_incident_lists_the_groups_of_nodes() -> None:
    world = FakeWorld(NAMES).started()
    split(world, "a/one.jpg")
    world.until(lambda: bool(world.incidents("undetermined")))
    (told,) = world.incidents("undetermined")[0].evidence["entries"]
    assert told.startswith("a/one.jpg: node-01 and node-02 have file, 100 bytes, xxh3-128 ")
    assert "; node-03 and node-04 have file, 100 bytes, xxh3-128 " in told
    assert told.endswith("; node-05 has nothing there")


def test_it_is_told_anew_when_they_change() -> None:
    world = FakeWorld(NAMES).started()
    split(world, "a/one.jpg")
    world.until(lambda: bool(world.incidents("undetermined")))
    split(world, "b/three.jpg")
    world.run(10)
    assert len(world.incidents("undetermined")[0].evidence["entries"]) == 2


def test_only_the_first_paths_are_listed() -> None:
    world = FakeWorld(NAMES).started()
    split(world, *(f"many/{number:03d}" for number in range(100)))
    world.until(lambda: bool(world.incidents("undetermined")))
    assert len(world.incidents("undetermined")[0].evidence["entries"]) == 20


def test_who_joins_while_a_path_is_undetermined_is_late_there_and_not_accused() -> None:
    """It has an older truth of the path, and nobody could tell it of the newer one."""
    world = FakeWorld(NAMES[:4]).started()
    for content in ("older", "newer"):
        world.everywhere("a/one.jpg", file_of(content))
        world.run(5)
        world.until(world.in_rank)
    old = {**world["node-04"].disk["photos"], key_of("a/one.jpg"): file_of("older")}
    for name, content in zip(NAMES[:3], ("left", "left", "right"), strict=True):
        world[name].write("photos", "a/one.jpg", file_of(content))
    world.until(lambda: bool(world.incidents("undetermined")))
    world.add("node-05", old)
    world.until_state("node-05", "in_rank")
    world["node-03"].write("photos", "a/one.jpg", file_of("left"))
    world.until(world.in_rank)
    assert world.incidents("divergence") + world.incidents("regression") == []
    assert world["node-05"].disk["photos"][key_of("a/one.jpg")] == file_of("left")


def test_who_joined_while_a_path_was_undetermined_is_released_with_what_was_decided() -> None:
    """Its fence waits until a majority agrees: it is released with that, and not with what it came with."""
    world = FakeWorld(NAMES[:4], [volume_config(lag_grace_s=60.0)]).started()
    for name, content in zip(NAMES[:4], ("left", "left", "right", "right"), strict=True):
        world[name].write("photos", "a/one.jpg", file_of(content))
    world.until(lambda: bool(world.incidents("undetermined")))
    world.add("node-05", {**world["node-01"].disk["photos"], key_of("a/one.jpg"): file_of("its own")})
    world.until_state("node-05", "in_rank")
    world["node-05"].write("photos", "c.txt", file_of("rogue"))
    world.until_state("node-05", "verifying")
    world.run(10)
    assert world.state("node-05") == "verifying"
    world["node-03"].write("photos", "a/one.jpg", file_of("left"))
    world.until_state("node-05", "in_rank")
    assert world["node-05"].disk["photos"] == world["node-01"].disk["photos"]


def test_one_node_of_each_side_is_named_for_a_comparison() -> None:
    world = FakeWorld(NAMES).started()
    split(world, "a/one.jpg")
    world.until(lambda: bool(world.incidents("undetermined")))
    assert world.incidents("undetermined")[0].evidence["sides"] == ["node-01", "node-03", "node-05"]
