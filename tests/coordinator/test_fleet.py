"""Stories of a fleet as golden transcripts: states of nodes and timelines of incidents, in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from closeranks_coordinator.core.fleet import FleetDiff
from closeranks_coordinator.core.model import (
    BaselineCreateAsked,
    DuplicateRefused,
    Log,
    Persist,
    PinAsked,
    QuarantineAsked,
    Refusal,
    ReleaseAsked,
    ResyncAsked,
    Send,
)
from closeranks_coordinator.core.recovery import CATCH_UPS_MAX
from closeranks_proto import messages as wire
from fakeworld import FakeWorld, file_of, key_of, volume_config
from fakeworld.world import SOME_FILES


def names(count: int) -> list[str]:
    return [f"node-{number:02d}" for number in range(1, count + 1)]


def rogue_for_ever(world: FakeWorld, node: str, path: str, every_s: float = 0.4) -> Callable[[], None]:
    """Something writes one path again and again, each time something else; the answer stops it."""
    running = [True]

    def write() -> None:
        if running[0]:
            world[node].write("photos", path, file_of(f"rogue {world.mono}"))
            world.later(every_s, write)

    write()
    return lambda: running.__setitem__(0, False)


REPAIRED = [
    "i-000001 divergence node-03",
    "i-000001 detected",
    "i-000001 named",
    "i-000001 fenced",
    "node-03 quarantined",
    "i-000001 resync_started",
    "node-03 resyncing",
    "i-000001 resynced",
    "node-03 verifying",
    "i-000001 verified",
    "i-000001 released",
    "i-000001 closed",
    "node-03 in_rank",
]


# --- one rogue ------------------------------------------------------------------------------------


def test_a_rogue_is_named_fenced_repaired_and_released() -> None:
    world = FakeWorld(names(5)).started()
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world.until(lambda: world.incidents())
    assert world.volume("node-03").differing_paths == 1
    assert world.view("node-03").quarantine.fence_token == 1
    world.until_state("node-03", "in_rank")
    assert world.told == REPAIRED
    assert world["node-03"].disk["photos"] == world["node-01"].disk["photos"]
    assert world.incidents()[0].bytes_moved == 100
    assert world.incidents()[0].files_trashed == 1
    assert world.view("node-03").quarantine is None
    world.run(0.1)
    assert world["node-03"].fence is None


def test_an_unconfirmed_difference_is_counted_and_accuses_nobody() -> None:
    world = FakeWorld(names(5)).started()
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world.run(1.2)
    assert world.volume("node-03").unconfirmed_paths == 1
    world["node-03"].write("photos", "a/one.jpg", file_of("a/one.jpg"))
    world.run(10)
    assert world.told == []


def test_a_rogue_that_writes_for_ever_is_held_until_it_stops() -> None:
    world = FakeWorld(names(5)).started()
    stop = rogue_for_ever(world, "node-03", "a/one.jpg")
    world.run(60)
    assert world.view("node-03").quarantine is not None
    incident = world.incidents()[0]
    assert incident.recurrences > 10
    assert [one.path for one in incident.paths] == ["a/one.jpg"]
    assert "i-000001 verified" not in world.told
    stop()
    world.until_state("node-03", "in_rank")
    assert world.told[-4:] == ["i-000001 verified", "i-000001 released", "i-000001 closed", "node-03 in_rank"]


def test_a_file_rewritten_for_ever_is_named_although_its_content_changes() -> None:
    world = FakeWorld(names(5), [volume_config(on_divergence="alert", settle_s=5.0)]).started()
    stop = rogue_for_ever(world, "node-03", "a/one.jpg", every_s=0.3)
    took = world.until_state("node-03", "suspect")
    assert took < 8
    stop()


def test_two_nodes_on_which_a_file_is_rewritten_for_ever_are_both_named() -> None:
    """Where several nodes differ, a new entry is counted by its holders, and a write is none."""
    config = volume_config(on_divergence="alert", settle_s=5.0, settle_max_s=60.0)
    world = FakeWorld(names(7), [config]).started()
    stops = [rogue_for_ever(world, "node-03", "a/one.jpg", every_s=0.3)]
    world.run(0.05)  # so that the two never write the same
    stops.append(rogue_for_ever(world, "node-05", "a/one.jpg", every_s=0.3))
    world.run(10)
    assert [world.state(node) for node in ("node-03", "node-05")] == ["suspect"] * 2
    for stop in stops:
        stop()


def test_a_path_that_comes_back_after_the_release_is_told_as_a_recurrence() -> None:
    world = FakeWorld(names(5)).started()
    for _ in range(2):
        world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
        world.until_state("node-03", "quarantined")
        world.until_state("node-03", "in_rank")
    assert "i-000002 recurrence" in world.told


def test_a_regression_is_told_as_one() -> None:
    world = FakeWorld(names(5)).started()
    world.everywhere("a/one.jpg", file_of("newer"))
    world.run(3)
    world["node-03"].write("photos", "a/one.jpg", file_of("a/one.jpg"))
    world.until_state("node-03", "quarantined")
    assert [one.kind for one in world.incidents()] == ["regression"]


def test_repeated_offenders_stay_until_a_person_releases() -> None:
    world = FakeWorld(names(5), auto_release_max=2).started()
    for _ in range(2):
        world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
        world.until_state("node-03", "quarantined")
        world.until_state("node-03", "in_rank")
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world.until(lambda: world.state("node-03") == "verifying")
    world.until_state("node-03", "quarantined")
    world.run(30)
    quarantine = world.view("node-03").quarantine
    assert (quarantine.release, quarantine.verified) == ("by_hand", True)
    assert world["node-03"].disk["photos"] == world["node-01"].disk["photos"]
    world.ask(ReleaseAsked("node-03"))
    assert world.state("node-03") == "in_rank"


# --- what a volume says ---------------------------------------------------------------------------


def test_alert_changes_nothing_until_the_difference_is_gone() -> None:
    world = FakeWorld(names(5), [volume_config(on_divergence="alert")]).started()
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world.run(30)
    assert world.told == [
        "i-000001 divergence node-03",
        "i-000001 detected",
        "i-000001 named",
        "node-03 suspect",
    ]
    assert world.sent("node-03", wire.Fence) == []
    assert world.view("node-03").blocked_by is None
    world["node-03"].write("photos", "a/one.jpg", file_of("a/one.jpg"))
    world.run(3)
    assert world.told[4:] == ["i-000001 note", "i-000001 closed", "node-03 in_rank"]


def test_a_silent_node_does_not_heal_because_the_truth_comes_to_it() -> None:
    """What it has by now nobody knows: silence is not agreement."""
    world = FakeWorld(names(5), [volume_config(on_divergence="alert")]).started()
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world.until_state("node-03", "suspect")
    world["node-03"].stop()
    world.everywhere("a/one.jpg", file_of("rogue"), but=["node-03"])
    world.run(20)
    assert [one.state for one in world.incidents("divergence")] == ["open"]
    world["node-03"].start()
    world.until(world.in_rank)
    assert [one.state for one in world.incidents("divergence")] == ["closed"]


def test_resync_of_a_suspect_fences_first_and_releases_after_proof() -> None:
    world = FakeWorld(names(5), [volume_config(on_divergence="alert")]).started()
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world.until_state("node-03", "suspect")
    action = world.ask(ResyncAsked("node-03", None, False))
    world.until_state("node-03", "in_rank")
    assert world.told[4:] == REPAIRED[3:]
    assert world.fleet.action_view(action.id).state == "done"
    assert world.fleet.action_view(action.id).bytes_moved == 100


def test_quarantine_waits_for_a_persons_resync_and_release() -> None:
    world = FakeWorld(names(5), [volume_config(on_divergence="quarantine")]).started()
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world.until_state("node-03", "quarantined")
    world.run(20)
    assert world.told == REPAIRED[:5]
    assert world.ask(ReleaseAsked("node-03")) == "409 not_verified"
    world.ask(ResyncAsked("node-03", None, False))
    world.until_state("node-03", "verifying")
    assert world.ask(ReleaseAsked("node-03")) == "409 not_verified"
    world.until_state("node-03", "quarantined")
    world.run(20)
    assert world.told[5:] == [
        "i-000001 resync_started",
        "node-03 resyncing",
        "i-000001 resynced",
        "node-03 verifying",
        "i-000001 verified",
        "i-000001 note",
        "node-03 quarantined",
    ]
    assert world.view("node-03").quarantine.verified
    world.told.clear()
    world.ask(ReleaseAsked("node-03"))
    assert world.told == ["i-000001 released", "i-000001 closed", "node-03 in_rank"]


def test_by_hand_nothing_happens_by_itself() -> None:
    world = FakeWorld(names(5)).started()
    world.ask(QuarantineAsked("node-02", "it smells"))
    world["node-02"].write("photos", "a/one.jpg", file_of("tried something"))
    world.run(30)
    assert world.told == ["node-02 quarantined"]
    assert world.view("node-02").quarantine.by_hand
    assert world.volume("node-02").differing_paths == 1
    assert world.ask(QuarantineAsked("node-02", "again")) == "409 already_quarantined"
    assert world.ask(ReleaseAsked("node-02")) == "409 not_verified"
    world["node-02"].write("photos", "a/one.jpg", file_of("a/one.jpg"))
    world.run(2)
    world.ask(ReleaseAsked("node-02"))
    world.run(2)
    assert world.told == ["node-02 quarantined", "node-02 in_rank"]
    assert world["node-02"].fence is None


def test_by_hand_takes_over_from_an_automatic_fence() -> None:
    world = FakeWorld(names(5)).started()
    rogue_for_ever(world, "node-03", "a/one.jpg")
    world.until_state("node-03", "resyncing")
    action = world.fleet.action_ids()[0]
    world.ask(QuarantineAsked("node-03", "I look at it myself"))
    world.run(20)
    assert world.state("node-03") == "quarantined"
    assert world.fleet.action_view(action).state == "failed"
    assert world["node-03"].fence.token == 1


# --- behind ---------------------------------------------------------------------------------------


def test_a_node_left_behind_by_the_majority_is_brought_along_without_suspicion() -> None:
    world = FakeWorld(names(5)).started()
    world.everywhere("new.txt", file_of("new"), but=["node-04"])
    world.run(20)
    assert [one for one in world.told if "node-04" in one] == [
        "node-04 lagging",
        "node-04 resyncing",
        "node-04 verifying",
        "node-04 in_rank",
    ]
    assert world.incidents() == []


def test_lag_waits_where_the_volume_says_so() -> None:
    world = FakeWorld(names(5), [volume_config(on_lag="wait")]).started()
    world.everywhere("new.txt", file_of("new"), but=["node-04"])
    world.run(60)
    assert world.state("node-04") == "lagging"
    assert world.volume("node-04").lag_s > 50
    assert world.volume("node-04").lagging_paths == 1
    world.ask(ResyncAsked("node-04", None, False))
    world.until_state("node-04", "in_rank")
    assert world.incidents() == []


def test_a_lagging_node_keeps_its_own_unconfirmed_entries() -> None:
    world = FakeWorld(names(5), [volume_config(settle_s=60.0)]).started()
    world.everywhere("new.txt", file_of("new"), but=["node-04"])
    world["node-04"].write("photos", "mine.txt", file_of("mine"))
    world.run(20)
    assert world.state("node-04") == "in_rank"
    disk = world["node-04"].disk["photos"]
    assert key_of("new.txt") in disk
    assert key_of("mine.txt") in disk
    assert world.volume("node-04").unconfirmed_paths == 1


def test_a_want_of_room_that_a_person_ended_by_hand_is_not_told_while_the_node_is_read_back() -> None:
    world = FakeWorld(names(5)).started()
    late = world["node-04"]
    late.fails = wire.Problem("trash_full", "the trash has no room for old.txt", 100, 0)
    world.keep_steps = True
    world.everywhere("new.txt", file_of("new"), but=["node-04"])
    world.until_state("node-04", "resyncing")
    world.until(lambda: world.volume("node-04").problem is not None)
    logged = [one.text for step in world.steps for one in step.effects if isinstance(one, Log)]
    assert any("The resync of node-04 can not go on: the trash has no room" in text for text in logged)
    (order, *_) = world.sent("node-04", wire.Converge)
    assert isinstance(order, wire.Converge)
    assert not order.ordinary, "where a majority is the truth, nobody is authorised"
    late.write("photos", "new.txt", file_of("new"))
    world.until_state("node-04", "verifying")
    assert world.volume("node-04").problem is None
    world.until_state("node-04", "in_rank")


def test_a_lagging_node_that_diverges_is_named_even_if_its_resync_can_not_go_on() -> None:
    world = FakeWorld(names(5)).started()
    world["node-04"].fails = wire.Problem("no_space", "the disk is full", 100, 0)
    world.everywhere("new.txt", file_of("new"), but=["node-04"])
    world.until_state("node-04", "resyncing")
    world.run(5)
    assert world.volume("node-04").problem.code == "no_space"
    world["node-04"].write("photos", "a/one.jpg", file_of("rogue"))
    world.until_state("node-04", "quarantined")
    world["node-04"].fails = None
    world.until_state("node-04", "in_rank")
    assert world["node-04"].disk["photos"] == world["node-01"].disk["photos"]


def test_joiners_are_converged_and_their_own_files_go_to_the_trash() -> None:
    world = FakeWorld(names(5))
    world["node-04"].disk["photos"] = {}
    world["node-05"].write("photos", "extra.txt", file_of("extra"))
    world.start()
    world.run(30)
    for node in ("node-04", "node-05"):
        assert [one for one in world.told if node in one] == [
            f"{node} joining",
            f"{node} resyncing",
            f"{node} verifying",
            f"{node} in_rank",
        ]
    assert world.incidents() == []
    assert world["node-05"].trash == [("photos", key_of("extra.txt"), file_of("extra"))]
    assert world.in_rank()


def sources_of(world: FakeWorld, node: str) -> set[str]:
    order = world.sent(node, wire.Converge)[-1]
    assert isinstance(order, wire.Converge)
    return set(order.sources)


def test_empty_nodes_that_join_together_give_each_other_what_they_have_already() -> None:
    world = FakeWorld(names(7))
    for node in ("node-06", "node-07"):
        world[node].disk["photos"] = {}
        world[node].order_s = 5.0
    world.start(*names(6))
    world.until(lambda: bool(world.sent("node-06", wire.Converge)))
    world.start("node-07")
    world.until(lambda: bool(world.sent("node-07", wire.Converge)))
    assert world.state("node-06") == "resyncing"
    assert sources_of(world, "node-07") == set(names(6))
    world.until(world.in_rank)


def test_a_node_that_is_repaired_is_nobodys_source() -> None:
    world = FakeWorld(names(7))
    world["node-07"].disk["photos"] = {}
    world.start(*names(6))
    world.run(10)
    world["node-05"].order_s = 300.0
    world["node-05"].write("photos", "a/one.jpg", file_of("rogue"))
    world.until_state("node-05", "resyncing")
    world.start("node-07")
    world.until(lambda: bool(world.sent("node-07", wire.Converge)))
    assert sources_of(world, "node-07") == set(names(6)) - {"node-05"}


def test_a_lag_that_nobody_can_judge_any_more_is_left_alone() -> None:
    world = FakeWorld(names(5), [volume_config(lag_grace_s=8.0)]).started()
    world.everywhere("new.txt", file_of("new"), but=["node-04", "node-05"])
    world.run(3)
    world["node-03"].stop()
    world.run(30)
    assert world.sent("node-04", wire.Converge) == []
    assert world.volume("node-04").lagging_paths == 0
    world["node-03"].start()
    world.run(30)
    assert world.state("node-04") == "in_rank"
    assert key_of("new.txt") in world["node-04"].disk["photos"]


# --- founding -------------------------------------------------------------------------------------


def test_equal_nodes_found_the_truth_at_once() -> None:
    world = FakeWorld(names(5))
    world.start()
    assert world.until(world.in_rank) < 2
    world.run(1)
    assert world.fleet.volume_view(world.now(), "photos").voters == 5


def test_a_quorum_founds_the_truth_and_the_others_join_later() -> None:
    world = FakeWorld(names(5))
    world["node-05"].write("photos", "extra.txt", file_of("extra"))
    world.start(*names(3))
    world.until(lambda: world.state("node-03") == "in_rank")
    assert world.fleet.fleet_view(world.now()).in_rank is False
    world.start("node-04", "node-05")
    world.until(world.in_rank)
    assert world.incidents(kind="divergence") == []


def test_less_than_a_quorum_founds_nothing() -> None:
    world = FakeWorld(names(4))
    world.start("node-01", "node-02")
    world.run(60)
    assert world.fleet.volume_view(world.now(), "photos").truth_root is None
    assert world.state("node-01") == "joining"
    assert world.volume("node-01").differing_paths is None


def test_a_quorum_that_disagrees_waits_for_the_rest_before_it_founds() -> None:
    """Those that come a moment later decide it: nobody is told of a path without a majority, nor is any set aside."""
    world = FakeWorld(names(5))
    world["node-01"].write("photos", "a/one.jpg", file_of("of one alone"))
    world.start(*names(3))
    world.run(2.5)
    world.start("node-04", "node-05")
    world.until(world.in_rank)
    assert world.incidents() == []
    assert [name for name in names(5) if world[name].trash] == ["node-01"]
    assert world["node-01"].disk["photos"] == SOME_FILES


def test_a_fleet_that_disagrees_is_heard_before_it_founds() -> None:
    """Path by path: what three of five hold is the truth, the rest is undetermined and kept."""
    world = FakeWorld(names(5))
    for node in names(5):
        world[node].write("photos", "local.txt", file_of(node))
    world.start()
    world.run(20)
    assert world.states() == {"in_rank"}
    assert world.fleet.volume_view(world.now(), "photos").undetermined == 1
    assert not world.in_rank()
    assert world["node-01"].disk["photos"][key_of("local.txt")] == file_of("node-01")


# --- many -----------------------------------------------------------------------------------------


def test_the_second_rogue_waits_for_the_firsts_release() -> None:
    world = FakeWorld(names(5)).started()
    for node in names(2):
        world[node].write("photos", "a/one.jpg", file_of(f"rogue {node}"))
    world.until_state("node-01", "quarantined")
    assert world.state("node-02") == "suspect"
    assert world.view("node-02").blocked_by == "max_quarantined"
    assert world.view("node-02").quarantine is None
    world.until_state("node-01", "in_rank")
    world.until_state("node-02", "quarantined")
    assert world.view("node-02").blocked_by is None
    world.until(world.in_rank)


def test_two_rogues_are_fenced_at_once_where_two_may_be() -> None:
    world = FakeWorld(names(7), max_quarantined=2).started()
    for node in names(2):
        world[node].write("photos", "a/one.jpg", file_of(f"rogue {node}"))
    world.until(lambda: world.view("node-01").quarantine and world.view("node-02").quarantine)
    world.until(world.in_rank)


def test_three_rogues_at_once_are_too_many_to_believe() -> None:
    world = FakeWorld(names(7)).started()
    for node in names(3):
        world[node].write("photos", "a/one.jpg", file_of(f"rogue {node}"))
    world.run(30)
    assert [one.kind for one in world.incidents(state="open")].count("many_suspects") == 1
    assert [world.state(node) for node in names(3)] == ["suspect"] * 3
    assert world.view("node-01").blocked_by == "many_suspects"
    assert not any(agent.fence for agent in world.agents.values())
    world.ask(ResyncAsked("node-01", None, False))
    world.until(world.in_rank, 90)
    assert world.incidents(state="open") == []


def test_three_rogues_seen_one_after_the_other_are_still_at_once() -> None:
    world = FakeWorld(names(7), [volume_config(settle_s=3.0)]).started()
    for number, node in enumerate(names(3)):
        world.later(
            number * 0.9, lambda node=node: world[node].write("photos", "x", file_of(f"rogue {node}"))
        )
    world.run(40)
    assert not any(agent.fence for agent in world.agents.values())
    assert len(world.incidents(kind="many_suspects", state="open")) == 1


def test_an_even_split_accuses_nobody() -> None:
    world = FakeWorld(names(4)).started()
    for node in names(2):
        world[node].write("photos", "a/one.jpg", file_of("other"))
    world.run(1.5)
    assert world.incidents() == []
    world.run(20)
    assert world.told == ["i-000001 undetermined -", "i-000001 detected", "i-000001 note"]
    assert world.incidents()[0].node is None
    assert not world.in_rank()
    assert world.fleet.volume_view(world.now(), "photos").undetermined == 1
    found = world.fleet.diff("photos", "node-01", None)
    assert (found.rows, found.undetermined, found.total) == ((), 1, 0)
    for node in names(2):
        world[node].write("photos", "a/one.jpg", file_of("a/one.jpg"))
    world.until(world.in_rank)
    assert world.incidents()[0].state == "closed"


def test_a_misspelt_node_is_not_said_to_lack_a_volume() -> None:
    world = FakeWorld(names(3)).started()
    text = "There is no node 'node-1' in this fleet: `closeranks nodes` lists those that are."
    assert world.fleet.diff("photos", "node-1", None) == Refusal(404, "unknown_node", text)
    text = "'node-01' has no volume 'fotos'."
    assert world.fleet.diff("fotos", "node-01", None) == Refusal(404, "unknown_node", text)


def test_nodes_stay_what_they_were_when_paths_become_undetermined() -> None:
    world = FakeWorld(names(5), [volume_config(on_divergence="alert")]).started()
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world.until_state("node-03", "suspect")
    world["node-01"].stop()
    world["node-02"].stop()
    world.run(20)
    assert world.state("node-03") == "suspect"
    assert world.volume("node-03").differing_paths == 0
    assert world.incidents(kind="divergence", state="open")
    world.start("node-01", "node-02")
    world.run(20)
    assert world.state("node-03") == "suspect"
    assert world.volume("node-03").differing_paths == 1


def test_a_fenced_node_is_not_released_while_its_paths_have_no_majority() -> None:
    world = FakeWorld(names(5)).started()
    world["node-04"].fails = wire.Problem("io_error", "not now")
    world["node-04"].write("photos", "a/one.jpg", file_of("rogue"))
    world.until_state("node-04", "resyncing")
    world["node-05"].write("photos", "a/one.jpg", file_of("rogue"))
    world["node-01"].stop()
    world["node-02"].stop()
    world.run(2)
    world["node-04"].fails = None
    world.run(40)
    assert world.state("node-04") == "verifying"
    assert world["node-04"].disk["photos"][key_of("a/one.jpg")] == file_of("rogue")
    world.start("node-01", "node-02")
    world.until(world.in_rank, 120)
    assert world["node-04"].disk["photos"] == world["node-01"].disk["photos"]


@pytest.mark.parametrize("gap_s", [1.0, 1.7])
def test_a_rolling_change_accuses_nobody(gap_s: float) -> None:
    """Sixteen nodes, one after the other, settle_s above each gap but far below the whole."""
    world = FakeWorld(names(16), [volume_config(settle_s=3.0, on_lag="wait")]).started()
    for number, node in enumerate(names(16)):

        def change(node: str = node) -> None:
            world[node].write("photos", "a/one.jpg", file_of("release 2"))
            world[node].write("photos", "added.txt", file_of("added"))
            world[node].write("photos", "c.txt", None)

        world.later(number * gap_s, change)
    world.run(16 * gap_s + 5)
    assert world.incidents() == []
    assert world.in_rank()


def test_a_spread_that_stalls_is_named_after_settle_s() -> None:
    world = FakeWorld(names(16), [volume_config(settle_s=3.0, on_divergence="alert")]).started()
    for node in names(2):
        world[node].write("photos", "a/one.jpg", file_of("release 2"))
    world.run(8)
    assert [world.state(node) for node in names(2)] == ["suspect"] * 2


def test_clocks_are_restarted_until_settle_max_s_at_most() -> None:
    config = volume_config(settle_s=3.0, settle_max_s=6.0, on_divergence="alert")
    world = FakeWorld(names(16), [config]).started()
    for number, node in enumerate(names(7)):
        world.later(number * 2.0, lambda node=node: world[node].write("photos", "x.txt", file_of("slow")))
    world.run(9.5)
    assert world.state("node-01") == "suspect"


def test_rogues_with_the_same_entry_are_suspects_too() -> None:
    world = FakeWorld(names(5)).started()
    for node in names(2):
        world[node].write("photos", "a/one.jpg", file_of("same"))
    world.run(4)
    assert {world.state("node-01"), world.state("node-02")} <= {
        "suspect",
        "quarantined",
        "resyncing",
        "verifying",
    }
    world.until(world.in_rank)


# --- away -----------------------------------------------------------------------------------------


def move_truth(world: FakeWorld, away: list[str], rounds: int) -> None:
    for number in range(rounds):
        world.everywhere("a/one.jpg", file_of(f"round {number}"), but=away)
        world.everywhere(f"added-{number}.txt", file_of(number), but=away)
        world.everywhere("c.txt", None, but=away)
        world.run(2.2)


def test_an_outage_is_told_after_ten_seconds_and_ends_with_the_return() -> None:
    world = FakeWorld(names(5)).started()
    world["node-02"].stop()
    world.run(2.5)
    assert world.state("node-02") == "in_rank"
    world.run(1)
    assert world.state("node-02") == "unreachable"
    assert not world.in_rank()
    assert world.fleet.fleet_view(world.now()).coverage.compared == 4
    world.run(5)
    assert world.incidents() == []
    world.run(2)
    assert [one.kind for one in world.incidents()] == ["outage"]
    world["node-02"].start()
    world.until(world.in_rank)
    assert world.told == [
        "node-02 unreachable",
        "i-000001 outage node-02",
        "i-000001 detected",
        "i-000001 named",
        "i-000001 note",
        "i-000001 closed",
        "node-02 in_rank",
    ]


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_node_that_was_away_for_long_is_late_and_not_accused(forgotten: bool) -> None:
    world = FakeWorld(names(5)).started()
    world["node-02"].stop()
    move_truth(world, ["node-02"], 6)
    if forgotten:
        world.config = replace(world.config, history_keep_s=0.0)
        world.restart()
        world.fleet.live_roots(world.now())
        world.run(15)
    world["node-02"].start()
    world.until_state("node-02", "in_rank")
    assert world.incidents(kind="divergence") == world.incidents(kind="regression") == []
    assert world["node-02"].disk["photos"] == world["node-01"].disk["photos"]


def test_what_was_written_while_away_is_divergence_and_only_that() -> None:
    world = FakeWorld(names(5)).started()
    world["node-02"].stop()
    move_truth(world, ["node-02"], 3)
    world["node-02"].write("photos", "b/three.jpg", file_of("rogue"))
    world["node-02"].start()
    world.until_state("node-02", "quarantined")
    incident = world.incidents(kind="divergence")[0]
    assert [one.path for one in incident.paths] == ["b/three.jpg"]
    world.until(world.in_rank)


def test_a_late_node_that_gets_an_earlier_truth_is_still_late() -> None:
    world = FakeWorld(names(5), [volume_config(on_lag="wait")]).started()
    world["node-02"].stop()
    move_truth(world, ["node-02"], 3)
    world["node-02"].start()
    world["node-02"].write("photos", "a/one.jpg", file_of("round 1"))
    world.run(10)
    assert world.state("node-02") == "lagging"
    world["node-02"].write("photos", "a/one.jpg", file_of("a/one.jpg"))
    world.until(lambda: world.incidents(kind="regression"))


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize(("came", "kind"), [("between", None), ("after", None), ("before", "regression")])
def test_who_was_elsewhere_while_the_truth_came_back_lacks_what_was_between(
    came: str, kind: str | None, restarted: bool
) -> None:
    """Absent, something, absent, two other things, absent: a node that has held the second absence alone."""
    world = FakeWorld(names(5), [volume_config(on_divergence="alert", settle_s=30.0)]).started()
    for value in (file_of("before"), None):
        world.everywhere("d/new.txt", value)
        world.run(3)
    world["node-05"].write("photos", "d/new.txt", file_of("its own"))
    for value in (file_of("between"), file_of("after"), None):
        world.everywhere("d/new.txt", value, but=["node-05"])
        world.run(3)
    assert (world.volume("node-05").unconfirmed_paths, world.incidents()) == (1, [])
    if restarted:
        world.restart()
        world.run(3)
    world["node-05"].write("photos", "d/new.txt", file_of(came))
    world.run(45)
    assert [one.kind for one in world.incidents()] == ([] if kind is None else [kind])


def test_what_was_between_is_a_regression_once_the_second_absence_was_held() -> None:
    world = FakeWorld(names(5), [volume_config(on_divergence="alert", settle_s=30.0)]).started()
    world["node-05"].write("photos", "new.txt", file_of("its own"))
    for value in (file_of("between"), None):
        world.everywhere("new.txt", value, but=["node-05"])
        world.run(3)
    world["node-05"].write("photos", "new.txt", None)
    world.run(3)
    assert world.in_rank()
    world["node-05"].write("photos", "new.txt", file_of("between"))
    world.until(lambda: world.incidents(kind="regression"))


def test_a_volume_that_is_not_mounted_has_no_vote_and_is_not_accused() -> None:
    world = FakeWorld(names(5)).started()
    world["node-02"].problem("photos", "not_mounted")
    world["node-02"].disk["photos"].clear()
    world.run(30)
    assert world.state("node-02") == "unreachable"
    assert world.fleet.volume_view(world.now(), "photos").voters == 4
    assert [one.kind for one in world.incidents()] == ["outage"]
    assert "can not read" in world.incidents()[0].summary
    world["node-02"].disk["photos"].update(world["node-01"].disk["photos"])
    world["node-02"].problem("photos", None)
    world.until(world.in_rank)
    assert world.incidents(state="open") == []


def test_a_voter_that_stops_scanning_loses_its_vote() -> None:
    world = FakeWorld(names(5)).started()
    world["node-05"].scan_interval_s = 10_000
    world.run(30)
    assert world.fleet.volume_view(world.now(), "photos").voters == 5
    world.run(60)
    assert world.fleet.volume_view(world.now(), "photos").voters == 4
    assert world.fleet.fleet_view(world.now()).coverage.compared == 4
    assert world.state("node-05") == "in_rank"


def test_nobody_is_named_before_every_voter_has_scanned_again() -> None:
    world = FakeWorld(names(5)).started()
    for node in ("node-01", "node-02", "node-04", "node-05"):
        world[node].scan_interval_s = 20.0
    world.run(3)
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world.run(12)
    assert world.volume("node-03").unconfirmed_paths == 1
    assert world.state("node-03") == "in_rank"
    world.until_state("node-03", "quarantined", 30)


# --- interrupted ----------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0.5, 1.5, 2.9, 3.0, 3.05, 3.3, 3.5, 4.0, 5.0, 5.6, 6.5])
def test_a_coordinator_killed_at_any_moment_finishes_the_job(at: float) -> None:
    world = FakeWorld(names(5)).started()
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world.run(at)
    world.restart()
    world.run(30)
    assert world.in_rank()
    assert [one.kind for one in world.incidents()] == ["divergence"]
    assert world.incidents(state="open") == []
    assert [token.token for token in world.sent("node-03", wire.Fence)] in ([1], [1, 1])
    assert world["node-03"].fence is None


@pytest.mark.parametrize("at", [3.1, 3.4, 4.0, 5.0])
def test_a_node_that_disconnects_in_the_middle_is_brought_back_after_it_returned(at: float) -> None:
    world = FakeWorld(names(5)).started()
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world.run(at)
    world["node-03"].stop()
    world.run(5)
    assert world.state("node-03") == "unreachable"
    assert world.view("node-03").quarantine is not None
    world["node-03"].start()
    world.until(world.in_rank)
    assert world.incidents(state="open") == []


def test_an_order_that_is_lost_is_sent_again() -> None:
    world = FakeWorld(names(5)).started()
    world["node-03"].deaf = True
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world.until_state("node-03", "resyncing")
    world.run(20)
    world["node-03"].deaf = False
    world.until(world.in_rank)


def test_a_quarantined_node_that_reconnects_is_still_fenced() -> None:
    world = FakeWorld(names(5)).started()
    world.ask(QuarantineAsked("node-02", "by hand"))
    world.run(1)
    world["node-02"].stop()
    world.run(20)
    assert world.state("node-02") == "unreachable"
    assert world.view("node-02").quarantine.fence_token == 1
    world["node-02"].start()
    world.run(5)
    assert world.state("node-02") == "quarantined"
    assert world.view("node-02").quarantine.acknowledged


def test_a_converge_that_fails_is_tried_again_when_the_problem_clears() -> None:
    world = FakeWorld(names(5)).started()
    agent = world["node-03"]
    agent.fails = wire.Problem("no_space", "no room for 100 bytes", 100, 3)
    agent.write("photos", "a/one.jpg", file_of("rogue"))
    world.until_state("node-03", "resyncing")
    world.run(2)
    agent.problem("photos", "no_space")
    world.run(2)
    assert world.volume("node-03").problem.code == "no_space"
    agent.fails = None
    agent.problem("photos", None)
    world.run(1.0)
    assert world.state("node-03") == "verifying"
    world.until(world.in_rank)


def test_a_repaired_node_is_released_only_when_it_was_looked_at_again_after_the_quiet() -> None:
    """Nothing was heard of what was written since it was read back: that is no proof that nothing was."""
    world = FakeWorld(names(5), [volume_config(scan_interval_s=20.0)]).started()
    rogue = world["node-03"]
    rogue.write("photos", "a/one.jpg", file_of("rogue"))
    world.until_state("node-03", "quarantined")
    rogue.scan_interval_s = 15.0
    world.until(lambda: "i-000001 resynced" in world.told)
    world.run(1.0)
    rogue.write("photos", "b/three.jpg", file_of("it goes on"))
    world.run(5.0)
    assert world.view("node-03").quarantine is not None
    world.until_state("node-03", "in_rank")
    assert rogue.disk["photos"] == world["node-01"].disk["photos"]
    assert len(world.incidents()) == 1


def test_a_recovery_without_a_source_waits_for_one() -> None:
    world = FakeWorld(names(3)).started()
    world["node-03"].write("photos", "b/three.jpg", file_of("rogue"))
    world.until_state("node-03", "quarantined")
    world["node-01"].stop()
    world["node-02"].stop()
    world.run(10)
    assert world.state("node-03") == "resyncing"
    assert world.sent("node-03", wire.Converge) == []
    world.start("node-01", "node-02")
    world.until(world.in_rank)


def test_a_busy_fleet_still_releases_a_repaired_node() -> None:
    """The truth moves on all the time, and the fenced node gets nothing but what converges bring."""
    world = FakeWorld(names(5), [volume_config(settle_s=6.0)]).started()
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))

    def work() -> None:
        world.everywhere("log.txt", file_of(f"line {world.mono}"), but=["node-03"])
        world.later(1.0, work)

    work()
    world.until_state("node-03", "quarantined")
    world.until(lambda: world.view("node-03").quarantine is None, 60)
    assert world.state("node-03") in ("in_rank", "lagging")


def test_a_busy_fleet_releases_a_node_that_takes_longer_to_be_read_back_than_the_truth_stands() -> None:
    """It was equal when that began. Begun anew with each step of the truth, it would never end."""
    world = FakeWorld(names(5), [volume_config(settle_s=6.0)]).started()
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))

    def work() -> None:
        world.everywhere("log.txt", file_of(f"line {world.mono}"), but=["node-03"])
        world.later(1.0, work)

    world["node-03"].verify_s = 5.0
    work()
    world.until_state("node-03", "quarantined")
    world.until(lambda: world.view("node-03").quarantine is None, 120)
    assert len(world.sent("node-03", wire.Verify)) <= 2 + CATCH_UPS_MAX


def test_a_busy_fleet_releases_a_node_of_which_no_two_volumes_are_ever_equal_at_one_moment() -> None:
    """Each equalled its truth when it was brought back, and is read back as it was then."""
    volumes = [volume_config(name, settle_s=6.0) for name in ("photos", "music")]
    world = FakeWorld(names(5), volumes).started()
    for volume in ("photos", "music"):
        world["node-03"].write(volume, "a/one.jpg", file_of("rogue"))

    def work() -> None:
        for volume in ("photos", "music"):
            world.everywhere("log.txt", file_of(f"line {world.mono}"), volume=volume, but=["node-03"])
        world.later(1.0, work)

    world["node-03"].verify_s = 5.0
    work()
    world.until_state("node-03", "quarantined")
    world.until(lambda: world.view("node-03").quarantine is None, 120)
    assert len(world.sent("node-03", wire.Verify)) <= 2 * (2 + CATCH_UPS_MAX)
    assert (
        world["node-03"].disk["photos"][key_of("a/one.jpg")]
        == world["node-01"].disk["photos"][key_of("a/one.jpg")]
    )
    assert (
        world["node-03"].disk["music"][key_of("a/one.jpg")]
        == world["node-01"].disk["music"][key_of("a/one.jpg")]
    )


@pytest.mark.parametrize("verify_s", [0.3, 5.0])
def test_a_busy_fleet_releases_a_node_that_may_not_write_special_bits(verify_s: float) -> None:
    """Its root is never the truth's. It has reached what it was brought to but for these bits, which are ignored."""
    tool = key_of("tool")
    files = {"photos": {**SOME_FILES, tool: file_of("tool", mode=0o4755)}}
    world = FakeWorld(names(5), [volume_config(settle_s=6.0)], files).started()
    world["node-03"].write("photos", "tool", file_of("rogue", mode=0o4755))

    def work() -> None:
        world.everywhere("log.txt", file_of(f"line {world.mono}"), but=["node-03"])
        world.later(0.7, work)

    world["node-03"].verify_s, world["node-03"].order_s = verify_s, 0.9
    world["node-03"].withholds = True
    work()
    world.until_state("node-03", "quarantined")
    world.until(lambda: world.view("node-03").quarantine is None, 120)
    assert world["node-03"].disk["photos"][tool] == file_of("tool", mode=0o755)
    assert len(world.sent("node-03", wire.Verify)) <= 2 + CATCH_UPS_MAX


