"""Who is fenced and who is not, which token a fence has, and who must have looked before anybody is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from closeranks_coordinator.core.model import Connected, QuarantineAsked, RejectAsked, ReleaseAsked
from closeranks_coordinator.core.rules import GuardRules
from closeranks_proto import messages as wire
from fakeworld import FakeAgent, FakeWorld, file_of, key_of, volume_config
from fakeworld.trees import tree

NAMES = tuple(f"node-{number:02d}" for number in range(1, 8))


def fleet(**changes: Any) -> FakeWorld:
    return FakeWorld(NAMES, [volume_config(**changes)]).started()


def dial(world: FakeWorld, node: str, highest_token: int, fence: wire.FenceState | None) -> None:
    """Another session, in which the node has this fence."""
    agent = world[node]
    agent.session, agent.fence, agent.highest_token = world.new_session(), fence, highest_token
    world.event(
        Connected(node, agent.session, agent.agent_id, f"{node}:7342", highest_token, fence, ("photos",))
    )


# --- tokens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("token", "stays"), [(1, False), (7, True)])
def test_a_release_that_is_on_record_lifts_no_later_fence_than_its_own(token: int, stays: bool) -> None:
    """An old copy of the coordinator's state knows of the release before, and not of the fence after it."""
    world = fleet()
    world.ask(QuarantineAsked("node-02", "by hand"))
    world.run(1)
    world["node-02"].disconnect()
    record = world.fleet._world.nodes["node-02"].record
    record.fence, record.unfence = None, 1
    dial(world, "node-02", token, wire.FenceState(token, "by hand", "", 0))
    assert (record.fence is not None) == stays
    world.run(1)
    assert (world["node-02"].fence is not None) == stays


def test_a_fence_that_is_numbered_anew_takes_a_number_that_nobody_else_gets() -> None:
    world = fleet()
    world.ask(QuarantineAsked("node-02", "by hand"))
    world.run(1)
    world.ask(QuarantineAsked("node-03", "by hand"))
    world["node-02"].disconnect()
    dial(world, "node-02", 41, None)
    world.run(1)
    world.ask(QuarantineAsked("node-04", "by hand"))
    tokens = [world.view(name).quarantine.fence_token for name in ("node-02", "node-03", "node-04")]
    assert tokens == [42, 2, 43]


def test_a_node_that_comes_back_with_the_fence_on_record_is_not_told_of_it_again() -> None:
    world = fleet()
    world.ask(QuarantineAsked("node-02", "by hand"))
    world.run(1)
    world["node-02"].disconnect()
    dial(world, "node-02", 1, world["node-02"].fence)
    assert world.view("node-02").quarantine.acknowledged
    world.run(1)
    assert len(world.sent("node-02", wire.Fence)) == 1


# --- who counts -----------------------------------------------------------------------------------


def test_who_is_brought_up_to_date_holds_up_nobodys_fence() -> None:
    """Of two late nodes that are being converged something differs that is not confirmed yet: not many rogues."""
    world = fleet(settle_s=10.0, lag_grace_s=1.0)
    late = ("node-06", "node-07")
    for name in late:
        world[name].order_s = 60.0
    world.everywhere("new.txt", file_of("new"), but=late)
    world.until(lambda: {world.state(name) for name in late} == {"resyncing"})
    world["node-02"].write("photos", "c.txt", file_of("rogue"))
    world.run(8)
    for name in late:
        world[name].write("photos", "c.txt", file_of(f"of {name}"))
    world.until(lambda: world.state("node-02") != "in_rank")
    assert world.state("node-02") == "quarantined"


def test_suspects_of_a_volume_that_only_tells_count_where_many_look_bad_and_wait_for_no_fence() -> None:
    """Nothing is fenced while it is said that nothing is. Who only is to be told of is told of no fence to wait for."""
    volumes = [volume_config("docs", on_divergence="alert"), volume_config("photos")]
    world = FakeWorld(NAMES, volumes).started()
    for name in ("node-02", "node-03"):
        world[name].write("docs", "c.txt", file_of(f"of {name}"))
    world.until(lambda: len(world.incidents("divergence")) == 2)
    world["node-04"].write("photos", "c.txt", file_of("rogue"))
    world.run(20)
    assert [world.view(name).blocked_by for name in NAMES[1:4]] == [None, None, "many_suspects"]
    assert len(world.incidents("many_suspects", "open")) == 1
    world["node-03"].disk["docs"] = dict(world["node-01"].disk["docs"])
    world.until_state("node-04", "quarantined", 5)
    assert world.incidents("many_suspects", "open") == []
    world.run(0.1)
    assert (world.state("node-02"), world.view("node-02").blocked_by) == ("suspect", None)


