"""What operators ask for, and why it is refused."""

from __future__ import annotations

import pytest

from closeranks_coordinator.core.model import (
    BaselineCreateAsked,
    BaselineDeleteAsked,
    Event,
    PinAsked,
    QuarantineAsked,
    ReleaseAsked,
    ResyncAsked,
)
from closeranks_coordinator.core.shapes import ActionView, BaselineView, VolumeView
from closeranks_proto import messages as wire
from fakeworld import FakeWorld, file_of, volume_config

NAMES = [f"node-{number:02d}" for number in range(1, 6)]


def fleet(**changes: object) -> FakeWorld:
    return FakeWorld(NAMES, [volume_config(**changes)]).started()


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (QuarantineAsked("nobody", "x"), "404 unknown_node"),
        (ReleaseAsked("nobody"), "404 unknown_node"),
        (ResyncAsked("nobody", None, False), "404 unknown_node"),
        (ResyncAsked("node-01", "music", False), "404 unknown_volume"),
        (QuarantineAsked("node-01", " "), "400 bad_reason"),
        (QuarantineAsked("node-01", "x" * 501), "400 bad_reason"),
        (ReleaseAsked("node-01"), "409 not_quarantined"),
        (BaselineCreateAsked("Bad Name", "photos", None), "400 bad_name"),
        (BaselineCreateAsked("good", "music", None), "404 unknown_volume"),
        (BaselineCreateAsked("good", "photos", "nobody"), "404 unknown_node"),
        (BaselineDeleteAsked("nothing"), "404 unknown_baseline"),
        (PinAsked("music", "good"), "404 unknown_volume"),
        (PinAsked("photos", None), "409 wrong_policy"),
    ],
)
def test_refusals(asked: Event, answer: str) -> None:
    assert fleet().ask(asked) == answer


def test_a_quarantine_and_a_release_are_done_at_once() -> None:
    world = fleet()
    done = world.ask(QuarantineAsked("node-01", "x" * 500))
    assert isinstance(done, ActionView)
    assert (done.kind, done.node, done.state, done.error) == ("quarantine", "node-01", "done", None)
    world.run(1)
    done = world.ask(ReleaseAsked("node-01"))
    assert isinstance(done, ActionView)
    assert done.state == "done"


def test_a_resync_of_a_node_in_rank_is_done_at_once() -> None:
    done = fleet().ask(ResyncAsked("node-01", None, False))
    assert isinstance(done, ActionView)
    assert (done.state, done.bytes_moved) == ("done", 0)


def test_a_resync_that_runs_is_answered_again() -> None:
    world = fleet(on_divergence="alert")
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world.until_state("node-03", "suspect")
    first = world.ask(ResyncAsked("node-03", None, False))
    assert isinstance(first, ActionView)
    assert first.state == "running"
    world.run(0.1)
    second = world.ask(ResyncAsked("node-03", "photos", False))
    assert isinstance(second, ActionView)
    assert second.id == first.id
    assert world.ask(ResyncAsked("node-03", None, True)) == "409 busy"


def test_a_resync_needs_the_node_and_a_truth() -> None:
    world = FakeWorld(NAMES)
    world.start("node-01")
    world.run(2)
    assert world.ask(ResyncAsked("node-01", None, False)) == "409 no_truth"
    assert world.ask(ResyncAsked("node-02", None, False)) == "409 unreachable"


def test_unconfirmed_differences_are_not_resynced() -> None:
    world = fleet(settle_s=30.0)
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world.run(2)
    assert world.ask(ResyncAsked("node-03", None, False)) == "409 unconfirmed"


def test_a_dry_run_gives_the_plan_and_changes_nothing() -> None:
    world = fleet(on_divergence="alert")
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world["node-03"].write("photos", "extra.txt", file_of("extra"))
    world.until_state("node-03", "suspect")
    before = dict(world["node-03"].disk["photos"])
    action = world.ask(ResyncAsked("node-03", None, True))
    assert isinstance(action, ActionView)
    assert (action.state, action.plan) == ("running", None)
    world.run(1)
    found = world.fleet.action_view(action.id)
    assert found is not None
    assert (found.state, found.plan_steps, found.plan_bytes) == ("done", 2, 100)
    assert [(step["verb"], step["path"]) for step in found.plan or ()] == [
        ("fetch", "a/one.jpg"),
        ("remove", "extra.txt"),
    ]
    assert world["node-03"].disk["photos"] == before
    assert world.state("node-03") == "suspect"


def test_a_dry_run_ends_with_the_session_or_the_coordinator() -> None:
    world = fleet()
    world["node-03"].deaf = True
    first = world.ask(ResyncAsked("node-03", None, True))
    world["node-03"].drop(0.5)
    assert isinstance(first, ActionView)
    assert world.fleet.action_view(first.id).state == "failed"  # type: ignore[union-attr]
    world.run(1)
    second = world.ask(ResyncAsked("node-03", None, True))
    world.restart()
    assert isinstance(second, ActionView)
    assert world.fleet.action_view(second.id).state == "failed"  # type: ignore[union-attr]