def test_a_busy_fleet_that_forgets_its_past_at_once_still_releases_a_repaired_node() -> None:
    """What the node is late with might never have been the truth, as far as is remembered: that holds it so often."""
    world = FakeWorld(names(5), [volume_config(settle_s=6.0)]).started()
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))

    def work() -> None:
        world.everywhere("log.txt", file_of(f"line {world.mono}"), but=["node-03"])
        history = world.fleet._world.volumes["photos"].history
        history.forget(history.roots[-1][0])
        world.later(1.0, work)

    world["node-03"].verify_s = 2.0  # when it has been read back, the truth has moved on again
    work()
    world.until_state("node-03", "quarantined")
    world.until(lambda: world.view("node-03").quarantine is None, 120)
    assert len(world.sent("node-03", wire.Verify)) <= 2 + CATCH_UPS_MAX


# --- tokens and fences ----------------------------------------------------------------------------


def test_fence_tokens_grow_over_restarts_and_nodes() -> None:
    world = FakeWorld(names(5)).started()
    tokens = []
    for node in ("node-02", "node-03", "node-02"):
        world.ask(QuarantineAsked(node, "again"))
        tokens.append(world.view(node).quarantine.fence_token)
        world.run(1)
        world.ask(ReleaseAsked(node))
        world.run(1)
        world.restart()
        world.run(2)
    assert tokens == [1, 2, 3]


