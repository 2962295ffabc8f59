"""What an incident says to do follows what was done; the figures of a hold are the same wherever it is shown."""

from __future__ import annotations

from typing import cast

from closeranks_coordinator.core.model import (
    AllowAsked,
    QuarantineAsked,
    RejectAsked,
    ReleaseAsked,
    ResyncAsked,
)
from closeranks_coordinator.core.shapes import HoldView, IncidentView
from fakeworld import FakeWorld, file_of, volume_config
from fakeworld.trees import tree

FILES = tree(*(f"d/{number:03}.bin" for number in range(200)))


def names(count: int) -> tuple[str, ...]:
    return tuple(f"node-{number + 1:02}" for number in range(count))


def advice(world: FakeWorld, kind: str = "divergence") -> str:
    (found,) = world.incidents(kind, state="open")
    return cast(IncidentView, found).advice


def replicated(nodes: int = 3, writers: tuple[str, ...] = ("node-01",)) -> FakeWorld:
    """All see changes at once."""
    world = FakeWorld(names(nodes), [volume_config(policy="writers", writers=writers)], {"photos": FILES})
    for agent in world.agents.values():
        agent.watches, agent.scan_interval_s = True, 5.0
    return world.started()


def only_hold(world: FakeWorld) -> HoldView:
    (hold,) = world.fleet.hold_ids()
    found = world.fleet.hold_view(hold)
    assert found is not None
    return found


def held() -> tuple[FakeWorld, HoldView]:
    """A writer that deleted 120 files and wrote one more."""
    world = replicated()
    for number in range(120):
        world["node-01"].write("photos", f"d/{number:03}.bin", None)
    world["node-01"].write("photos", "d/new.bin", file_of("new"))
    world.until_state("node-01", "held")
    world.run(6)
    return world, only_hold(world)


# --- advice ----------------------------------------------------------------------------------------


def test_the_advice_of_a_difference_follows_the_fence() -> None:
    world = FakeWorld(names(5), [volume_config(on_divergence="alert")]).started()
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world.until_state("node-03", "suspect")
    assert "This volume only alerts: node-03 keeps serving" in advice(world)
    world.ask(QuarantineAsked("node-03", "I look at it"))
    said = advice(world)
    assert "An operator fenced node-03: it is out of service" in said
    assert "keeps serving" not in said
    (incident,) = world.incidents("divergence")
    assert "by an operator, who said: I look at it" in incident.timeline[-1].text
    world.ask(ResyncAsked("node-03", None, False))
    assert "is fenced and is being brought back" in advice(world)
    assert "It stays fenced then, until `closeranks release node-03`" in advice(world)
    world.until(lambda: world.view("node-03").quarantine.verified)
    assert "it equals the truth, and is still fenced. `closeranks release node-03`" in advice(world)
    world.ask(ReleaseAsked("node-03"))
    (closed,) = world.incidents("divergence")
    assert closed.advice.startswith("This is over")


def test_a_suspect_that_waits_for_its_fence_is_told_why() -> None:
    world = FakeWorld(names(7), [volume_config(on_divergence="quarantine")]).started()
    for node in ("node-03", "node-04"):
        world[node].write("photos", "a/one.jpg", file_of(node))
    world.until(lambda: "quarantined" in world.states())
    world.run(8)
    texts = [one.advice for one in world.incidents("divergence", state="open")]
    assert sum("waits for its fence: as many as max_quarantined = 1" in text for text in texts) == 1
    assert sum("The judge fenced" in text for text in texts) == 1


def test_after_a_reject_nobody_is_asked_to_decide() -> None:
    world, hold = held()
    assert f"`closeranks reject {hold.id}`" in advice(world, "runaway")
    world.ask(RejectAsked(hold.id))
    said = advice(world, "runaway")
    assert said.startswith("An operator rejected it: node-01 is fenced, brought back")
    assert "closeranks allow" not in said
    assert "closeranks reject" not in said
    world.until(lambda: bool(world.incidents("runaway", state="closed")))
    (closed,) = world.incidents("runaway")
    assert closed.advice.startswith("This is over")


