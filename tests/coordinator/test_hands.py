"""Whose hand: what agents tell of who wrote, in incidents, on nodes, and after a restart."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from closeranks_coordinator.core import hands
from closeranks_coordinator.core.model import FromAgent, RootStored
from closeranks_coordinator.core.rules import GuardRules
from closeranks_proto import messages as wire
from fakeworld import FakeWorld, file_of, volume_config
from fakeworld.trees import tree

NAMES = ("node-01", "node-02", "node-03", "node-04", "node-05")
PHP = wire.Hand(
    4711, "/usr/bin/php", "php /var/www/upload.php", 33, None, "apache2.service", ("1 /sbin/init",), 1, 100
)
RSYNC = wire.Hand(
    900, "/usr/bin/rsync", "rsync --server", 0, 1000, "session-3.scope", ("880 /usr/sbin/sshd",), 1, 100
)


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld(NAMES).started()


def test_the_incident_names_who_wrote(world: FakeWorld) -> None:
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue", 5000), PHP)
    world["node-03"].write("photos", "a/new.jpg", file_of("more", 5000), PHP)
    world.until_state("node-03", "quarantined")
    (incident,) = world.incidents()
    assert incident.writers == (
        '/usr/bin/php (script /var/www/upload.php, pid 4711, unit apache2.service, uid 33, "php /var/www/upload.php"), '
        "parents 1 /sbin/init: 2 files, 10 kB",
    )
    named = next(one.text for one in incident.timeline if one.event == "named")
    assert "Written by /usr/bin/php (script /var/www/upload.php, pid 4711" in named


def test_two_hands_are_both_named_each_with_its_own(world: FakeWorld) -> None:
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue", 5000), PHP)
    world["node-03"].write("photos", "a/two.jpg", file_of("rogue", 100), RSYNC)
    world.until_state("node-03", "quarantined")
    first, second = world.incidents()[0].writers
    assert first.startswith("/usr/bin/php")
    assert first.endswith(": 1 file, 5.0 kB")
    assert second.startswith("/usr/bin/rsync")


def test_nobody_is_named_where_nobody_was_told_and_the_reason_is(world: FakeWorld) -> None:
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"))
    world.until_state("node-03", "quarantined")
    (writer,) = world.incidents()[0].writers
    assert writer == "unknown: found by a scan, which does not tell who writes: 1 file, 100 B"


def test_a_second_hand_nobody_knows_takes_the_first_ones_name_away(world: FakeWorld) -> None:
    node = world["node-03"]
    node.write("photos", "a/one.jpg", file_of("rogue"), PHP)
    node.scan("photos")
    node.write("photos", "a/one.jpg", file_of("another rogue"))
    node.scan("photos")
    world.until_state("node-03", "quarantined")
    assert world.incidents()[0].writers[0].startswith("unknown")


def test_whoever_joins_an_open_incident_is_added(world: FakeWorld) -> None:
    node = world["node-03"]
    node.deaf = True
    node.write("photos", "a/one.jpg", file_of("rogue"), PHP)
    world.until_state("node-03", "resyncing")
    node.write("photos", "b/three.jpg", file_of("rogue"), RSYNC)
    world.run(2)
    assert [one.partition(" ")[0] for one in world.incidents()[0].writers] == [
        "/usr/bin/php",
        "/usr/bin/rsync",
    ]


def test_hands_of_a_mass_change_are_told_though_no_path_is_anybodys(world: FakeWorld) -> None:
    node = world["node-03"]
    node.write("photos", "a/one.jpg", file_of("rogue"))
    root = world.plant(node.disk["photos"])
    world.node_roots["node-03", "photos"] = root
    hand = wire.Hand(7, "/bin/tar", "tar x", 0, None, "", (), 9000, 10**9)
    world.event(RootStored("node-03", "photos", root, "watch", world.mono, (hand,)))
    world.until_state("node-03", "quarantined")
    assert world.incidents()[0].writers[0] == '/bin/tar (pid 7, uid 0, "tar x"): 9,000 files, 1.0 GB'


def test_what_we_write_ourselves_is_nobodys_hand(world: FakeWorld) -> None:
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"), PHP)
    world.until_state("node-03", "quarantined")
    world.until_state("node-03", "in_rank")
    (writer,) = world.view("node-03").writers
    assert (writer.exe, writer.files) == ("/usr/bin/php", 1)


def test_a_node_shows_who_reports_to_write_also_beside_the_volumes(world: FakeWorld) -> None:
    activity = wire.Activity(
        1000, (), (), (wire.Hand(5, "/usr/sbin/mysqld", "mysqld", 27, None, "", (), 4, 10**9),)
    )
    for _ in range(3):
        world.event(FromAgent("node-02", activity))
    (writer,) = world.view("node-02").writers
    assert (writer.exe, writer.files, writer.bytes) == ("/usr/sbin/mysqld", 12, 3 * 10**9)
    assert world.view("node-01").writers == ()


def test_a_file_that_a_hand_writes_again_is_no_other_file(world: FakeWorld) -> None:
    core = world.fleet._world
    node = core.nodes["node-03"]
    root = node.volume("photos").root
    assert root is not None

    def step(hand: wire.Hand, *keys: bytes) -> None:
        told = msgspec.structs.replace(hand, files=len(keys), bytes=100 * len(keys))
        by = tuple((key, 1) for key in keys)
        hands.note(core, node, RootStored("node-03", "photos", root, "watch", core.now.mono, (told,), by))

    for _ in range(83):
        step(PHP, b"log")
    step(PHP, b"log", b"other")
    (hand,) = world.view("node-03").writers
    assert (hand.exe, hand.files, hand.bytes) == ("/usr/bin/php", 2, 8500)
    step(RSYNC, b"log")
    assert {one.exe: one.files for one in world.view("node-03").writers} == {
        "/usr/bin/php": 2,
        "/usr/bin/rsync": 1,
    }


def test_a_file_that_is_written_for_hours_is_one_file_of_each_of_them(world: FakeWorld) -> None:
    """Each write put the time of its count forward, and an hour after the first it was no file at all."""
    core = world.fleet._world
    node = core.nodes["node-03"]
    root = node.volume("photos").root
    assert root is not None
    for minute in range(0, 200, 4):
        told = msgspec.structs.replace(PHP, files=1, bytes=100)
        step = RootStored("node-03", "photos", root, "watch", core.now.mono, (told,), ((b"log", 1),))
        hands.note(core, node, step)
        (hand,) = node.writing.top(core.now.mono)
        assert hand.files == 1, f"minute {minute}"
        core.now = replace(core.now, mono=core.now.mono + 240, wall_ms=core.now.wall_ms + 240_000)


def test_the_top_writers_outlive_a_restart(world: FakeWorld) -> None:
    world["node-03"].write("photos", "a/one.jpg", file_of("rogue"), PHP)
    world.until_state("node-03", "quarantined")
    world.restart()
    assert [one.exe for one in world.view("node-03").writers] == ["/usr/bin/php"]


def test_they_are_written_down_at_most_once_a_minute(world: FakeWorld) -> None:
    world.keep_steps = True
    for number in range(50):
        world["node-03"].write("photos", "a/one.jpg", file_of(number), PHP)
        world.run(1)
    written = [
        kind
        for step in world.steps
        for effect in step.effects
        for kind, _, _ in getattr(effect, "records", ())
        if kind == "writers"
    ]
    assert len(written) == 1


def test_a_conflict_names_both_hands() -> None:
    world = FakeWorld(NAMES, [volume_config(policy="writers", writers=("node-01", "node-02"))]).started()
    world["node-01"].write("photos", "c.txt", file_of("first"), PHP)
    world["node-02"].write("photos", "c.txt", file_of("second"), RSYNC)
    world["node-01"].scan("photos")
    world["node-02"].scan("photos")
    (incident,) = world.incidents("conflict")
    told = incident.timeline[0].text
    assert (
        "node-01's version came first and stays as c.txt (by /usr/bin/php (script /var/www/upload.php, pid 4711"
        in told
    )
    assert "node-02's version (by /usr/bin/rsync (pid 900" in told
    assert incident.writers[0].startswith("/usr/bin/rsync")


def test_hands_of_legitimate_changes_are_forgotten(world: FakeWorld) -> None:
    for agent in world.agents.values():
        agent.write("photos", "a/one.jpg", file_of("newer"), RSYNC)
    world.run(5)
    assert world.in_rank()
    nodes = world.fleet._world.nodes
    assert all(not node.writing.book("photos").by_key for node in nodes.values())


def _writer() -> FakeWorld:
    """One writer of 300 files that sees its changes at once."""
    rules = GuardRules(warm_up_s=0.0)
    volume = volume_config(policy="writers", nodes=NAMES, writers=NAMES[:1], settle_s=1.0, guards=rules)
    world = FakeWorld(NAMES, [volume], {"photos": tree(*(f"{number:03}" for number in range(300)))})
    world["node-01"].watches = True
    return world.started()


def test_a_hold_of_deletions_names_who_deleted_and_not_who_writes_most_meanwhile() -> None:
    """The operator who puts files back is no culprit."""
    world = _writer()
    node = world["node-01"]
    node._say(wire.Activity(1000, (), (), (RSYNC,)))
    for number in range(120):
        node.write("photos", f"{number:03}", None, PHP)
    world.until(lambda: bool(world.fleet.hold_ids()))
    hold = world.fleet.hold_view(world.fleet.hold_ids()[0])
    assert hold is not None
    assert hold.reason.endswith("; by /usr/bin/php (script /var/www/upload.php), unit apache2.service")
    assert [(one.exe, one.files) for one in hold.writers] == [("/usr/bin/php", 120)]
    for number in range(5):
        node.write("photos", f"{number:03}", file_of("put back", 10**6), RSYNC)
    node._say(wire.Activity(1000, (), (), (RSYNC,)))
    world.run(12.0)
    later = world.fleet.hold_view(hold.id)
    assert later is not None
    assert later.reason.endswith("; by /usr/bin/php (script /var/www/upload.php), unit apache2.service")
    assert {one.exe for one in later.writers} == {"/usr/bin/php"}


def test_a_hold_of_deletions_by_nobody_known_names_nobody() -> None:
    world = _writer()
    node = world["node-01"]
    node._say(wire.Activity(1000, (), (), (RSYNC,)))
    for number in range(120):
        node.write("photos", f"{number:03}", None)
    world.until(lambda: bool(world.fleet.hold_ids()))
    hold = world.fleet.hold_view(world.fleet.hold_ids()[0])
    assert hold is not None
    assert "rsync" not in hold.reason
    assert [one.pid for one in hold.writers] == [0]
    assert hold.writers[0].detail


def test_a_writer_that_is_not_remembered_any_more_was_told_by_the_kernel_all_the_same(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 25,000 files 15,000 were said to be of a writer that the kernel did not tell."""
    monkeypatch.setattr(hands, "KEYS_MAX", 2)
    world["node-03"].watches = True
    for number in range(3):
        world["node-03"].write("photos", f"a/new{number}.jpg", file_of(f"new {number}"), PHP)
    world.until_state("node-03", "quarantined")
    first, second = world.incidents()[0].writers
    assert first.endswith(": 2 files, 200 B")
    assert second.startswith("unknown: more paths differ than the 2 whose writer is remembered: 1 file")