def test_a_coordinator_that_lost_its_state_keeps_fences_and_tokens() -> None:
    world = FakeWorld(names(5)).started()
    world.ask(QuarantineAsked("node-02", "by hand"))
    world.run(1)
    world["node-04"].highest_token = 41
    world.records.clear()
    world.restart()
    world.until_state("node-02", "quarantined")
    quarantine = world.view("node-02").quarantine
    assert (quarantine.reason, quarantine.fence_token, quarantine.by_hand) == ("by hand", 1, True)
    world.run(5)
    world.ask(QuarantineAsked("node-03", "next"))
    assert world.view("node-03").quarantine.fence_token == 42
    world.ask(ReleaseAsked("node-02"))
    world.run(1)
    assert world["node-02"].fence is None


def test_fences_that_leave_too_few_to_found_a_truth_are_lifted_by_a_person() -> None:
    """Without a truth nothing can be brought back to it, and without one more node there will be none."""
    world = FakeWorld(names(5)).started()
    for node in ("node-02", "node-03"):
        world.ask(QuarantineAsked(node, "by hand"))
    world.run(1)
    world["node-04"].fence = world["node-03"].fence  # of which the coordinator has lost its memory
    world.records.clear()
    world.restart()
    world.until_state("node-04", "quarantined")
    world.run(10)
    assert world.fleet.volume_view(world.now(), "photos").truth_root is None
    assert world.ask(ResyncAsked("node-02", None, False)) == "409 no_truth"
    world.ask(ReleaseAsked("node-02"))
    world.run(10)
    assert world.view("node-02").quarantine is None
    assert world.fleet.volume_view(world.now(), "photos").truth_root is not None
    for node in ("node-03", "node-04"):
        world.ask(ResyncAsked(node, None, False))
    world.run(10)
    for node in ("node-03", "node-04"):
        world.ask(ReleaseAsked(node))
    world.until(world.in_rank)


