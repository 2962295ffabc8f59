"""Ways back of nodes that have several volumes, and what is remembered of earlier ones."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from closeranks_coordinator.core import recovery
from closeranks_coordinator.core.model import QuarantineAsked, ReleaseAsked, ResyncAsked
from closeranks_coordinator.core.shapes import ActionView
from closeranks_proto import messages as wire
from fakeworld import FakeAgent, FakeWorld, file_of, key_of, volume_config

NAMES = tuple(f"node-{number:02d}" for number in range(1, 6))
ONE = {key_of("only.bin"): file_of("only")}


def fleet(**docs: Any) -> FakeWorld:
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


def test_a_node_whose_probes_fail_is_not_released(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tree equals the truth, and what people run on it does not work: a release is theirs to wait for."""
    world, probes_ok, say = FakeWorld(NAMES).started(), False, FakeAgent._say

    def probed(agent: FakeAgent, message: wire.AgentMessage) -> None:
        if isinstance(message, wire.VerifyResult):
            message = msgspec.structs.replace(message, probes_ok=probes_ok, detail="the site does not answer")
        say(agent, message)

    monkeypatch.setattr(FakeAgent, "_say", probed)
    world["node-02"].write("photos", "c.txt", file_of("rogue"))
    world.until_state("node-02", "verifying")
    world.run(30)
    assert world.state("node-02") == "verifying"
    (incident,) = world.incidents("divergence")
    assert "Verification failed: the site does not answer" in [one.text for one in incident.timeline]
    probes_ok = True
    world.until_state("node-02", "in_rank")


def test_who_was_read_back_with_half_a_step_of_the_truth_is_read_back_again_with_all_of_it() -> None:
    """The site goes on copying: a tree that is neither what was ordered nor the truth is no proof, though only late."""
    world = FakeWorld(NAMES, [volume_config(lag_grace_s=30.0)]).started()
    node = world["node-02"]
    node.verify_s = 6.0
    node.write("photos", "c.txt", file_of("rogue"))
    world.until_state("node-02", "verifying")
    for path in ("a/one.jpg", "a/two.jpg"):
        world.everywhere(path, file_of(f"new {path}"), but=["node-02"])
    world.run(3)
    node.write("photos", "a/one.jpg", file_of("new a/one.jpg"))
    world.until_state("node-02", "in_rank")
    assert len(world.sent("node-02", wire.Verify)) == 2
    assert node.disk == world["node-01"].disk


def test_an_order_that_would_take_back_what_the_site_brings_meanwhile_is_cancelled() -> None:
    """It gets the newest by the site's own copying, before the truth does, while the older is fetched."""
    world = FakeWorld(NAMES, [volume_config(settle_s=10.0, lag_grace_s=1.0)]).started()
    node = world["node-02"]
    node.order_s = 8.0
    world.everywhere("c.txt", file_of("new"), but=["node-02"])
    world.until_state("node-02", "resyncing")
    node.write("photos", "c.txt", file_of("newest"))
    world.until(lambda: bool(world.sent("node-02", wire.Cancel)), 2)
    world.everywhere("c.txt", file_of("newest"))
    world.until(world.in_rank)
    assert node.trash == []


def test_a_suspect_is_no_source_while_anybody_else_is_in_rank() -> None:
    """It failed an audit: its index says what the truth says, and its disk has other bytes."""
    world = FakeWorld(NAMES, [volume_config(on_divergence="alert", audit_interval_s=1.0)], {"photos": ONE})
    world["node-03"].hides.add(key_of("only.bin"))
    world.started()
    world.until_state("node-03", "suspect")
    world["node-05"].order_s = 5.0
    world.everywhere("new.txt", file_of("new"), but=["node-05"])
    world.until_state("node-05", "resyncing")
    world.run(0.1)
    orders = [one for one in world["node-05"].got if isinstance(one, wire.Converge)]
    assert [one.sources for one in orders] == [("node-01", "node-02", "node-04")]


def test_what_was_decided_while_it_was_read_back_is_brought_to_it_before_its_release() -> None:
    """Two and two held different things there when all joined. The fifth gives one of them a majority."""
    world, key = FakeWorld(NAMES, [volume_config(lag_grace_s=30.0)]), key_of("p.txt")
    for number, name in enumerate(NAMES):
        world[name].disk["photos"][key] = file_of("one" if number in (0, 1, 4) else "other")
    world.start(*NAMES[:4])
    world.until(lambda: all(world.state(name) == "in_rank" for name in NAMES[:4]))
    assert world.fleet._world.volumes["photos"].undetermined == {key}
    node = world["node-03"]
    node.verify_s = 6.0
    node.write("photos", "c.txt", file_of("rogue"))
    world.until_state("node-03", "verifying")
    world.start("node-05")
    world.until(lambda: not world.fleet._world.volumes["photos"].undetermined)
    assert world.state("node-03") == "verifying"
    world.until_state("node-03", "in_rank", 120)
    assert node.disk["photos"][key] == file_of("one")