def test_of_two_suspects_that_waited_the_first_is_fenced_first() -> None:
    world = fleet(settle_s=1.0)
    world.ask(QuarantineAsked("node-05", "by hand"))
    world["node-03"].write("photos", "c.txt", file_of("rogue"))
    world.until_state("node-03", "suspect")
    world.run(3)
    world["node-02"].write("photos", "a/one.jpg", file_of("rogue"))
    world.until_state("node-02", "suspect")
    assert [world.view(name).blocked_by for name in ("node-02", "node-03")] == ["max_quarantined"] * 2
    world.ask(ReleaseAsked("node-05"))
    assert [world.state(name) for name in ("node-02", "node-03")] == ["suspect", "quarantined"]


def test_while_others_differ_that_are_not_confirmed_yet_nobody_is_fenced() -> None:
    """In a moment it is clear that many diverge, and the one who judges may be the one who is wrong."""
    world = fleet(settle_s=3.0)
    world["node-02"].write("photos", "c.txt", file_of("rogue"))
    world.run(1.5)
    for name in ("node-03", "node-04"):
        world[name].write("photos", "c.txt", file_of(f"of {name}"))
    world.until(lambda: bool(world.incidents("many_suspects")), 20)
    assert not any(world.view(name).quarantine for name in NAMES)
    assert [world.state(name) for name in NAMES[1:4]] == ["suspect"] * 3


def test_what_a_released_node_differed_in_is_let_go() -> None:
    world = fleet()
    world["node-02"].write("photos", "c.txt", file_of("rogue"))
    world.until_state("node-02", "quarantined")
    view = world.fleet._world.nodes["node-02"].view("photos")
    assert view.seen
    world.until_state("node-02", "in_rank")
    assert not view.seen


def test_a_release_does_not_make_a_member_of_who_has_not_joined_a_volume() -> None:
    """After a reject the fence is about what was held. In another volume it has a tree of its own, as who joins has."""
    files = tree(*(f"d/{number}" for number in range(400)))
    held = volume_config(policy="any-writer", writers=NAMES, guards=GuardRules(warm_up_s=0.0))
    volumes = [volume_config("docs", on_lag="wait"), held]
    world = FakeWorld(NAMES, volumes, {"photos": files})
    node = world["node-02"]
    node.write("docs", "c.txt", file_of("another tree"))
    world.start()
    world.until(lambda: world.state("node-03") == "in_rank" and world.state("node-02") == "joining")
    for number in range(200):
        node.write("photos", f"d/{number}", None)
    world.until(lambda: bool(world.fleet.hold_ids()))
    (hold,) = world.fleet.hold_ids()
    world.ask(RejectAsked(hold))
    world.until(lambda: world.state("node-02") == "quarantined")
    world.until(lambda: world.state("node-02") == "joining")
    assert node.disk["photos"] == files
    world.run(5)
    assert (world.state("node-02"), world.incidents("divergence")) == ("joining", [])


def test_who_is_released_before_it_has_joined_has_held_what_nobody_could_judge() -> None:
    """Two have one version, and two the other. When one of them gets a majority the rest is late, and not to blame."""
    names = [f"node-{number:02d}" for number in range(1, 5)]
    world, key = FakeWorld(names, [volume_config(lag_grace_s=60.0)]), key_of("p.txt")
    for number, name in enumerate(names):
        world[name].disk["photos"][key] = file_of("one" if number < 2 else "other")
    world.start(*names[:3])
    world.until(lambda: all(world.state(name) == "in_rank" for name in names[:3]))
    world.ask(QuarantineAsked("node-04", "a person looks at it"))
    world.start("node-04")
    world.run(5)
    assert not isinstance(world.ask(ReleaseAsked("node-04")), str)
    world["node-03"].write("photos", "p.txt", file_of("one"))
    world.run(20)
    assert world.fleet._world.volumes["photos"].undetermined == frozenset()
    assert (world.state("node-04"), world.incidents("divergence")) == ("lagging", [])


