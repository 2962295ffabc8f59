"""The API's answers, field by field, and what load balancers are told."""

from __future__ import annotations

from closeranks_coordinator.core.fleet import FleetDiff
from closeranks_coordinator.core.model import (
    BaselineCreateAsked,
    FromAgent,
    PinAsked,
    QuarantineAsked,
    ReleaseAsked,
)
from closeranks_proto import messages as wire
from closeranks_proto.entries import Entry, Kind, encode_entry
from fakeworld import FakeWorld, file_of, key_of, volume_config

NAMES = [f"node-{number:02d}" for number in range(1, 6)]


def lb(world: FakeWorld, *nodes: str) -> list[int | None]:
    return [world.fleet.lb_status(world.now(), node) for node in nodes or NAMES]


# --- nodes ----------------------------------------------------------------------------------------


def test_what_is_not_known_is_null() -> None:
    world = FakeWorld(NAMES)
    view, volume = world.view("node-01"), world.volume("node-01")
    assert (view.state, view.last_contact, view.address, view.quarantine, view.blocked_by) == (
        "joining", None, None, None, None,
    )  # fmt: skip
    assert (volume.root, volume.differing_paths, volume.unconfirmed_paths, volume.differing_bytes) == (
        None,
    ) * 4
    assert (volume.lagging_paths, volume.lag_s, volume.files, volume.bytes, volume.last_full_scan) == (
        None,
    ) * 5
    assert (volume.problem, volume.unreadable, volume.progress, view.disk) == (None, None, None, ())
    world.run(5)
    assert world.state("node-01") == "unreachable"
    assert world.incidents() == []


def test_in_rank_everything_is_nought() -> None:
    world = FakeWorld(NAMES).started()
    volume = world.volume("node-01")
    assert (volume.differing_paths, volume.unconfirmed_paths, volume.differing_bytes) == (0, 0, 0)
    assert (volume.lagging_paths, volume.lag_s, volume.files, volume.withheld) == (0, 0.0, 5, 0)
    assert world.view("node-01").address == "node-01:7342"
    assert world.view("node-01").disk[0].free_bytes == 10**8


def test_a_fenced_node_shows_why_and_how_far_it_is() -> None:
    world = FakeWorld(NAMES).started()
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue", 500))
    world.until_state("node-03", "resyncing")
    view, volume = world.view("node-03"), world.volume("node-03")
    assert (view.quarantine.fence_token, view.quarantine.incident) == (1, "i-000001")
    assert (view.quarantine.by_hand, view.quarantine.verified, view.quarantine.release) == (
        False,
        False,
        "automatic",
    )
    assert (volume.differing_paths, volume.differing_bytes) == (1, 500)
    assert volume.progress["phase"] == "converge"
    world.event(
        world_from("node-03", wire.ConvergeProgress(volume.progress["action"], "fetch", 1, 7, 40, 60)),
    )
    assert world.volume("node-03").progress == {
        "action": "a-000001", "phase": "fetch", "bytes_moved": 40, "steps_done": 1, "steps_total": 7,
        "bytes_remaining": 60,
    }  # fmt: skip


def world_from(node: str, message: wire.ConvergeProgress):  # type: ignore[no-untyped-def]
    from closeranks_coordinator.core.model import FromAgent

    return FromAgent(node, message)


def test_differing_bytes_follow_every_step() -> None:
    """Added up anew and kept up to date give the same."""
    world = FakeWorld(NAMES, [volume_config(on_divergence="alert")]).started()
    agent = world["node-03"]
    sizes = []
    for change in (
        ("a/one.jpg", file_of("rogue", 500)),
        ("extra.txt", file_of("extra", 70)),
        ("a/one.jpg", file_of("rogue again", 300)),
        ("c.txt", None),
        ("link", encode_entry(Entry(Kind.SYMLINK, 3, target=b"abc"))),
        ("b/three.jpg", file_of("b/three.jpg", mode=0o600)),
        ("extra.txt", None),
        ("a/one.jpg", file_of("a/one.jpg")),
    ):
        agent.write("photos", *change)
        world.run(1)
        sizes.append(world.volume("node-03").differing_bytes)
    assert sizes == [500, 570, 370, 470, 470, 470, 400, 100]
    root = world.node_roots[("node-03", "photos")]
    found = world.fleet.diff("photos", "node-03", None)
    assert sum(row.bytes for row in found.rows) == 100  # type: ignore[union-attr]
    assert world.volume("node-03").root == root.hex()


def test_unreachable_covers_the_state_and_the_fence_stays() -> None:
    world = FakeWorld(NAMES).started()
    world.ask(QuarantineAsked("node-02", "by hand"))
    world["node-02"].stop()
    world.run(4)
    view = world.view("node-02")
    assert (view.state, view.connected, view.quarantine.reason) == ("unreachable", False, "by hand")