def test_actions_of_a_repair_survive_the_coordinator() -> None:
    world = fleet()
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world.until_state("node-03", "verifying")
    world.restart()
    action = world.fleet.action_ids()[0]
    assert world.fleet.action_view(action).state == "running"  # type: ignore[union-attr]
    world.until(world.in_rank)
    found = world.fleet.action_view(action)
    assert found is not None
    assert (found.state, found.bytes_moved) == ("done", 100)


def test_a_resync_of_one_volume_releases_nothing_that_still_differs_elsewhere() -> None:
    volumes = [
        volume_config("docs", on_divergence="quarantine"),
        volume_config("photos", on_divergence="quarantine"),
    ]
    world = FakeWorld(NAMES, volumes).started()
    for volume in ("docs", "photos"):
        world["node-03"].write(volume, "a/one.jpg", file_of("rogue"))
    world.until_state("node-03", "quarantined")
    world.ask(ResyncAsked("node-03", "docs", False))
    world.until_state("node-03", "verifying")
    world.until_state("node-03", "quarantined")
    quarantine = world.view("node-03").quarantine
    assert not quarantine.verified
    assert world.volume("node-03", "docs").differing_paths == 0
    assert world.volume("node-03", "photos").differing_paths == 1
    assert world.ask(ReleaseAsked("node-03")) == "409 not_verified"
    world.ask(ResyncAsked("node-03", None, False))
    world.until(lambda: world.view("node-03").quarantine.verified)
    world.ask(ReleaseAsked("node-03"))
    assert world.incidents(state="open") == []


def test_a_release_needs_a_node_that_is_there_and_was_scanned() -> None:
    world = fleet()
    world.ask(QuarantineAsked("node-02", "by hand"))
    world.run(1)
    world["node-02"].stop()
    world.run(1)
    assert world.ask(ReleaseAsked("node-02")) == "409 not_verified"
    world["node-02"].problem("photos", "not_mounted")
    world["node-02"].start()
    world.run(3)
    assert world.ask(ReleaseAsked("node-02")) == "409 not_verified"


def test_baselines_are_named_pinned_and_deleted() -> None:
    volumes = [volume_config("docs"), volume_config("photos", policy="baseline")]
    world = FakeWorld(NAMES, volumes)
    world.start()
    world.run(3)
    made = world.ask(BaselineCreateAsked("good", "photos", "node-01"))
    assert isinstance(made, BaselineView)
    assert (made.source, made.files, made.pinned) == ("node-01", 5, False)
    assert world.ask(BaselineCreateAsked("good", "photos", "node-02")) == "409 name_taken"
    assert world.ask(PinAsked("photos", "nothing")) == "404 unknown_baseline"
    world.ask(BaselineCreateAsked("docs-1", "docs", None))
    assert world.ask(PinAsked("photos", "docs-1")) == "409 other_volume"
    pinned = world.ask(PinAsked("photos", "good"))
    assert isinstance(pinned, VolumeView)
    assert pinned.baseline == "good"
    assert world.ask(BaselineDeleteAsked("good")) == "409 pinned"
    world.until(world.in_rank)
    world.restart()
    assert world.fleet.baseline_names() == ["docs-1", "good"]
    world.ask(PinAsked("photos", None))
    assert isinstance(world.ask(BaselineDeleteAsked("good")), BaselineView)
    assert world.fleet.baseline_view("good") is None


def test_the_truth_is_no_baseline_while_it_is_undetermined() -> None:
    world = FakeWorld(NAMES[:4]).started()
    for node in NAMES[:2]:
        world[node].write("photos", "a/one.jpg", file_of("other"))
    world.run(5)
    assert world.ask(BaselineCreateAsked("good", "photos", None)) == "409 undetermined"
    assert isinstance(world.ask(BaselineCreateAsked("good", "photos", "node-01")), BaselineView)


def test_orders_of_a_fenced_node_carry_its_token() -> None:
    world = fleet()
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world.until_state("node-03", "quarantined")
    world.until(world.in_rank)
    for kind in (wire.Converge, wire.Verify):
        assert [one.token for one in world.sent("node-03", kind)] == [1]  # type: ignore[attr-defined]


def test_nothing_is_promised_for_a_node_whose_tree_is_gone() -> None:
    world = fleet()
    world["node-02"].problem("photos", "not_mounted")
    world.run(1)
    assert world.ask(ResyncAsked("node-02", None, False)) == "409 unreachable"
    assert world.ask(ResyncAsked("node-02", None, True)) == "409 unreachable"
    assert world.ask(BaselineCreateAsked("frozen", "photos", "node-02")) == "409 not_current"