def test_who_joins_has_held_what_was_proven_and_not_what_came_meanwhile() -> None:
    """It is late in what the writer has changed since, and has left nothing behind."""
    volume = volume_config(policy="writers", writers=NAMES[:1], settle_s=1.0, lag_grace_s=60.0)
    world = FakeWorld(NAMES[:3], [volume])
    node = world["node-03"]
    node.verify_s, node.pushes_fail = 6.0, True
    node.disk["photos"][key_of("c.txt")] = file_of("of its own")
    world.start()
    world.until_state("node-03", "verifying", 60)
    world["node-01"].write("photos", "c.txt", file_of("newer"))
    world.until(lambda: world.state("node-03") != "verifying")
    world.run(15)
    assert world.state("node-03") == "lagging"
    assert world.incidents() == []


def test_an_order_is_cancelled_for_the_one_of_many_paths_that_it_would_take_back() -> None:
    """The site has brought the newest of one path only, and not of the first."""
    world = FakeWorld(NAMES, [volume_config(settle_s=10.0, lag_grace_s=1.0)]).started()
    node = world["node-02"]
    node.order_s = 8.0
    for path in ("a/one.jpg", "c.txt"):
        world.everywhere(path, file_of(f"new {path}"), but=["node-02"])
    world.until_state("node-02", "resyncing")
    node.write("photos", "c.txt", file_of("newest"))
    world.run(1.5)
    world.everywhere("c.txt", file_of("newest"))
    world.everywhere("a/one.jpg", file_of("newest"), but=["node-02"])
    world.until(world.in_rank, 120)
    assert key_of("c.txt") not in [key for _, key, _ in node.trash]
    assert node.disk == world["node-01"].disk


def test_an_order_of_which_nothing_is_heard_is_sent_again() -> None:
    world = FakeWorld(NAMES).started()
    node = world["node-02"]
    node.deaf = True
    node.write("photos", "c.txt", file_of("rogue"))
    world.until(lambda: bool(world.sent("node-02", wire.Converge)))
    node.deaf = False
    world.run(recovery.REPEAT_AFTER_S - 2.0)
    assert len(world.sent("node-02", wire.Converge)) == 1
    world.until_state("node-02", "in_rank", 20)
    assert len(world.sent("node-02", wire.Converge)) == 2


def waiting(volumes: int = 1) -> FakeWorld:
    """node-02 was repaired and proven, and waits for a person: it has diverged too often."""
    configs = [volume_config(name, settle_s=1.0) for name in ("docs", "photos")[-volumes:]]
    world = FakeWorld(NAMES, configs, auto_release_max=1, auto_release_window_s=6000.0).started()
    for _ in range(2):
        world["node-02"].write("photos", "c.txt", file_of("rogue"))
        world.until_state("node-02", "quarantined")
        world.until(lambda: world.state("node-02") == "in_rank" or world.view("node-02").quarantine.verified)
    assert world.view("node-02").quarantine.verified
    return world


def test_who_waits_for_its_release_and_falls_behind_is_brought_up_to_date() -> None:
    """Released as it is, it would serve what the others have left."""
    world = waiting()
    world.everywhere("new.txt", file_of("new"), but=["node-02"])
    world.until(lambda: not world.view("node-02").quarantine.verified, 30)
    world.until(lambda: world.view("node-02").quarantine.verified, 60)
    assert world["node-02"].disk == world["node-01"].disk
    world.ask(ReleaseAsked("node-02"))
    assert world.state("node-02") == "in_rank"


def test_who_waits_for_its_release_and_differs_again_in_one_volume_is_not_proven_any_more() -> None:
    world = waiting(volumes=2)
    world["node-02"].write("photos", "c.txt", file_of("rogue again"))
    world.until(lambda: not world.view("node-02").quarantine.verified, 10)
    assert world.ask(ReleaseAsked("node-02")) == "409 not_verified"
    world.until(lambda: world.view("node-02").quarantine.verified, 60)
    assert world["node-02"].disk == world["node-01"].disk


def _state_of(world: FakeWorld, action: ActionView) -> str:
    found = world.fleet.action_view(action.id)
    assert found is not None
    return found.state


@pytest.mark.parametrize("lost", ["nothing", "coordinator", "session", "coordinator, later"])
def test_what_was_moved_in_all_is_said_to_be_the_least_where_a_result_was_lost(lost: str) -> None:
    """A node that was brought back while the coordinator was down was told to have moved 0 B in all."""
    world = FakeWorld(NAMES).started()
    node = world["node-02"]
    node.write("photos", "a/one.jpg", file_of("rogue", 5000))
    world.until_state("node-02", "resyncing")
    world.until(lambda: bool(node._running))
    if lost == "coordinator":
        world.restart(30.0)
    elif lost == "session":
        node.drop(5.0)
    elif lost == "coordinator, later":
        world.until_state("node-02", "verifying")
        world.restart(5.0)
    world.until_state("node-02", "in_rank", 200.0)
    (incident,) = world.incidents("divergence")
    (verified,) = (one.text for one in incident.timeline if one.event == "verified")
    if lost in ("coordinator", "session"):
        assert "; at least 0 B moved in all (the connection was lost meanwhile, and what had been" in verified
    else:
        assert "; 100 B moved in all." in verified