def test_an_old_copy_of_the_state_fences_with_a_token_that_the_node_accepts() -> None:
    world = FakeWorld(names(5)).started()
    world.ask(QuarantineAsked("node-02", "by hand"))
    world.run(1)
    old = dict(world.records)
    world.ask(ReleaseAsked("node-02"))
    world.run(1)
    world["node-02"].highest_token = 7
    world.records = old
    world.restart()
    world.run(5)
    assert world.view("node-02").quarantine.acknowledged
    assert world["node-02"].fence.token == 8


def test_a_release_that_the_node_missed_is_told_again() -> None:
    world = FakeWorld(names(5)).started()
    world.ask(QuarantineAsked("node-02", "by hand"))
    world.run(1)
    world.ask(ReleaseAsked("node-02"))
    world["node-02"].disconnect()
    world.run(1)
    assert world["node-02"].fence is not None
    world["node-02"].connect()
    world.run(1)
    assert world["node-02"].fence is None
    assert world.state("node-02") == "in_rank"


def test_quarantine_by_hand_may_exceed_the_limit_but_not_the_quorum() -> None:
    world = FakeWorld(names(5)).started()
    for node in ("node-01", "node-02"):
        assert not isinstance(world.ask(QuarantineAsked(node, "by hand")), str)
    assert world.ask(QuarantineAsked("node-03", "by hand")) == "409 quorum_would_be_lost"
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world.run(10)
    assert world.state("node-03") == "in_rank"  # three of five are left, two hold the truth: undetermined


