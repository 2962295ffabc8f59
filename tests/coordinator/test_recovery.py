"""Ways back of nodes that have several volumes, and what is remembered of earlier ones."""

from __future__ import annotations

from closeranks_coordinator.core.model import QuarantineAsked, ReleaseAsked, ResyncAsked
from closeranks_coordinator.core.shapes import ActionView
from fakeworld import FakeWorld, file_of, volume_config

NAMES = tuple(f"node-{number:02d}" for number in range(1, 6))


def fleet(**docs: object) -> FakeWorld:
    """Two volumes, of which `docs` has other settings."""
    return FakeWorld(NAMES, [volume_config("docs", **docs), volume_config("photos", settle_s=1.0)]).started()


def test_the_quiet_before_a_release_is_that_of_the_volume_that_asks_for_more() -> None:
    world = fleet(settle_s=8.0)
    world["node-02"].write("photos", "c.txt", file_of("rogue"))
    world.until_state("node-02", "verifying")
    took = world.until_state("node-02", "in_rank")
    assert took >= 8.0


def test_a_node_is_not_proven_by_the_one_of_its_volumes_that_was_repaired() -> None:
    """A person has one volume resynced of a node that broke ranks in two."""
    world = fleet()
    world.ask(QuarantineAsked("node-02", "a person looks at it"))
    for volume in ("docs", "photos"):
        world["node-02"].write(volume, "c.txt", file_of("rogue"))
    world.run(5)
    asked = world.ask(ResyncAsked("node-02", "photos", dry_run=False))
    assert isinstance(asked, ActionView)
    world.until(lambda: _state_of(world, asked) == "done")
    quarantine = world.view("node-02").quarantine
    assert (quarantine.verified, world.state("node-02")) == (False, "quarantined")
    assert world.ask(ReleaseAsked("node-02")) == "409 not_verified"


def test_the_hundredth_release_is_remembered_as_the_first_was() -> None:
    """What is kept is bounded; the newest are what repeat offenders are told by."""
    world = FakeWorld(NAMES, auto_release_max=1, auto_release_window_s=600.0).started()
    world.fleet._world.nodes["node-02"].record.releases_ms = [1] * 100
    for release in ("automatic", "by_hand"):
        world["node-02"].write("photos", "c.txt", file_of(f"rogue, {release}"))
        world.until_state("node-02", "quarantined")
        assert world.view("node-02").quarantine.release == release
        world.until(lambda: world.state("node-02") == "in_rank" or world.view("node-02").quarantine.verified)


def _state_of(world: FakeWorld, action: ActionView) -> str:
    found = world.fleet.action_view(action.id)
    assert found is not None
    return found.state