def test_who_was_released_before_it_scanned_by_other_settings_joins_once_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The settings were changed while it was read back: what it told of is a part of another tree."""
    files = tree(*(f"d/{number}" for number in range(400)))
    volume = volume_config(policy="any-writer", writers=NAMES, guards=GuardRules(warm_up_s=0.0))
    world = FakeWorld(NAMES, [volume], {"photos": files})
    for agent in world.agents.values():
        agent.watches = True
    node, beat = world.started()["node-02"], FakeAgent._beat
    node.order_s = 5.0
    for number in range(200):
        node.write("photos", f"d/{number}", None)
    world.until(lambda: bool(world.fleet.hold_ids()))
    world.ask(RejectAsked(*world.fleet.hold_ids()))
    world.until_state("node-02", "resyncing")
    monkeypatch.setattr(FakeAgent, "_beat", lambda one, name: None if one is node else beat(one, name))
    world.configure(replace(world.config, volumes=(replace(world.config.volumes[0], ignore=("*.tmp",)),)))
    world.until(lambda: world.view("node-02").quarantine is None)
    node.write("photos", "own.txt", file_of("own"))
    world["node-01"].write("photos", "new.txt", file_of("new"))
    world.run(2)
    assert world.state("node-02") == "joining"
    assert not world.sent("node-02", wire.Push)
    assert b"own.txt" not in world["node-01"].disk["photos"]
    monkeypatch.setattr(FakeAgent, "_beat", beat)
    world.until(world.in_rank)
    assert node.disk["photos"] == world["node-01"].disk["photos"]


def test_who_is_fenced_while_it_is_brought_up_to_date_is_told_to_stop() -> None:
    world = fleet(lag_grace_s=1.0)
    world["node-02"].order_s = 60.0
    world.everywhere("new.txt", file_of("new"), but=["node-02"])
    world.until_state("node-02", "resyncing")
    world.ask(QuarantineAsked("node-02", "a person looks at it"))
    world.run(1)
    assert len(world.sent("node-02", wire.Cancel)) == 1
    assert world.state("node-02") == "quarantined"
    assert world.fleet._world.nodes["node-02"].record.recovery is None


# --- what a fence may cost ------------------------------------------------------------------------


def two_volumes(photos: dict[str, Any], docs: dict[str, Any]) -> FakeWorld:
    """`docs` comes first by its name."""
    return FakeWorld(NAMES, [volume_config("docs", **docs), volume_config("photos", **photos)]).started()


FEW = ("node-01", "node-02")


def test_a_fence_is_refused_for_each_volume_that_would_lose_its_quorum() -> None:
    """Also where the first one by name would not."""
    world = two_volumes({"nodes": FEW}, {})
    assert world.ask(QuarantineAsked("node-02", "by hand")) == "409 quorum_would_be_lost"
    assert world.state("node-03") == "in_rank"
    world.ask(QuarantineAsked("node-03", "by hand"))
    assert world.state("node-03") == "quarantined"


def test_of_a_volume_that_closeranks_carries_one_node_is_left_unfenced() -> None:
    """Behind fences nobody could give the truth to anybody."""
    carried = {"nodes": FEW, "policy": "any-writer", "writers": FEW}
    world = two_volumes(carried, {})
    world.ask(QuarantineAsked("node-02", "by hand"))
    assert world.state("node-02") == "quarantined"
    assert world.ask(QuarantineAsked("node-01", "by hand")) == "409 quorum_would_be_lost"


def test_no_majority_is_kept_where_none_is_asked_for() -> None:
    """Of three nodes of a volume with writers two may be fenced by hand."""
    names = NAMES[:3]
    config = volume_config(nodes=names, policy="writers", writers=names[:1])
    world = FakeWorld(names, [config]).started()
    for name in names[1:]:
        world.ask(QuarantineAsked(name, "by hand"))
    assert [world.state(name) for name in names] == ["in_rank", "quarantined", "quarantined"]


def test_a_majority_that_is_lost_already_is_not_lost_by_a_fence() -> None:
    """Four of seven are away: nobody is accused, and who is caught all the same may be taken out of service."""
    world = fleet()
    for name in NAMES[3:]:
        world[name].stop()
    world.until(lambda: all(world.state(name) == "unreachable" for name in NAMES[3:]))
    world.ask(QuarantineAsked("node-02", "by hand"))
    assert world.state("node-02") == "quarantined"


# --- the end --------------------------------------------------------------------------------------


def test_a_release_closes_all_that_accused_the_node() -> None:
    world = two_volumes({}, {})
    for volume in ("docs", "photos"):
        world["node-02"].write(volume, "c.txt", file_of("rogue"))
    world.until(lambda: len(world.incidents("divergence", "open")) == 2)
    world.until_state("node-02", "in_rank")
    closed = world.incidents("divergence", "closed")
    assert sorted(one.volume for one in closed) == ["docs", "photos"]
    assert all("released" in [event.event for event in one.timeline] for one in closed)


def test_a_fence_is_told_in_the_incident_with_its_token_and_who_asked_for_it() -> None:
    world = fleet(on_divergence="alert")
    world["node-02"].write("photos", "c.txt", file_of("rogue"))
    world.until(lambda: bool(world.incidents("divergence")))
    world.ask(QuarantineAsked("node-02", "it serves nonsense"))
    (incident,) = world.incidents("divergence")
    told = [one.text for one in incident.timeline if one.event == "fenced"]
    assert told == [
        "node-02 was fenced by an operator, who said: it serves nonsense (token 1): nothing is taken from it any more."
    ]
    assert world.view("node-02").quarantine.incident == incident.id
    world.run(0.1)
    (fence,) = world.sent("node-02", wire.Fence)
    assert (fence.token, fence.incident, fence.by_hand) == (1, incident.id, True)  # type: ignore[attr-defined]


def test_who_is_released_once_too_often_is_told_why_it_stays() -> None:
    world = fleet(settle_s=1.0)
    world.configure(replace(world.config, auto_release_max=1))
    for _ in range(2):
        world["node-02"].write("photos", "c.txt", file_of("rogue"))
        world.until_state("node-02", "quarantined")
        world.until(lambda: world.state("node-02") == "in_rank" or world.view("node-02").quarantine.verified)
    incident = world.incidents("divergence")[-1]
    assert any("was released 1 times lately and diverged again" in one.text for one in incident.timeline)


def test_a_release_that_its_node_knows_of_is_forgotten_also_over_a_restart() -> None:
    """Its answer was lost. Kept for ever, the release would lift a fence that comes along with a lost state."""
    world = fleet()
    world.ask(QuarantineAsked("node-02", "by hand"))
    world.run(1)
    world.ask(ReleaseAsked("node-02"))
    world["node-02"].disconnect()
    assert world.fleet._world.nodes["node-02"].record.unfence == 1
    world["node-02"].fence = None
    world["node-02"].connect()
    assert world.fleet._world.nodes["node-02"].record.unfence is None
    world.restart()
    assert world.fleet._world.nodes["node-02"].record.unfence is None


# --- who must have looked -------------------------------------------------------------------------


def test_nobody_is_asked_to_look_for_a_verdict_on_itself() -> None:
    world = FakeWorld(NAMES, [volume_config(scan_interval_s=60.0, on_divergence="alert")])
    for agent in world.agents.values():
        agent.watches, agent.scan_interval_s = True, 60.0
    world.started()
    world["node-02"].write("photos", "c.txt", file_of("rogue"))
    world.until(lambda: bool(world.incidents("divergence")), 10)
    assert not world.sent("node-02", wire.Ask)
    assert world.sent("node-03", wire.Ask)


def test_a_rogue_that_looks_no_more_is_named_all_the_same() -> None:
    """A verdict waits for the word of the others, and not for that of whom it is about."""
    world = FakeWorld(NAMES, [volume_config(scan_interval_s=60.0, on_divergence="alert")])
    for agent in world.agents.values():
        agent.watches, agent.scan_interval_s = True, 60.0
    world.started()
    world["node-02"].deaf = True
    world["node-02"].write("photos", "c.txt", file_of("rogue"))
    world.until(lambda: bool(world.incidents("divergence")), 10)
    assert [one.node for one in world.incidents("divergence")] == ["node-02"]