def test_a_fence_that_would_lose_the_quorum_because_others_are_away_is_refused() -> None:
    world = FakeWorld(names(5)).started()
    world["node-01"].stop()
    world["node-02"].stop()
    world.run(5)
    assert world.ask(QuarantineAsked("node-03", "by hand")) == "409 quorum_would_be_lost"


def test_fencing_is_durable_then_told_to_peers_then_to_the_node() -> None:
    world = FakeWorld(names(5)).started()
    world.keep_steps = True
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world.until_state("node-03", "quarantined")
    effects = world.steps[-1].effects
    kinds = [type(one.message) for one in effects if isinstance(one, Send)]
    assert isinstance(effects[0], Persist)
    assert kinds == [wire.Membership] * 5 + [wire.Fence]
    assert next(one for one in world["node-01"].membership.members if one.node == "node-03").fenced is False
    world.run(0.1)
    member = next(one for one in world["node-01"].membership.members if one.node == "node-03")
    assert (member.fenced, member.may_fetch) == (True, True)
    assert world["node-03"].membership.open_incidents == ("i-000001",)


# --- special bits ---------------------------------------------------------------------------------


def test_withheld_special_bits_are_ignored_at_the_release_and_afterwards() -> None:
    world = FakeWorld(names(5)).started()
    world["node-03"].withholds = True
    world.everywhere("run.sh", file_of("tool", mode=0o4755))
    world.run(3)
    world["node-03"].write("photos", "run.sh", file_of("rogue", mode=0o4755))
    world.until_state("node-03", "quarantined")
    world.until_state("node-03", "in_rank")
    world.run(10)
    assert world.in_rank()
    assert world.volume("node-03").withheld == 1
    found = world.fleet.diff("photos", "node-03", None)
    assert isinstance(found, FleetDiff)
    assert [(one.key, one.change) for one in found.rows] == [(key_of("run.sh"), "withheld")]
    assert (found.total, found.withheld) == (0, 1), "as the state has it: in rank"
    found = world.fleet.diff("photos", "node-03", "node-01")
    assert isinstance(found, FleetDiff)
    assert [one.change for one in found.rows] == ["modified"], "against a node nothing is excused"
    assert world["node-03"].disk["photos"][key_of("run.sh")] == file_of("tool", mode=0o755)
    world["node-03"].write("photos", "run.sh", file_of("rogue", mode=0o755))
    world.until_state("node-03", "quarantined")
    assert world.volume("node-03").withheld == 0, "another content is not excused"


