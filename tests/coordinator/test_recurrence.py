"""What was put right and comes back: told with its hand each time, and from the second time on by a person."""

from __future__ import annotations

from dataclasses import replace

import pytest

from closeranks_coordinator.core import recurrence
from closeranks_coordinator.core.model import ReleaseAsked
from closeranks_proto import messages as wire
from fakeworld import FakeWorld, file_of, key_of, volume_config

NAMES = ("node-01", "node-02", "node-03", "node-04", "node-05")
CRON = wire.Hand(77, "/usr/sbin/cron", "cron -f", 0, None, "cron.service", ("1 /sbin/init",), 1, 100)


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld(NAMES, recurrence_max=2).started()


def break_ranks(
    world: FakeWorld, node: str = "node-03", path: str = "a/one.jpg", content: str = "rogue"
) -> None:
    """One divergence from its beginning to the release."""
    world[node].write("photos", path, file_of(content), CRON)
    world.until_state(node, "quarantined")
    world.until(lambda: world.state(node) == "in_rank" or world.view(node).quarantine.verified)


def test_the_first_time_is_no_recurrence(world: FakeWorld) -> None:
    break_ranks(world)
    assert world.incidents("recurrence") == []


def test_a_path_that_returns_opens_an_incident_that_names_its_hand(world: FakeWorld) -> None:
    break_ranks(world)
    break_ranks(world, content="other content")
    (found,) = world.incidents("recurrence")
    assert (found.node, found.volume, found.recurrences, found.path_count) == ("node-03", "photos", 1, 1)
    assert "a/one.jpg" in found.summary
    assert found.writers[0].startswith('/usr/sbin/cron (pid 77, unit cron.service, uid 0, "cron -f")')
    told = next(one.text for one in found.timeline if one.event == "recurrence")
    assert "Written by /usr/sbin/cron (pid 77" in told
    assert found.evidence["repaired_in"] == "i-000001"


def test_the_accusing_incident_leads_to_it(world: FakeWorld) -> None:
    break_ranks(world)
    break_ranks(world)
    (recurring,) = world.incidents("recurrence")
    accused = world.incidents("divergence")[-1]
    assert any(recurring.id in one.text for one in accused.timeline)


def test_a_content_that_comes_back_under_another_name_is_recognised(world: FakeWorld) -> None:
    break_ranks(world)
    break_ranks(world, path="elsewhere.php")
    (found,) = world.incidents("recurrence")
    assert any("is what was put right on node-03 as a/one.jpg" in one.text for one in found.timeline)


def test_a_path_that_returns_three_times_is_one_file_of_its_hand(world: FakeWorld) -> None:
    for _ in range(3):
        break_ranks(world)
    (found,) = world.incidents("recurrence", "open")
    assert found.recurrences == 2
    (told,) = found.writers
    assert ": 1 file, " in told


def test_a_content_that_comes_back_on_another_node_is_recognised(world: FakeWorld) -> None:
    break_ranks(world)
    break_ranks(world, node="node-04", path="elsewhere.php")
    (found,) = world.incidents("recurrence")
    assert found.node == "node-04"


def test_another_content_on_another_node_is_none(world: FakeWorld) -> None:
    break_ranks(world)
    break_ranks(world, node="node-04", content="something else")
    assert world.incidents("recurrence") == []


def test_tiny_contents_are_not_told_apart(world: FakeWorld) -> None:
    for node, path in (("node-03", "a.txt"), ("node-04", "b.txt")):
        world[node].write("photos", path, file_of("tiny", 63))
        world.until_state(node, "quarantined")
        world.until_state(node, "in_rank")
    assert world.incidents("recurrence") == []


def test_from_the_second_return_on_a_person_releases(world: FakeWorld) -> None:
    for _ in range(2):
        break_ranks(world)
        assert world.state("node-03") == "in_rank"
    break_ranks(world)
    fence = world.view("node-03").quarantine
    assert (fence.release, fence.verified) == ("by_hand", True)
    (found,) = world.incidents("recurrence", "open")
    assert found.recurrences == 2
    assert "came back twice within 1 h 00 min" in str(found.evidence["release"])
    assert not isinstance(world.ask(ReleaseAsked("node-03")), str)
    world.until_state("node-03", "in_rank")


