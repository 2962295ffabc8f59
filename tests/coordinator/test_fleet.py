from __future__ import annotations

from fakeworld import FakeWorld, file_of

NODES = [f"node-{number:02d}" for number in range(1, 6)]


def test_a_single_rogue_is_named_fenced_repaired_and_released() -> None:
    world = FakeWorld(NODES).started()
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world.until_state("node-03", "quarantined")
    world.until_state("node-03", "in_rank")
    assert world.told == []