# --- configuration --------------------------------------------------------------------------------


def test_a_fenced_node_may_be_removed_and_come_back() -> None:
    world = FakeWorld(names(5)).started()
    rogue_for_ever(world, "node-03", "a/one.jpg")
    world.until_state("node-03", "resyncing")
    four = [node for node in names(5) if node != "node-03"]
    smaller = replace(world.config, nodes=tuple(four), volumes=(volume_config(nodes=four),))
    larger = world.config
    world.configure(smaller)
    world["node-03"].session = None
    world.run(5)
    assert world.in_rank()
    assert world.fleet.volume_view(world.now(), "photos").quorum == 3
    assert world.incidents(state="open") == []
    world.configure(larger)
    world["node-03"].connect()
    world.run(1)
    assert world.state("node-03") == "quarantined"
    assert world.view("node-03").quarantine.by_hand


def test_an_added_node_joins() -> None:
    world = FakeWorld(names(4)).started()
    world.add("node-05", {})
    world.until(world.in_rank)
    assert [one for one in world.told if "node-05" in one][-4:] == [
        "node-05 joining",
        "node-05 resyncing",
        "node-05 verifying",
        "node-05 in_rank",
    ]
    assert world.fleet.volume_view(world.now(), "photos").quorum == 3


def test_a_change_of_ignore_founds_a_new_truth_and_accuses_nobody() -> None:
    world = FakeWorld(names(5)).started()
    for node in names(5):
        world[node].write("photos", "x.tmp", file_of("x"))
    world.run(3)
    world.configure(replace(world.config, volumes=(volume_config(nodes=names(5), ignore=("*.tmp",)),)))
    for number, agent in enumerate(world.agents.values()):

        def dial(agent=agent) -> None:  # type: ignore[no-untyped-def]
            agent.disconnect()
            agent.write("photos", "x.tmp", None)  # the scan does not see it any more
            agent.connect()

        world.later(number * 0.3, dial)
    world.run(20)
    assert world.in_rank()
    assert world.incidents() == []