def test_what_load_balancers_are_told_stands_with_every_node() -> None:
    world = FakeWorld(NAMES).started()

    def told() -> list[bool]:
        one_by_one = [world.view(name).in_service for name in NAMES]
        assert [node.in_service for node in world.fleet.fleet_view(world.now()).nodes] == one_by_one
        assert [code == 200 for code in lb(world)] == one_by_one
        return one_by_one

    assert told() == [True] * 5
    world.ask(QuarantineAsked("node-02", "by hand"))
    assert told() == [True, False, True, True, True]
    for name in NAMES[2:]:
        world[name].stop()
    world.run(40)
    assert told() == [True, False, True, True, True], "of more than half only who is fenced"


def test_a_volume_that_its_agent_has_not_any_more_is_not_compared_and_not_in_rank() -> None:
    world = FakeWorld(NAMES, [volume_config(), volume_config(name="docs")]).started()
    world["node-03"].stop()
    assert not world.volume("node-03", "docs").compared, "it is not connected"
    del world["node-03"].disk["docs"]
    world["node-03"].start()
    world.run(3)
    view = world.fleet.fleet_view(world.now())
    assert [held.name for node in view.nodes for held in node.volumes if not held.compared] == ["docs"]
    assert {one.name: one.in_rank_nodes for one in view.volumes} == {"docs": 4, "photos": 5}
    assert "node-03 has no volume docs" in world.view("node-03").waiting


# --- fleet and volumes ----------------------------------------------------------------------------


def test_the_fleet_is_in_rank_only_when_all_was_compared() -> None:
    world = FakeWorld(NAMES).started()
    world.run(1)
    view = world.fleet.fleet_view(world.now())
    assert (view.in_rank, view.coverage.compared, view.coverage.expected) == (True, 5, 5)
    assert (view.volumes[0].in_rank_nodes, view.volumes[0].voters, view.volumes[0].quorum) == (5, 5, 3)
    assert (view.volumes[0].files, view.volumes[0].bytes) == (5, 500)
    world["node-05"].stop()
    assert not world.fleet.fleet_view(world.now()).in_rank


def test_undetermined_paths_are_shown_again_right_after_a_restart() -> None:
    world = FakeWorld(NAMES[:4]).started()
    for node in NAMES[:2]:
        world[node].write("photos", "a/one.jpg", file_of("other"))
    world.run(5)
    world.restart()
    for _ in range(20):
        world.run(0.25)
        assert world.fleet.volume_view(world.now(), "photos").undetermined == 1  # type: ignore[union-attr]
        assert not world.in_rank()
    assert len(world.incidents()) == 1


def test_how_far_behind_counts_from_a_restart_and_says_that_it_is_more() -> None:
    """It said `behind by 1 s` of a node that had been behind for an hour."""
    writers = volume_config(policy="writers", writers=NAMES[:1], on_lag="wait")
    world = FakeWorld(NAMES[:3], [writers]).started()
    world["node-03"].pushes_fail = True
    world["node-01"].write("photos", "a/one.jpg", file_of("new"))
    world.run(60)
    before = world.view("node-03").volumes[0]
    assert before.lagging_paths
    assert (before.lag_s or 0) > 50
    assert not before.lag_at_least, "nobody was away, so it is known since when"
    world.restart()
    world.run(5)
    after = world.view("node-03").volumes[0]
    assert (after.lagging_paths, after.lag_at_least) == (before.lagging_paths, True)
    assert 0 < (after.lag_s or 0) < 10
    world["node-01"].write("photos", "a/two.jpg", file_of("newer"))
    world.run(1)
    assert world.view("node-03").volumes[0].lag_at_least, "the older still lacks"


def test_diff_against_a_node_and_a_baseline() -> None:
    world = FakeWorld(NAMES, [volume_config(on_divergence="alert")]).started()
    world.ask(BaselineCreateAsked("good", "photos", None))
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world["node-03"].write("photos", "z.txt", file_of("z"))
    world.run(2)
    for against in (None, "truth", "node-01", "good"):
        found = world.fleet.diff("photos", "node-03", against)
        assert [(row.key, row.change) for row in found.rows] == [  # type: ignore[union-attr]
            (key_of("a/one.jpg"), "modified"),
            (key_of("z.txt"), "added"),
        ]
        assert found.total == 2  # type: ignore[union-attr]
    page = world.fleet.diff("photos", "node-03", None, limit=1)
    assert page.next_key == key_of("z.txt")  # type: ignore[union-attr]
    assert world.fleet.diff("photos", "nobody", None).code == "unknown_node"  # type: ignore[union-attr]
    assert world.fleet.diff("photos", "node-03", "nothing").code == "unknown_against"  # type: ignore[union-attr]