def test_a_content_that_wanders_over_nodes_escalates_too(world: FakeWorld) -> None:
    break_ranks(world)
    break_ranks(world, node="node-04")
    assert world.state("node-04") == "in_rank"
    break_ranks(world, node="node-05")
    assert world.view("node-05").quarantine.release == "by_hand"


def test_returns_that_lie_apart_do_not_escalate() -> None:
    world = FakeWorld(NAMES, recurrence_max=2, auto_release_window_s=60.0).started()
    for _ in range(3):
        break_ranks(world)
        assert world.state("node-03") == "in_rank"
        world.run(65)


@pytest.mark.parametrize("skew_h", [2, -2])
def test_a_step_of_the_wall_clock_excuses_and_accuses_nobody(skew_h: int) -> None:
    """Releases and returns "within the hour" went by the wall clock: two hours ahead, and nobody had a past."""
    for how in ({"auto_release_max": 2, "recurrence_max": 99}, {"recurrence_max": 2}):
        world = FakeWorld(NAMES, **how).started()
        for _ in range(2):
            break_ranks(world)
            assert world.state("node-03") == "in_rank"
        world.skew_ms = skew_h * 3_600_000
        break_ranks(world)
        assert world.view("node-03").quarantine.release == "by_hand", how
        assert not isinstance(world.ask(ReleaseAsked("node-03")), str)
        world.until_state("node-03", "in_rank")
        world.skew_ms = 0
        world.run(3601)
        break_ranks(world)
        assert world.state("node-03") == "in_rank", (
            how,
            "an hour is over, whatever the clock said meanwhile",
        )


def test_what_was_before_a_restart_with_a_clock_set_back_ages_from_then_on() -> None:
    world = FakeWorld(NAMES, auto_release_max=1, recurrence_max=99).started()
    break_ranks(world)
    world.skew_ms = -30 * 86_400_000
    world.restart()
    world.run(10)
    break_ranks(world)
    assert world.view("node-03").quarantine.release == "by_hand", "nobody is excused by a restart"
    assert not isinstance(world.ask(ReleaseAsked("node-03")), str)
    world.until_state("node-03", "in_rank")
    world.run(3601)
    break_ranks(world)
    assert world.state("node-03") == "in_rank", "it would have been accused for thirty days"


def test_how_many_returns_is_configured() -> None:
    world = FakeWorld(NAMES, recurrence_max=1).started()
    break_ranks(world)
    break_ranks(world)
    assert world.view("node-03").quarantine.release == "by_hand"


def test_it_closes_when_nothing_has_come_back_for_long(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recurrence, "QUIET_S", 60.0)
    break_ranks(world)
    break_ranks(world)
    world.run(50)
    assert world.incidents("recurrence", "open")
    world.run(20)
    assert not world.incidents("recurrence", "open")


def test_it_stays_open_while_the_node_is_fenced(world: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrence, "QUIET_S", 60.0)
    for _ in range(3):
        break_ranks(world)
    world.run(70)
    assert world.incidents("recurrence", "open")
    world.ask(ReleaseAsked("node-03"))
    world.run(50)
    assert world.incidents("recurrence", "open")
    world.run(20)
    assert not world.incidents("recurrence", "open")


def test_it_is_remembered_over_a_restart(world: FakeWorld) -> None:
    break_ranks(world)
    world.run(10)
    world.restart()
    world.until(world.in_rank)
    break_ranks(world)
    assert world.incidents("recurrence")


def test_a_rogue_that_goes_on_during_its_repair_stays_in_one_incident(world: FakeWorld) -> None:
    node = world["node-03"]
    for number in range(20):
        node.write("photos", "a/one.jpg", file_of(number), CRON)
        world.run(1)
    world.until_state("node-03", "in_rank")
    (incident,) = world.incidents()
    assert incident.recurrences
    assert any(
        "Written by /usr/sbin/cron" in one.text for one in incident.timeline if one.event == "recurrence"
    )
    assert len(incident.writers) == 1