def test_undetermined_counts_the_nodes_that_are_there_now() -> None:
    world = FakeWorld(names(4)).started()
    for node in names(2):
        world[node].write("photos", "a/one.jpg", file_of("other"))
    world.until(lambda: world.incidents("undetermined"))
    assert advice(world, "undetermined").startswith("4 of 4 nodes were compared; 3 must hold the same entry")
    for node in ("node-03", "node-04"):
        world[node].stop()
    world.run(5)
    assert advice(world, "undetermined").startswith("Only 2 of 4 nodes can be compared, and 3 must agree.")


# --- one figure ------------------------------------------------------------------------------------


def figures(world: FakeWorld) -> set[int]:
    """How many paths of the hold each place shows."""
    (incident,) = world.incidents("runaway")
    node = world.view("node-01")
    return {only_hold(world).waiting_paths, incident.path_count, node.volumes[0].differing_paths}


def test_what_a_hold_keeps_back_is_one_figure_everywhere() -> None:
    world, hold = held()
    assert hold.paths == 120, "what is unusual: the deletions"
    assert figures(world) == {121}
    assert hold.waiting_bytes == world.view("node-01").volumes[0].differing_bytes
    (incident,) = world.incidents("runaway")
    assert len(incident.paths) == 121
    world["node-01"].write("photos", "d/newer.bin", file_of("newer"))
    world.run(1)
    assert figures(world) == {122}, "at once, and not at the next look at the hold"
    world.run(10)
    (incident,) = world.incidents("runaway")
    assert "d/newer.bin" in [one.path for one in incident.paths]
    world.ask(RejectAsked(hold.id))
    world.until(world.in_rank)
    (incident,) = world.incidents("runaway")
    assert only_hold(world).waiting_paths == incident.path_count == 122, "as it was when it was decided"


def test_what_was_allowed_is_told_as_it_was() -> None:
    world, hold = held()
    world.ask(AllowAsked(hold.id, None))
    world.until(world.in_rank)
    assert only_hold(world).waiting_paths == 121


# --- what a fence takes ----------------------------------------------------------------------------


def test_fencing_the_only_writer_with_the_last_good_copy_is_remarked() -> None:
    world = replicated()
    world["node-02"].stop()
    world["node-03"].stop()
    world.run(5)
    world["node-01"].write("photos", "d/newest.bin", file_of("newest"))
    world.run(6)
    world["node-02"].start()
    world.until(lambda: world.view("node-02").volumes[0].lagging_paths == 1)
    world.ask(QuarantineAsked("node-01", "wiped tonight"))
    fence = world.view("node-01").quarantine
    assert fence is not None
    only_writer, last_copy = fence.remarks
    assert only_writer.startswith("No other writer of volume photos is in service")
    assert "node-01 alone has the present version of 1 path of volume photos (d/newest.bin)" in last_copy
    assert "Do not wipe node-01" in last_copy


def test_a_fence_that_takes_nothing_has_no_remark() -> None:
    world = replicated(4, ("node-01", "node-02"))
    world.ask(QuarantineAsked("node-01", "look"))
    fence = world.view("node-01").quarantine
    assert fence is not None
    assert fence.remarks == ()


# --- outages ---------------------------------------------------------------------------------------


def test_an_outage_says_when_the_node_was_heard_of_last() -> None:
    """Not when its session ended: a dead machine's ends seconds later."""
    world = FakeWorld(names(3)).started()
    world.run(3)
    node = world["node-02"]
    node._process += 1  # it stands still, and its connection stays
    heard = world.view("node-02").last_contact
    world.run(9)
    node.stop()
    world.until(lambda: world.incidents("outage"))
    (incident,) = world.incidents("outage")
    first = incident.timeline[0]
    assert (first.event, first.at) == ("detected", heard)
    assert [one.event for one in incident.timeline] == ["detected", "note", "named"]


def test_after_a_restart_an_outage_claims_no_more_than_is_known() -> None:
    world = FakeWorld(names(3)).started()
    world.run(3)
    world["node-02"].stop()
    heard = world.view("node-02").last_contact
    world.run(5)
    world.restart()
    world.until(lambda: world.incidents("outage"))
    (incident,) = world.incidents("outage")
    assert "has not been heard of since the coordinator started" in incident.summary
    first = incident.timeline[0]
    assert (first.event, first.at) == ("detected", heard), "the end of its session is kept, whatever follows"
    assert "it may have been heard later" in first.text