def test_live_roots_are_what_somebody_may_still_ask_for() -> None:
    world = FakeWorld(NAMES, [volume_config(on_divergence="alert")]).started()
    first = world.node_roots[("node-01", "photos")]
    world.ask(BaselineCreateAsked("good", "photos", None))
    world.everywhere("new.txt", file_of("new"))
    world.run(3)
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world.until_state("node-03", "suspect")
    now = world.node_roots[("node-01", "photos")]
    rogue = world.node_roots[("node-03", "photos")]
    assert {first, now, rogue} <= world.fleet.live_roots(world.now())


# --- load balancers -------------------------------------------------------------------------------


def test_load_balancers_keep_to_the_rules() -> None:
    world = FakeWorld(
        NAMES, [volume_config(on_divergence="quarantine", on_lag="wait")], lb_max_lag_s=20.0
    ).started()
    assert lb(world, "nobody") == [None]
    assert lb(world) == [200] * 5
    world.ask(QuarantineAsked("node-01", "by hand"))
    assert lb(world) == [503, 200, 200, 200, 200]
    world.run(1)
    world.ask(ReleaseAsked("node-01"))
    assert lb(world) == [200] * 5
    world["node-02"].stop()
    world.run(29)
    assert (world.state("node-02"), lb(world, "node-02")) == ("unreachable", [200])
    world.run(2)
    assert lb(world, "node-02") == [503]
    world["node-02"].start()
    world.run(2)
    assert lb(world) == [200] * 5
    world.everywhere("new.txt", file_of("new"), but=["node-03"])
    world.run(18)
    assert (world.state("node-03"), lb(world, "node-03")) == ("lagging", [200])
    world.run(5)
    assert lb(world, "node-03") == [503]


def test_a_suspect_serves_and_a_joiner_does_not() -> None:
    world = FakeWorld(NAMES, [volume_config(on_divergence="alert")])
    world["node-05"].disk["photos"] = {}
    world["node-05"].fails = wire.Problem("no_space", "full")
    world.start()
    world.until_state("node-05", "resyncing")
    assert lb(world) == [200, 200, 200, 200, 503]
    world["node-05"].fails = None
    world.until_state("node-05", "verifying")
    assert lb(world, "node-05") == [503]
    world.until(world.in_rank)
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world.until_state("node-03", "suspect")
    assert lb(world) == [200] * 5


def test_when_more_than_half_would_be_down_only_fenced_ones_are() -> None:
    world = FakeWorld(NAMES).started()
    world.ask(QuarantineAsked("node-01", "by hand"))
    for node in ("node-02", "node-03"):
        world[node].stop()
    world.run(40)
    assert lb(world) == [503, 200, 200, 200, 200]


def test_load_balancers_are_answered_from_what_is_stored_right_after_a_start() -> None:
    world = FakeWorld(NAMES).started()
    world.ask(QuarantineAsked("node-01", "by hand"))
    world.restart()
    assert lb(world) == [503, 200, 200, 200, 200]


def test_before_a_baseline_is_pinned_everybody_serves() -> None:
    world = FakeWorld(NAMES, [volume_config(policy="baseline")])
    world.start()
    world.run(5)
    assert lb(world) == [200] * 5
    world.ask(BaselineCreateAsked("good", "photos", "node-01"))
    world.ask(PinAsked("photos", "good"))
    world.run(5)
    assert lb(world) == [200] * 5


# --- no pass without proof ------------------------------------------------------------------------


def test_a_difference_says_which_nodes_it_only_remembers() -> None:
    world = FakeWorld(NAMES).started()
    world["node-02"].stop()
    world.run(5)
    seen = [
        world.fleet.diff("photos", "node-02", None),
        world.fleet.diff("photos", "node-01", "node-02"),
        world.fleet.diff("photos", "node-01", None),
    ]
    assert [one.stale for one in seen if isinstance(one, FleetDiff)] == [("node-02",), ("node-02",), ()]


def test_a_fleet_with_a_file_that_can_not_be_read_is_not_in_rank() -> None:
    world = FakeWorld(NAMES).started()
    assert world.in_rank()
    for why, in_rank in (("unreadable", False), ("special", True)):
        left_out = (wire.Unreadable(b"a\0one.jpg", why, "Input/output error"),)
        status = wire.VolumeStatus("photos", None, 1, 1, 1, left_out, 1, 0, 0, None)
        world.event(FromAgent("node-03", status))
        assert world.fleet.fleet_view(world.now()).in_rank is in_rank