def test_a_change_of_ignore_while_the_coordinator_is_down() -> None:
    world = FakeWorld(names(5)).started()
    world.config = replace(world.config, volumes=(volume_config(nodes=names(5), ignore=("*.tmp",)),))
    world.restart()
    world.run(20)
    assert world.in_rank()
    assert world.incidents() == []


def test_volumes_have_their_own_nodes_and_policies() -> None:
    volumes = [
        volume_config("docs", nodes=names(3)),
        volume_config("photos", nodes=names(5)),
        volume_config("site", nodes=names(5)[2:], on_divergence="alert"),
    ]
    world = FakeWorld(names(5), volumes).started()
    world["node-03"].write("site", "a/one.jpg", file_of("rogue"))
    world["node-01"].write("docs", "a/one.jpg", file_of("rogue"))
    world.until_state("node-01", "quarantined")
    world.until_state("node-01", "in_rank")
    assert world.state("node-03") == "suspect"
    assert [one.name for one in world.view("node-04").volumes] == ["photos", "site"]
    assert world.in_rank() is False
    world["node-03"].write("site", "a/one.jpg", file_of("a/one.jpg"))
    world.until(world.in_rank)


# --- baselines ------------------------------------------------------------------------------------


def test_a_baseline_volume_is_undetermined_until_one_is_pinned() -> None:
    world = FakeWorld(names(3), [volume_config(policy="baseline")])
    world.start()
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world.run(20)
    assert [(one.kind, one.node) for one in world.incidents()] == [("undetermined", None)]
    assert world.fleet.volume_view(world.now(), "photos").undetermined > 0
    assert world.states() == {"joining"}
    assert world.ask(BaselineCreateAsked("good", "photos", None)) == "409 no_truth"
    world.ask(BaselineCreateAsked("good", "photos", "node-01"))
    world.ask(PinAsked("photos", "good"))
    world.until(world.in_rank)
    assert world.incidents(state="open") == []
    assert world["node-03"].disk["photos"] == world["node-01"].disk["photos"]
    world["node-02"].write("photos", "a/one.jpg", file_of("rogue"))
    world.until_state("node-02", "quarantined")
    world.until(world.in_rank)