def test_the_memory_is_bounded_and_one_repair_does_not_fill_it(world: FakeWorld) -> None:
    core = world.fleet._world
    core.now = world.now()
    node, volume = core.nodes["node-03"], core.volumes["photos"]
    value = file_of("x")
    recurrence.repaired(core, volume, node, "i-1", {b"%06d" % number: value for number in range(20_000)})
    assert len(core.repairs["photos"].paths) == recurrence.REPAIR_MAX
    for number in range(50):
        entries = {b"%d-%06d" % (number, one): file_of(f"{number}/{one}") for one in range(500)}
        recurrence.repaired(core, volume, node, f"i-{number}", entries)
    memory = core.repairs["photos"]
    assert len(memory.paths) == len(memory.contents) == recurrence.ENTRIES_MAX


def test_what_was_deleted_by_the_rogue_and_deleted_again_has_returned(world: FakeWorld) -> None:
    for _ in range(2):
        world["node-03"].write("photos", "a/one.jpg", None)
        world.until_state("node-03", "quarantined")
        world.until_state("node-03", "in_rank")
    assert world.incidents("recurrence")


def replicated() -> FakeWorld:
    volume = volume_config(policy="writers", writers=("node-01", "node-02"))
    return FakeWorld(NAMES, [volume]).started()


def test_a_rejected_content_that_a_writer_brings_again_is_told_and_goes_its_way() -> None:
    world = replicated()
    core = world.fleet._world
    core.now = world.now()
    recurrence.repaired(
        core, core.volumes["photos"], core.nodes["node-01"], "i-7", {b"x": file_of("rejected")}
    )
    world["node-02"].write("photos", "again.bin", file_of("rejected"), CRON)
    world.run(5)
    (found,) = world.incidents("recurrence")
    assert (found.node, found.recurrences) == ("node-02", 1)
    assert found.writers[0].startswith("/usr/sbin/cron")
    assert found.evidence["repaired_in"] == "i-7"
    assert world["node-05"].disk["photos"][b"again.bin"] == file_of("rejected")


def test_a_writer_may_bring_what_another_node_had_no_right_to() -> None:
    world = replicated()
    break_ranks(world, path="new.bin")
    world["node-01"].write("photos", "new.bin", file_of("rogue"))
    world.run(5)
    assert world.incidents("recurrence") == []
    assert world["node-05"].disk["photos"][b"new.bin"] == file_of("rogue")


def test_a_removed_volume_is_forgotten(world: FakeWorld) -> None:
    break_ranks(world)
    world.run(10)
    assert ("repairs", "photos") in world.records
    world.configure(replace(world.config, volumes=(volume_config("other", NAMES),)))
    assert ("repairs", "photos") not in world.records


@pytest.mark.parametrize("restarts", [False, True])
def test_what_a_tree_told_anew_brings_has_not_come_back(world: FakeWorld, restarts: bool) -> None:
    """A root that was replaced, an index that was lost: nobody wrote again what another tree holds.

    The coordinator may be another process by the time that the difference is confirmed.
    """
    break_ranks(world)
    node = world["node-03"]
    node.stop()
    node.disk["photos"][key_of("a/one.jpg")] = file_of("rogue")
    node._commit("photos", world.plant(node.disk["photos"]), wire.MADE_ANEW)
    node.start()
    if restarts:
        world.until(lambda: world.volume("node-03").unconfirmed_paths > 0)
        world.restart()
    world.until_state("node-03", "quarantined")
    world.until_state("node-03", "in_rank")
    assert world.incidents("recurrence") == []
    accused = world.incidents("divergence")
    assert len(accused) == 2
    assert not [one for incident in accused for one in incident.timeline if one.event == "recurrence"]
    break_ranks(world)
    assert world.incidents("recurrence"), "once it was equal, what comes back has come back"