def test_another_baseline_is_a_new_truth_and_not_a_divergence() -> None:
    world = FakeWorld(names(3), [volume_config(policy="baseline")])
    world.start()
    world.run(3)
    world.ask(BaselineCreateAsked("one", "photos", "node-01"))
    world.ask(PinAsked("photos", "one"))
    world.until(world.in_rank)
    world.ask(PinAsked("photos", None))
    world["node-01"].write("photos", "new.txt", file_of("new"))
    world.run(3)
    world.ask(BaselineCreateAsked("two", "photos", "node-01"))
    world.ask(PinAsked("photos", "two"))
    world.until(world.in_rank)
    assert world.incidents(kind="divergence") == []
    world.ask(PinAsked("photos", "one"))
    world.until(world.in_rank)
    assert world.incidents(kind="divergence") == world.incidents(kind="regression") == []
    assert key_of("new.txt") not in world["node-01"].disk["photos"]


# --- names ----------------------------------------------------------------------------------------


def test_a_second_agent_of_one_name_is_told_once() -> None:
    world = FakeWorld(names(3)).started()
    for _ in range(3):
        world.event(DuplicateRefused("node-01", "it came from 10.0.0.9"))
        world.run(5)
    assert [one.kind for one in world.incidents()] == ["duplicate_node"]
    world.restart()
    world.run(30)
    assert world.incidents(state="open")
    world.run(60)
    assert world.incidents(state="open") == []


def test_a_proven_node_that_differs_again_while_it_waits_is_proven_no_longer() -> None:
    world = FakeWorld(names(5), auto_release_max=0).started()
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world.until(lambda: world.view("node-03").quarantine and world.view("node-03").quarantine.verified)
    world.run(5)
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world.until(lambda: not world.view("node-03").quarantine.verified)
    world.until(lambda: world.view("node-03").quarantine.verified)
    world.everywhere("new.txt", file_of("new"), but=["node-03"])
    world.run(2)
    assert world.ask(ReleaseAsked("node-03")) == "409 not_verified"
    world.run(20)
    assert key_of("new.txt") in world["node-03"].disk["photos"]
    assert not isinstance(world.ask(ReleaseAsked("node-03")), str)


def test_a_converge_that_the_truth_has_overtaken_is_given_up() -> None:
    """The site brings the newer file while our converge to the older truth still runs."""
    world = FakeWorld(names(5), [volume_config(on_divergence="alert")]).started()
    world["node-04"].order_s = 5.0
    world.everywhere("a/one.jpg", file_of("newer"), but=["node-04"])
    world.until_state("node-04", "resyncing")
    world.everywhere("a/one.jpg", file_of("newest"))
    world.run(30)
    assert world.in_rank()
    assert world.incidents() == []
    assert world.sent("node-04", wire.Cancel)
    assert world["node-04"].trash == []


def test_what_our_own_converge_wrote_is_never_held_against_a_node() -> None:
    """It ends just before it can be given up, and puts the older truth over the newer file."""
    world = FakeWorld(names(5), [volume_config(on_divergence="alert")]).started()
    agent = world["node-04"]
    agent.order_s = 2.0
    world.everywhere("a/one.jpg", file_of("newer"), but=["node-04"])
    world.until(lambda: bool(world.sent("node-04", wire.Converge)))
    world.everywhere("a/one.jpg", file_of("newest"))
    world.until(lambda: world.volume("node-04").root == world.volume("node-01").root)
    order = world.sent("node-04", wire.Converge)[-1]
    assert isinstance(order, wire.Converge)
    agent._converge(order)
    assert world.volume("node-04").lagging_paths == 0, "what came since the order was made stays"
    agent._converge(msgspec.structs.replace(order, base=None))  # as an order that names no base
    assert world.volume("node-04").lagging_paths == 1
    world.run(30)
    assert world.in_rank()
    assert world.incidents() == []


def test_a_tree_that_is_mounted_again_counts_from_its_next_scan() -> None:
    world = FakeWorld(names(3)).started()
    world["node-03"].problem("photos", "not_mounted")
    world.everywhere("a/one.jpg", file_of("newer"))
    world.run(5)
    world["node-03"].scan_interval_s = 5.0
    world["node-03"].problem("photos", None)
    assert world.fleet.volume_view(world.now(), "photos").voters == 2
    world.until(world.in_rank)
    assert world.sent("node-03", wire.Converge) == []


def test_a_refused_fence_says_who_has_to_come_back_first() -> None:
    def refusal(world: FakeWorld, node: str) -> str:
        answer = world.event(QuarantineAsked(node, "by hand")).answer
        assert isinstance(answer, Refusal)
        return answer.message

    world = FakeWorld(names(3)).started()
    world.ask(QuarantineAsked("node-02", "by hand"))
    told = refusal(world, "node-03")
    assert "Release node-02 first, which is fenced: `closeranks resync node-02 --wait`, then `" in told
    world = FakeWorld(names(3)).started()
    world["node-02"].stop()
    world.until_state("node-02", "unreachable")
    assert "First bring back who is away: node-02." in refusal(world, "node-03")
    world = FakeWorld(names(2)).started()
    assert "So few nodes can spare none" in refusal(world, "node-01")
