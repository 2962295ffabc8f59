"""Stories of the brake: what is held, what flows, and how a hold ends."""

from __future__ import annotations

import random
from dataclasses import replace

import msgspec
import pytest

from closeranks_coordinator.core.losses import PROOF_MAX_S, STORM_MAX_S
from closeranks_coordinator.core.model import (
    AllowAsked,
    QuarantineAsked,
    RejectAsked,
    ReleaseAsked,
    ResyncAsked,
    Tick,
)
from closeranks_coordinator.core.rules import GuardRules
from closeranks_coordinator.core.shapes import HoldView
from closeranks_proto import messages as wire
from closeranks_proto.content import ChunkList, encode_chunk_list, hole_digest
from closeranks_proto.digests import XXH3_128
from closeranks_proto.entries import Entry, Kind, encode_entry
from closeranks_proto.parts import OUTSIDE
from fakeworld import FakeWorld, file_of, key_of, volume_config

MB = 10**6
GB = 10**9
WARM = GuardRules(warm_up_s=0.0)
NODES = ("n1", "n2", "n3", "n4")
TREE = {key_of(f"d{n % 4}/f{n:03}"): file_of(n) for n in range(400)} | {
    key_of(f"d{n}"): encode_entry(Entry(Kind.DIRECTORY, mode=0o755)) for n in range(4)
}
PHP = wire.Hand(4711, "/usr/bin/php", "php index.php", 33, None, "apache2", ("1 systemd",), 10, GB)


def writing(
    policy: str = "writers", rules: GuardRules = WARM, disk_bytes: tuple[int, int] = (19 * GB, 18 * GB)
) -> FakeWorld:
    """n1 and n2 write, n3 and n4 follow; all see changes at once."""
    listed = ("n1", "n2") if policy == "writers" else NODES if policy == "any-writer" else ()
    volume = volume_config(policy=policy, writers=listed, guards=rules)
    world = FakeWorld(NODES, [volume], {"photos": TREE})
    for agent in world.agents.values():
        agent.watches, agent.scan_interval_s, agent.disk_bytes = True, 5.0, disk_bytes
    return world.started()


def commit(world: FakeWorld, node: str) -> None:
    """What is on this node's disk now is committed."""
    world[node]._stream("photos", "watch")


def report(
    world: FakeWorld, node: str, size: int = 0, files: int = 1, pending: int = 0,
    disk: wire.DiskState | None = None, hands: tuple[wire.Hand, ...] = (PHP,),
) -> None:  # fmt: skip
    """What the agent says of its last second."""
    volumes = (wire.VolumeActivity("photos", files, size, pending),) if size or files else ()
    world[node]._say(wire.Activity(1000, volumes, () if disk is None else (disk,), hands))


def truth(world: FakeWorld) -> dict[bytes, bytes]:
    view = world.fleet.volume_view(world.now(), "photos")
    assert view is not None
    assert view.truth_root is not None
    return dict(world.tree.walk(bytes.fromhex(view.truth_root)))


def held(world: FakeWorld) -> list[HoldView]:
    found = [world.fleet.hold_view(one) for one in world.fleet.hold_ids()]
    return [one for one in found if one is not None and one.state == "held"]


def the_hold(world: FakeWorld) -> HoldView:
    """The only one. Who deleted much is held once it has proven that nothing of it comes back under another name."""
    world.until(lambda: bool(held(world)), 10.0)
    (found,) = held(world)
    return found


def look(world: FakeWorld, hold: str) -> HoldView:
    found = world.fleet.hold_view(hold)
    assert found is not None
    return found


def delete(world: FakeWorld, node: str, count: int) -> None:
    for number in range(count):
        world[node].disk["photos"].pop(key_of(f"d{number % 4}/f{number:03}"), None)


# --- shares ---------------------------------------------------------------------------------------


def test_a_writer_that_deletes_forty_percent_is_held_and_nobody_follows() -> None:
    world = writing()
    delete(world, "n1", 160)
    commit(world, "n1")
    hold = the_hold(world)
    assert (hold.guard, hold.node, hold.paths) == ("deleted_share", "n1", 160)
    assert "n1 deleted 40% of the volume, 160 of 404 paths" in hold.reason
    assert world.state("n1") == "held"
    world.run(30.0)
    assert truth(world) == TREE
    assert all(world[node].disk["photos"] == TREE for node in ("n2", "n3", "n4"))
    (incident,) = world.incidents("runaway")
    assert incident.id == hold.incident
    assert incident.summary == hold.reason
    assert [one.event for one in incident.timeline][:2] == ["detected", "held"]
    assert f"closeranks allow {hold.id}" in incident.advice
    assert incident.path_count == 160


@pytest.mark.parametrize("guard", ["deleted_share", "changed_share"])
def test_a_flood_of_new_files_makes_no_share_smaller(guard: str) -> None:
    world = writing()
    disk = world["n1"].disk["photos"]
    disk.update((key_of(f"junk{number:03}"), file_of(f"junk {number}")) for number in range(200))
    commit(world, "n1")
    world.until(lambda: truth(world) == disk, 10.0)
    if guard == "deleted_share":
        delete(world, "n1", 120)
    else:
        disk.update(
            (key_of(f"d{number % 4}/f{number:03}"), file_of(f"new {number}")) for number in range(250)
        )
    commit(world, "n1")
    hold = the_hold(world)
    assert hold.guard == guard
    assert f"{'120' if guard == 'deleted_share' else '250'} of 404 paths" in hold.reason


def test_everything_deleted_while_the_root_stays_mounted_is_held() -> None:
    world = writing()
    world["n1"].disk["photos"].clear()
    commit(world, "n1")
    assert "deleted everything" in the_hold(world).reason
    world.run(10.0)
    assert truth(world) == TREE


def test_a_small_volume_that_is_emptied_is_held_however_few_its_paths_are() -> None:
    volume = volume_config(policy="writers", writers=("n1",), guards=WARM)
    small = {key_of(f"f{n}"): file_of(n) for n in range(12)}
    world = FakeWorld(NODES, [volume], {"photos": small}).started()
    world["n1"].disk["photos"].clear()
    commit(world, "n1")
    assert the_hold(world).guard == "deleted_share"


def test_a_rename_of_a_large_directory_flows() -> None:
    world = writing()
    disk = world["n1"].disk["photos"]
    for key in [key for key in disk if key == b"d0" or key.startswith((b"d0\0", b"d1\0"))]:
        disk[b"moved-" + key] = disk.pop(key)
    disk[b"moved-d1"] = disk.pop(b"d1")
    after = dict(disk)
    commit(world, "n1")
    world.run(1.5)
    assert not held(world)
    assert truth(world) == after


def _proves_nothing(world: FakeWorld, node: str) -> None:
    """Neither by its watcher nor by a scan."""
    world[node].watches, world[node].scan_interval_s = False, 1e9
    world.run(10.0)  # the last scan that was due


@pytest.mark.parametrize("stormy", [False, True])
def test_a_rename_whose_new_names_come_some_steps_later_flows(stormy: bool) -> None:
    """A step has 512 changes: of a large directory the old paths come first, in a storm long before the new ones."""
    world = writing()
    node, disk = world["n1"], world["n1"].disk["photos"]
    if stormy:
        in_storm(world, "n1", True)
        _proves_nothing(world, "n1")
    moved = [key for key in disk if key == b"d0" or key.startswith((b"d0\0", b"d1\0"))]
    values = {key: disk.pop(key) for key in moved}
    commit(world, "n1")
    world.run(30.0 if stormy else 0.0)
    assert not held(world)
    disk.update((b"moved-" + key, value) for key, value in values.items())
    disk[b"moved-d1"] = disk.pop(b"d1")
    if stormy:
        commit(world, "n1")
        in_storm(world, "n1", False)
        node.watches = True
    steps = []
    for _ in range(40):
        world.run(0.1)
        steps.append(len(truth(world)))
    assert not held(world)
    assert truth(world) == disk
    assert min(steps) == len(TREE), "no replica loses the old names before the new ones are known"


def test_a_deletion_whose_node_can_prove_nothing_is_held_at_last() -> None:
    world = writing()
    _proves_nothing(world, "n1")
    delete(world, "n1", 160)
    commit(world, "n1")
    assert world.until(lambda: bool(held(world)), 300.0) <= PROOF_MAX_S + 1
    assert truth(world) == TREE


def test_many_deletions_one_by_one_are_one_mass_deletion() -> None:
    world = writing()
    for number in range(160):
        world["n1"].disk["photos"].pop(key_of(f"d{number % 4}/f{number:03}"))
        commit(world, "n1")
        world.run(0.5)
        if held(world):
            break
    assert the_hold(world).guard == "deleted_share"
    assert len(TREE) - len(truth(world)) < 101


def test_more_than_half_of_the_contents_changed_is_held() -> None:
    world = writing()
    for number in range(250):
        world["n1"].disk["photos"][key_of(f"d{number % 4}/f{number:03}")] = file_of(f"encrypted {number}")
    commit(world, "n1")
    assert the_hold(world).guard == "changed_share"
    world.run(10.0)
    assert truth(world) == TREE


def test_files_that_become_links_en_masse_are_held() -> None:
    world = writing()
    link = encode_entry(Entry(Kind.SYMLINK, 7, target=b"/evil/x"))
    for number in range(30):
        world["n1"].disk["photos"][key_of(f"d{number % 4}/f{number:03}")] = link
    commit(world, "n1")
    assert the_hold(world).guard == "type_changes"


def test_one_file_rewritten_for_ever_is_never_a_mass_change() -> None:
    world = writing()
    for number in range(100):
        world["n1"].disk["photos"][key_of("d0/f000")] = file_of(f"again {number}")
        commit(world, "n1")
        world.run(0.5)
    assert not held(world)


# --- observation ----------------------------------------------------------------------------------


def test_a_small_change_is_never_delayed() -> None:
    world = writing()
    for number in range(30):
        value = file_of(f"small {number}", 100_000)
        world["n1"].disk["photos"][key_of(f"d0/new{number}")] = value
        commit(world, "n1")
        assert truth(world)[key_of(f"d0/new{number}")] == value, "merged in the step of its commit"
        world.run(0.1)


LARGE_DISK = (2000 * GB, 1900 * GB)


def test_a_burst_flows_once_it_has_been_quiet_for_a_second() -> None:
    world = writing(disk_bytes=LARGE_DISK)
    world["n1"].disk["photos"][key_of("d0/video")] = file_of("video", 500 * MB)
    commit(world, "n1")
    assert key_of("d0/video") not in truth(world)
    took = world.until(lambda: key_of("d0/video") in truth(world), 3.0)
    assert took == pytest.approx(1.0, abs=0.1)
    world.run(2.0)
    assert key_of("d0/video") in world["n4"].disk["photos"]


def test_a_checkout_of_five_thousand_files_flows_after_an_observation() -> None:
    """In a volume of 20,000, in several commits."""
    files = {key_of(f"f{n:05}"): file_of(n) for n in range(20_000)}
    volume = volume_config(policy="writers", writers=("n1",), guards=WARM)
    world = FakeWorld(("n1", "n2"), [volume], {"photos": files})
    for agent in world.agents.values():
        agent.watches, agent.scan_interval_s, agent.deaf = True, 50.0, agent is not world["n1"]
    world.started()
    disk = world["n1"].disk["photos"]
    for batch in range(5):
        for number in range(1000):
            disk[key_of(f"f{4 * (1000 * batch + number):05}")] = file_of(f"of the branch {number}")
        commit(world, "n1")
        world.run(0.4)
    assert truth(world) == files, "it is observed"
    world.run(1.0)
    assert truth(world) == disk
    assert not held(world)


def test_a_burst_that_is_observed_is_seen_and_spreads_after_no_longer_a_rest_than_was_said() -> None:
    world = writing(rules=replace(WARM, observe_files_s=10))
    assert world.volume("n1").rest_s is None
    for number in range(20):
        world["n1"].disk["photos"][key_of(f"d2/new{number}")] = file_of(number)
    commit(world, "n1")
    world.run(0.5)
    assert truth(world) == TREE
    rest_s = world.volume("n1").rest_s
    assert rest_s is not None
    assert world.volume("n2").rest_s is None
    assert world.until(lambda: truth(world) != TREE) <= rest_s
    assert world.volume("n1").rest_s is None


def test_a_burst_that_goes_on_flows_without_waiting_once_it_was_observed() -> None:
    world = writing(rules=replace(WARM, observe_files_s=10))
    waits: list[bool] = []
    for batch in range(20):
        for number in range(10):
            world["n1"].disk["photos"][key_of(f"d1/c{batch}-{number}")] = file_of(f"{batch} {number}")
        commit(world, "n1")
        waits.append(key_of(f"d1/c{batch}-0") not in truth(world))
        world.run(0.5)
    assert waits[2:10] == [True] * 8
    assert not any(waits[-6:])
    assert truth(world) == world["n1"].disk["photos"]


def in_storm(world: FakeWorld, node: str, storm: bool) -> None:
    agent = world[node]
    agent.storm = storm
    agent._status("photos")


@pytest.mark.parametrize("made", [20, 2])
def test_the_beginning_of_a_storm_waits_for_the_rest_of_it(made: int) -> None:
    """Made and removed: neither time nor rest lets through what the agent had committed before it stopped listening."""
    world = writing(rules=replace(WARM, observe_files_s=10))
    disk = world["n1"].disk["photos"]
    for number in range(made):
        disk[key_of(f"d2/new{number}")] = file_of(number)
    delete(world, "n1", 10)
    commit(world, "n1")
    in_storm(world, "n1", True)
    world.run(WARM.observe_s * 4)
    assert truth(world) == TREE
    delete(world, "n1", 160)
    commit(world, "n1")
    in_storm(world, "n1", False)
    world.run(2.0)
    assert the_hold(world).guard == "deleted_share"
    assert truth(world) == TREE


def test_a_storm_that_does_not_end_holds_nothing_back_for_ever() -> None:
    world = writing(rules=replace(WARM, observe_files_s=10))
    for number in range(20):
        world["n1"].disk["photos"][key_of(f"d2/new{number}")] = file_of(number)
    commit(world, "n1")
    in_storm(world, "n1", True)
    assert world.until(lambda: truth(world) == world["n1"].disk["photos"], 300.0) >= STORM_MAX_S - 1


# --- write rates ----------------------------------------------------------------------------------


def run_away(world: FakeWorld, node: str, speed: int, seconds: int) -> float:
    """Write one file at full speed; after how many seconds it was held."""
    for second in range(1, seconds + 1):
        world.run(1.0)
        report(world, node, speed, 1, pending=1)
        if held(world):
            return second
    raise AssertionError(f"not held within {seconds} s")


@pytest.mark.parametrize(("filled", "is_held"), [(5, False), (5000, True)])
def test_the_holes_of_a_sparse_file_were_not_written(filled: int, is_held: bool) -> None:
    """A virtual machine's new disk of 5 GB that holds 5 MB was held as 5 GB, and the number was not true."""
    world = writing(disk_bytes=(400 * GB, 390 * GB))
    count, short = 5120, 1 << 20
    hole, data = hole_digest(XXH3_128, short), XXH3_128.of(b"data")
    chunks = encode_chunk_list(ChunkList(count * short, short, 16, data * filled + hole * (count - filled)))
    digest = XXH3_128.of(chunks)
    world.objects[digest] = chunks
    world["n1"].disk["photos"][key_of("d0/vm.img")] = encode_entry(
        Entry(Kind.FILE, count * short, digest, 0o644)
    )
    commit(world, "n1")
    world.run(10.0)
    assert bool(held(world)) is is_held


@pytest.mark.parametrize("speed", [GB // 3, GB // 2, GB, 3 * GB])
def test_a_runaway_at_full_disk_speed_is_held_within_five_seconds_and_before_two_gigabytes(
    speed: int,
) -> None:
    world = writing()  # its disks are small: 19 GB
    took = run_away(world, "n1", speed, 5)
    assert took == 1 or took * speed <= 2 * GB
    hold = the_hold(world)
    assert hold.guard == "write_rate"
    assert hold.reason.startswith("n1 wrote ")
    assert hold.reason.endswith("; by /usr/bin/php (script index.php), unit apache2")
    world["n1"].disk["photos"][key_of("d0/huge")] = file_of("huge", 50 * GB)
    commit(world, "n1")
    world.run(10.0)
    assert truth(world) == TREE


def test_whose_a_hold_is_follows_who_writes_on_while_it_lasts() -> None:
    """It named who wrote most in the very second of the hold, also where another wrote ten times as much after it."""
    world = writing()
    run_away(world, "n1", GB, 5)
    assert the_hold(world).reason.endswith("; by /usr/bin/php (script index.php), unit apache2")
    slow = wire.Hand(815, "/usr/bin/rsync", "rsync", 0, None, "cron", (), 1, GB // 4)
    for _ in range(60):
        world.run(1.0)
        report(world, "n1", GB // 4, 1, pending=1, hands=(slow,))
    hold = the_hold(world)
    assert [one.exe for one in hold.writers] == ["/usr/bin/rsync", "/usr/bin/php"]
    assert hold.writers[0].bytes >= 10 * GB
    assert hold.reason.endswith("; by /usr/bin/rsync, unit cron")
    (incident,) = world.incidents("runaway")
    assert incident.summary == hold.reason
    assert incident.writers[0].startswith("/usr/bin/rsync")
    assert "by /usr/bin/php" in incident.timeline[0].text, "what was said when it was held stays"


def test_a_hold_names_nobody_who_writes_in_another_volume_meanwhile() -> None:
    """A report does not say whose hand was in which volume: a backup of another one was named for the runaway."""
    world = writing()
    run_away(world, "n1", GB, 5)
    other = wire.Hand(815, "/usr/bin/rsync", "rsync", 0, None, "cron", (), 1, GB)
    both = (wire.VolumeActivity("photos", 1, 1000, 1), wire.VolumeActivity("docs", 1, GB, 1))
    for _ in range(20):
        world.run(1.0)
        world["n1"]._say(wire.Activity(1000, both, (), (other,)))
    assert [one.exe for one in the_hold(world).writers] == ["/usr/bin/php"]


def test_a_hold_goes_on_to_tell_of_bytes_where_the_disk_is_too_small_to_pass_what_is_allowed() -> None:
    """A rush is held below the 2 GiB. It said then that 177 paths were too many, of which 200,000 are allowed."""
    world = writing(disk_bytes=(2 * GB, 2 * GB))
    run_away(world, "n1", 700 * MB, 2)
    assert the_hold(world).bytes < 2 * GB
    world.run(5.0)
    for _ in range(2):
        report(world, "n1", 250 * MB, 25, pending=50)
        world.run(5.0)
    reason = the_hold(world).reason
    assert reason.startswith("n1 wrote 1.9 GB in 52 files in "), reason


def test_a_slow_runaway_of_many_files_is_observed_then_held_and_told_with_numbers() -> None:
    world = writing()
    for second in range(60):
        for number in range(4):
            world["n1"].disk["photos"][key_of(f"d2/big{second}-{number}")] = file_of(second, 30 * MB)
        commit(world, "n1")
        world.run(1.0)
        if held(world):
            break
    assert "its usual is 0 B; its peers wrote 0 B" in the_hold(world).reason
    spread = sum(1 for key in truth(world) if key not in TREE) * 30 * MB
    assert spread < 2.2 * GB


def test_what_is_usual_for_a_node_is_not_held() -> None:
    world = writing()
    usual = world.fleet._world.usuals["n1/photos"]
    usual.buckets = [(number, 100, 20 * GB) for number in range(1, 100)]
    for _ in range(10):
        world.run(1.0)
        report(world, "n1", GB, 1, pending=1)
    assert not held(world)


def test_in_the_warm_up_only_the_minimum_counts() -> None:
    world = writing(rules=GuardRules())
    world.fleet._world.usuals["n1/photos"].buckets = [(number, 100, 20 * GB) for number in range(1, 100)]
    run_away(world, "n1", GB, 5)
    assert "is still being learned" in the_hold(world).reason


def test_peers_that_write_as_much_make_it_usual() -> None:
    world = writing("quorum")
    for _ in range(6):
        for node in NODES:
            report(world, node, GB, 1)
        world.run(1.0)
    assert not held(world)


def test_a_runaway_is_told_of_where_the_site_itself_replicates() -> None:
    world = writing("quorum")
    for _ in range(8):
        report(world, "n2", GB, 1)
        world.run(1.0)
    hold = the_hold(world)
    assert (hold.guard, hold.node) == ("write_rate", "n2")
    assert world.state("n2") == "held"
    assert "no vote" in world.incidents("runaway")[0].advice
    world.ask(AllowAsked(hold.id, None))
    world.run(1.0)
    assert world.in_rank()


def test_many_files_are_unusual_as_many_bytes_are() -> None:
    world = writing()
    for _ in range(5):
        world.run(1.0)
        report(world, "n1", 1000, 50_000, pending=50_000)
    assert "n1 changed " in the_hold(world).reason


@pytest.mark.parametrize("how", ["at once", "by steps", "copied"])
def test_a_large_directory_that_gets_another_name_was_written_once(how: str) -> None:
    """A directory of 100,000 files that was renamed had been held for writing 200,202 paths."""
    world = writing(rules=replace(WARM, rate_min_files=300))
    disk = world["n1"].disk["photos"]
    moved = [key for key in disk if key.startswith((b"d0\0", b"d1\0"))]
    assert len(moved) <= 300 < 2 * len(moved)
    values = {key: disk[key] if how == "copied" else disk.pop(key) for key in moved}
    if how == "by steps":
        commit(world, "n1")
    disk.update((b"moved-" + key, value) for key, value in values.items())
    disk |= {b"moved-d0": TREE[b"d0"], b"moved-d1": TREE[b"d1"]}
    if how == "copied":
        disk.update((b"again-" + key, value) for key, value in values.items())
        disk |= {b"again-d0": TREE[b"d0"], b"again-d1": TREE[b"d1"]}
    if how != "by steps":
        commit(world, "n1")
    report(world, "n1", 1000, 2 * len(moved), pending=len(moved))
    commit(world, "n1")
    world.run(10.0)
    assert bool(held(world)) is (how == "copied")
    assert (truth(world) == disk) is (how != "copied")


@pytest.mark.parametrize("gone", [0, 1, 60])
def test_what_went_says_nothing_of_what_is_written_and_not_committed_yet(gone: int) -> None:
    """One `rm` before it, and a flood of files counted as none of them written until its commit."""
    world = writing()
    if gone:
        delete(world, "n1", gone)
        commit(world, "n1")
    for _ in range(5):
        world.run(1.0)
        report(world, "n1", 1000, 50_000, pending=50_000)
    assert "n1 changed " in the_hold(world).reason


@pytest.mark.parametrize(("each_second", "at_last", "is_held"), [(20, 800, False), (300, 300, True)])
def test_what_a_scan_finds_at_once_is_no_pace(each_second: int, at_last: int, is_held: bool) -> None:
    """A big archive that was unpacked within what is allowed, found by the scan behind its storm."""
    world = writing(rules=replace(WARM, rate_min_files=2000, observe_files_s=10))
    for second in range(5):
        for number in range(each_second):
            world["n1"].disk["photos"][key_of(f"d2/{second}-{number}")] = file_of(number)
        commit(world, "n1")
        world.run(1.0)
    for number in range(at_last):
        world["n1"].disk["photos"][key_of(f"d2/found-{number}")] = file_of(number)
    commit(world, "n1")
    world.run(3.0)
    assert bool(held(world)) is is_held
    if is_held:
        assert "at a pace that passes what is allowed within seconds; its usual" in the_hold(world).reason
    else:
        assert truth(world) == world["n1"].disk["photos"]


def test_what_a_node_that_is_behind_gets_is_not_its_own_writing() -> None:
    world = writing("quorum")
    world["n1"].deaf = True
    world.everywhere("d0/new", file_of("new", GB), but=("n1",))
    world.until(lambda: world.volume("n1").lagging_paths == 1)
    for _ in range(5):
        report(world, "n1", GB, 1)
        world.run(0.2)
    assert not held(world)


# --- disks ----------------------------------------------------------------------------------------


def disk(free: int, full_in_s: float | None, volumes: tuple[str, ...] = ("photos",)) -> wire.DiskState:
    return wire.DiskState("/srv", volumes, not volumes, 100 * GB, free, 100e6, full_in_s)


@pytest.mark.parametrize("policy", ["writers", "any-writer", "quorum"])
@pytest.mark.parametrize("volumes", [("photos",), ()])
def test_a_disk_that_fills_is_told_for_every_policy_also_where_no_volume_lies(
    policy: str, volumes: tuple[str, ...]
) -> None:
    world = writing(policy)
    for step in range(4):
        report(world, "n3", files=0, disk=disk(50 * GB - step * GB, 500.0 - 10 * step, volumes))
        world.run(1.0)
    hold = the_hold(world)
    assert (hold.guard, hold.node, hold.volume) == ("disk_full", "n3", "photos" if volumes else None)
    assert "will be full in 8 min" in hold.reason
    assert world.state("n3") == "held"


@pytest.mark.parametrize("volumes", [("photos",), ()])
def test_a_hold_says_how_full_the_disk_is_by_now_and_its_incident_keeps_what_was_said_first(
    volumes: tuple[str, ...],
) -> None:
    world = writing()
    for step in range(4):
        report(world, "n3", files=0, disk=disk(50 * GB - step * GB, 500.0 - 10 * step, volumes))
        world.run(1.0)
    first = the_hold(world).reason
    assert "47 GB of 100 GB are free" in first or "48 GB of 100 GB are free" in first
    for step in range(4, 34):
        report(world, "n3", files=0, disk=disk(50 * GB - step * GB, 200.0, volumes))
        world.run(1.0)
    hold = the_hold(world)
    incident = world.fleet.incident_view(hold.incident or "")
    assert incident is not None
    assert "will be full in 3 min" in hold.reason
    assert incident.summary == hold.reason != first
    assert any(first in event.text for event in incident.timeline)
    free_gb = int(hold.reason.split(": ")[1].split(" GB")[0])
    assert f"has lost {50 - free_gb} GB by now" in hold.reason
    assert free_gb <= 22, "within five seconds of what was reported last"


TAR = wire.Hand(99, "/usr/bin/tar", "tar x", 0, None, "cron", (), 0, 4 * GB, f"{OUTSIDE}, on some disk")


def test_a_disk_that_is_filled_from_outside_its_volumes_says_so_and_by_whom() -> None:
    world = writing()
    for step in range(4):
        report(world, "n3", files=0, disk=disk(50 * GB - step * GB, 500.0), hands=(TAR,))
        world.run(1.0)
    hold = the_hold(world)
    assert hold.reason.endswith(
        "; most of it was written outside volume photos (0 B within); by /usr/bin/tar, unit cron, outside the volumes "
        "(it may have been to another disk)"
    )
    (incident,) = world.incidents("runaway")
    assert incident.writers[0].startswith("/usr/bin/tar (pid 99")
    assert ", outside the volumes (it may have been to another disk): " in incident.writers[0]


def test_nobody_outside_the_volumes_is_blamed_for_a_disk_where_the_node_has_another_one() -> None:
    world = writing()
    other = wire.DiskState("/", (), True, 100 * GB, 90 * GB, 0.0, None)
    report(world, "n3", files=0, disk=other, hands=())
    for step in range(4):
        report(world, "n3", files=0, disk=disk(50 * GB - step * GB, 500.0), hands=(TAR,))
        world.run(1.0)
    hold = the_hold(world)
    assert hold.reason.endswith(
        "; which program wrote is not known (programs that wrote outside the volumes may have written to another disk)"
    )
    assert [hand.exe for hand in hold.writers] == ["/usr/bin/tar"], "it is shown, and not accused"


def test_who_wrote_in_the_volumes_of_a_full_disk_comes_before_who_wrote_more_outside() -> None:
    world = writing(rules=replace(WARM, rate_min_bytes=100 * GB))
    for step in range(4):
        report(world, "n1", GB, disk=disk(50 * GB - step * GB, 500.0), hands=(TAR, PHP))
        world.run(1.0)
    hold = the_hold(world)
    assert hold.guard == "disk_full"
    assert hold.reason.endswith("; by /usr/bin/php (script index.php), unit apache2")
    assert [hand.exe for hand in hold.writers] == ["/usr/bin/php", "/usr/bin/tar"]


def test_who_may_have_filled_a_disk_stands_behind_who_has_and_the_most_first() -> None:
    """Who was known stays named, and stood behind whoever came later, however little that one wrote."""
    world = writing(rules=replace(WARM, rate_min_bytes=100 * GB))
    small = wire.Hand(98, "/usr/bin/cp", "cp a b", 0, None, "", (), 1, 10 * MB, TAR.detail)
    for step in range(4):
        report(world, "n1", GB, disk=disk(50 * GB - step * GB, 500.0), hands=(TAR, PHP))
        world.run(1.0)
    hold = the_hold(world)
    for step in range(4, 8):
        report(world, "n1", 0, 0, disk=disk(50 * GB - step * GB, 500.0), hands=(small,))
        world.run(1.0)
    assert [hand.exe for hand in look(world, hold.id).writers] == [
        "/usr/bin/php",
        "/usr/bin/tar",
        "/usr/bin/cp",
    ]


def test_who_wrote_before_a_disk_began_to_fill_is_not_named_for_it() -> None:
    world = writing()
    report(world, "n3", MB, hands=(PHP,))
    world.run(600.0)
    for step in range(4):
        report(world, "n3", files=0, disk=disk(50 * GB - step * GB, 500.0), hands=())
        world.run(1.0)
    hold = the_hold(world)
    assert hold.reason.endswith("; which program wrote is not known")
    assert hold.writers == ()


@pytest.mark.parametrize("fits", [True, False])
def test_a_hold_says_at_once_when_the_trash_is_too_small_for_its_reject(fits: bool) -> None:
    world = writing(disk_bytes=(400 * MB, 380 * MB))
    report(world, "n1", disk=small_disk(380 * MB))
    world.run(60.0)
    world["n1"].put("photos", "d0/huge", file_of("huge", (30 if fits else 300) * MB))
    world.run(1.5)
    report(world, "n1", disk=small_disk(0, 0.0))
    hold = the_hold(world)
    said = (
        "What does not fit into the trash (by default a tenth of the disk) must be removed by hand on n1 before"
        if fits
        else "A reject sets up to 300 MB of photos aside, and the trash on n1 holds at most 40 MB: raise "
        "trash_max_bytes of photos in coordinator.toml first, or remove the file by hand on n1."
    )
    (incident,) = world.incidents("runaway")
    assert said in hold.advice
    assert said in incident.advice


def test_a_disk_that_was_filled_within_the_second_after_its_node_has_connected_is_held() -> None:
    world = writing(disk_bytes=(400 * MB, 380 * MB))
    world["n1"].put("photos", "d0/huge", file_of("huge", 370 * MB))
    world.run(0.9)
    assert key_of("d0/huge") not in truth(world), "its disk was not looked at yet"
    report(world, "n1", disk=small_disk(MB, 0.0))
    hold = the_hold(world)
    assert (hold.guard, hold.bytes) == ("disk_full", 379 * MB)
    world.run(30.0)
    assert truth(world) == TREE


def test_a_disk_that_its_volume_fills_is_not_said_to_be_filled_from_outside() -> None:
    world = writing(rules=replace(WARM, rate_min_bytes=100 * GB))
    for step in range(4):
        report(world, "n1", GB, disk=disk(50 * GB - step * GB, 500.0))
        world.run(1.0)
    hold = the_hold(world)
    assert hold.guard == "disk_full"
    assert "outside" not in hold.reason
    assert hold.reason.endswith("; by /usr/bin/php (script index.php), unit apache2")


def test_a_hold_of_which_no_program_is_known_says_so() -> None:
    world = writing()
    for step in range(4):
        report(world, "n3", files=0, disk=disk(50 * GB - step * GB, 500.0), hands=())
        world.run(1.0)
    assert the_hold(world).reason.endswith("; which program wrote is not known")


def test_what_a_program_wrote_outside_is_not_added_to_what_it_wrote_in_a_volume() -> None:
    world = writing()
    inside = msgspec.structs.replace(TAR, detail="", bytes=MB)
    report(world, "n3", MB, hands=(inside, TAR))
    found = {hand.detail[:7]: hand.bytes for hand in world.view("n3").writers}
    assert found == {"": MB, "outside": 4 * GB}


def test_one_report_or_a_small_share_is_no_alarm() -> None:
    world = writing()
    report(world, "n1", files=0, disk=disk(5 * GB, 100.0))
    for step in range(5):
        report(world, "n2", files=0, disk=disk(5 * GB - step * MB, 100.0))
        world.run(1.0)
    assert not held(world)


def test_a_disk_that_fills_beside_what_the_truth_brings_is_held_for_the_rest() -> None:
    """What closeranks has put there is told apart: it neither holds the node nor hides who does fill its disk."""
    world = writing()
    for step in range(6):
        left = disk(50 * GB - 5 * GB * step, 500.0 - 10 * step)
        report(world, "n3", files=0, disk=msgspec.structs.replace(left, taken_bytes=3 * GB * step), hands=())
        world.run(1.0)
    hold = the_hold(world)
    assert (hold.guard, hold.node) == ("disk_full", "n3")
    incident = world.fleet.incident_view(hold.incident or "")
    assert incident is not None
    assert "lost 5.0 GB (3.0 GB of it was brought by closeranks)" in incident.timeline[0].text
    assert "has lost 25 GB (15 GB of it was brought by closeranks) by now" in hold.reason


def test_an_agent_that_was_started_again_counts_what_it_brings_anew() -> None:
    world = writing()
    for taken, free in ((40, 50), (41, 49), (1, 48), (2, 47), (3, 46)):
        report(world, "n3", disk=msgspec.structs.replace(disk(free * GB, 300.0), taken_bytes=taken * GB))
        world.run(1.0)
    assert not held(world)


def test_a_full_disk_of_a_node_that_keeps_nothing_back_asks_for_room_and_ends_when_it_is_still() -> None:
    world = writing()
    for step in range(4):
        report(world, "n3", files=0, disk=disk(50 * GB - step * GB, 500.0), hands=())
        world.run(1.0)
    hold = the_hold(world)
    assert (hold.waiting_paths, hold.wants_room, world.view("n3").wants_room) == (0, True, True)
    (incident,) = world.incidents("runaway")
    for said in (hold.advice, incident.advice):
        assert "Free some room on /srv of n3" in said
        assert "closeranks allow" not in said
        assert "reject" not in said
    world["n1"].put("photos", "d0/later", file_of("later"))
    report(world, "n3", files=0, disk=disk(47 * GB, None), hands=())
    world.run(20.0)
    assert the_hold(world).id == hold.id, "it is watched for half a minute"
    world.run(20.0)
    assert not held(world)
    assert key_of("d0/later") in world["n3"].disk["photos"]


def test_a_hold_of_a_writer_that_has_something_to_decide_waits_also_when_its_disk_is_still() -> None:
    world = writing(rules=replace(WARM, rate_min_bytes=100 * GB))
    for step in range(4):
        world["n1"].put("photos", f"d0/big{step}", file_of(f"big {step}", GB))
        report(world, "n1", GB, disk=disk(50 * GB - step * GB, 500.0))
        world.run(1.0)
    hold = the_hold(world)
    assert (hold.wants_room, hold.waiting_paths > 0) == (False, True)
    assert f"closeranks allow {hold.id}" in hold.advice
    report(world, "n1", files=0, disk=disk(47 * GB, None))
    world.run(120.0)
    assert the_hold(world).id == hold.id


def test_a_full_disk_of_the_agents_state_asks_for_room_and_ends_soon_after_there_is_some() -> None:
    world = writing()
    for free in (10 * GB, 5 * GB, 0):
        report(world, "n3", files=0, disk=disk(free, 60.0 if free else 0.0, ()), hands=())
        world.run(1.0)
    hold = the_hold(world)
    assert hold.volume is None
    assert "keeps its state there" in hold.advice
    assert "closeranks allow" not in hold.advice
    world["n1"].put("photos", "d0/later", file_of("later"))
    world.run(60.0)
    assert the_hold(world).id == hold.id, "it is full"
    report(world, "n3", files=0, disk=disk(3 * GB, None, ()), hands=())
    world.run(35.0)
    assert not held(world)
    assert key_of("d0/later") in world["n3"].disk["photos"]


CP = wire.Hand(31, "/usr/bin/cp", "cp -r a b", 0, None, "", (), 20, 8 * GB)


def test_who_wrote_what_is_held_comes_before_who_wrote_more_that_was_let_through() -> None:
    world = writing(
        rules=replace(WARM, rate_min_bytes=100 * GB, observe_bytes_s=100 * GB), disk_bytes=LARGE_DISK
    )
    report(world, "n1", files=0, disk=disk(60 * GB, None), hands=())
    world["n1"].write("photos", "d0/photo", file_of("photo", 8 * GB), CP)
    report(world, "n1", 8 * GB, hands=(CP,))
    world.until(lambda: key_of("d0/photo") in truth(world), 900.0)
    tar = msgspec.structs.replace(TAR, detail="", bytes=GB)
    nameless = msgspec.structs.replace(tar, exe="[tar]", command="", files=1, bytes=MB)
    for step in range(6):
        world["n1"].write("photos", f"d0/part{step}", file_of(f"part {step}", GB), tar)
        report(world, "n1", GB, disk=disk(50 * GB - step * GB, 500.0), hands=(tar, nameless))
        world.run(1.0)
    world.run(6.0)
    hold = the_hold(world)
    assert "; by /usr/bin/tar" in hold.reason
    assert hold.writers[0].exe == "/usr/bin/tar"
    assert hold.writers[0].bytes >= 6 * GB, "its figures went on after the hold"
    assert "[tar]" not in {hand.exe for hand in hold.writers}


def small_disk(free: int, full_in_s: float | None = None) -> wire.DiskState:
    """Of 400 MB."""
    return wire.DiskState("/srv", ("photos",), False, 400 * MB, free, 1.0, full_in_s)


def test_on_a_small_disk_a_burst_begins_where_the_disk_would_be_full_in_ten_minutes() -> None:
    world = writing()
    report(world, "n1", disk=small_disk(360 * MB))
    world["n1"].put("photos", "d0/note", file_of("note", 100_000))
    world.run(0.2)
    assert key_of("d0/note") in truth(world), "what is ordinary does not wait"
    world["n1"].put("photos", "d0/part", file_of("part", 4 * MB))
    world.run(4.9)
    assert key_of("d0/part") not in truth(world)
    world.run(0.3)
    assert key_of("d0/part") in truth(world), "nothing followed: it was no burst"
    world.run(70.0)  # until the pace that was let through is forgotten
    for step in range(20):
        world["n1"].put("photos", f"d0/more{step}", file_of(step, MB))
        if not step % 2:
            report(world, "n1", 2 * MB, disk=small_disk(355 * MB - step * MB, 200.0 if step > 5 else None))
        world.run(0.5)
    assert the_hold(world).guard == "disk_full"
    assert not [one for one in truth(world) if b"more" in one]


def test_a_burst_on_a_small_disk_begins_there_also_before_its_first_report() -> None:
    """A second passes until a node that has just connected reports its disks."""
    world = writing(disk_bytes=(400 * MB, 380 * MB))
    for step in range(10):
        world["n1"].put("photos", f"d0/part{step}", file_of(step, MB))
        world.run(0.2)
        assert key_of(f"d0/part{step}") not in truth(world)


def test_what_fills_a_small_disk_before_anything_was_foreseen_is_held_and_stays_where_it_is() -> None:
    world = writing()
    report(world, "n1", disk=small_disk(380 * MB))
    world.run(60.0)  # at rest nothing is reported
    world["n1"].put("photos", "d0/huge", file_of("huge", 380 * MB))
    world.run(1.5)
    assert key_of("d0/huge") not in truth(world), "over, but its disk was not looked at since"
    report(world, "n1", disk=small_disk(0, 0.0))
    hold = the_hold(world)
    assert (hold.guard, hold.bytes) == ("disk_full", 380 * MB)
    world.run(30.0)
    assert truth(world) == TREE


def test_a_large_copy_that_leaves_room_on_a_small_disk_is_spread_when_nothing_has_followed_it() -> None:
    world = writing()
    report(world, "n1", disk=small_disk(380 * MB))
    world.run(60.0)
    world["n1"].put("photos", "d0/video", file_of("video", 150 * MB))
    world.run(1.5)
    report(world, "n1", disk=small_disk(230 * MB))
    world.run(3.4)
    assert key_of("d0/video") not in truth(world)
    world.run(0.3)
    assert key_of("d0/video") in truth(world)
    assert held(world) == []


def test_where_nobody_asks_about_disks_a_full_one_neither_holds_nor_delays_anything() -> None:
    """`disk_full_in_s = 0` switches the guard off; no pace is measured by it."""
    world = writing(rules=replace(WARM, disk_full_in_s=0.0))
    for step, (free, full_in_s) in enumerate([(380 * MB, None), (9 * MB, 1.0), (0, 0.0)]):
        report(world, "n1", 5 * MB, disk=small_disk(free, full_in_s))
        world["n1"].put("photos", f"d0/part{step}", file_of(step, 5 * MB))
        world.run(0.2)
        assert key_of(f"d0/part{step}") in truth(world)
        world.run(3.0)  # one at a time is no burst
    report(world, "n1", disk=small_disk(0, 0.0))
    world.run(10.0)
    assert held(world) == []


def test_a_disk_that_has_room_again_ends_its_hold() -> None:
    world = writing()
    for step in range(4):
        report(world, "n3", files=0, disk=disk(50 * GB - step * GB, 500.0))
    hold = the_hold(world)
    report(world, "n3", files=0, disk=disk(50 * GB, None))
    world.run(40.0)
    assert look(world, hold.id).state == "over"
    assert world.state("n3") == "in_rank"
    assert world.sent("n3", wire.Unhold) == [wire.Unhold(hold.id)]
    assert not world.incidents("runaway", "open")


def test_what_was_foreseen_is_told_as_past_when_it_is_over() -> None:
    """A closed incident went on saying that the disk will be full in nine minutes."""
    world = writing()
    for step in range(4):
        report(world, "n3", files=0, disk=disk(50 * GB - step * GB, 500.0))
    hold = the_hold(world)
    assert "will be full in 8 min: 48 GB of 100 GB are free" in hold.reason
    report(world, "n3", files=0, disk=disk(50 * GB, None))
    world.run(40.0)
    (incident,) = world.incidents("runaway", "closed")
    for text in (look(world, hold.id).reason, incident.summary):
        assert "was to be full in 8 min: 48 GB of 100 GB were free" in text
        assert "will" not in text


def test_a_deletion_took_as_long_as_it_took_whatever_was_done_before() -> None:
    """It was told to have lasted from the first change of any kind on."""
    world = writing()
    disk_now = world["n1"].disk["photos"]
    for number in range(60):
        disk_now[key_of("page")] = file_of(f"page {number}")
        commit(world, "n1")
        world.run(1.0)
    delete(world, "n1", 160)
    commit(world, "n1")
    assert "in 1.0 s; more than 20%" in the_hold(world).reason


@pytest.mark.parametrize("free", [48 * GB, 20 * GB])
def test_a_disk_that_several_nodes_at_one_address_tell_of_may_be_one(free: int) -> None:
    world = writing()
    for name in NODES:
        world.fleet._world.nodes[name].record.address = f"10.0.0.1:{7000 + int(name[1:])}"
    for step in range(4):
        report(world, "n4", files=0, disk=disk(free, None))
        report(world, "n3", files=0, disk=disk(50 * GB - step * GB, 500.0))
    told = "; n4 at the same address tells of a disk as large and as full, which may be this one"
    (hold,) = held(world)
    assert (told in hold.reason) is (free == 48 * GB)


def test_room_that_the_truth_takes_is_no_alarm() -> None:
    world = writing(
        rules=replace(WARM, observe_bytes_s=100 * GB, rate_min_bytes=100 * GB), disk_bytes=LARGE_DISK
    )
    for step in range(1, 5):
        world["n1"].disk["photos"][key_of(f"d0/big{step}")] = file_of(f"big {step}", 2 * GB)
        commit(world, "n1")
        world.run(0.5)
        left = msgspec.structs.replace(disk(50 * GB - 2 * GB * step, 300.0), taken_bytes=world["n3"].taken)
        report(world, "n3", 2 * GB, disk=left)
        world.run(0.5)
    assert key_of("d0/big4") in world["n3"].disk["photos"]
    assert not held(world)


def test_what_pushes_bring_is_not_the_writing_of_a_node_that_can_not_tell_its_own() -> None:
    world = writing("any-writer", disk_bytes=LARGE_DISK)
    world.fleet._world.usuals["n1/photos"].buckets = [(number, 100, 20 * GB) for number in range(1, 100)]
    for step in range(4):
        world["n1"].disk["photos"][key_of(f"d0/big{step}")] = file_of(f"big {step}", GB)
        commit(world, "n1")
        world.run(2.0)
        report(world, "n3", GB)
    assert key_of("d0/big3") in world["n3"].disk["photos"]
    assert not held(world)


def test_a_held_node_of_a_quorum_volume_has_no_vote_while_a_quorum_is_left() -> None:
    world = writing("quorum")
    for node in NODES:
        for step in range(4):
            report(world, node, files=0, disk=disk(50 * GB - step * GB, 500.0))
    assert len(held(world)) == 4
    view = world.fleet.volume_view(world.now(), "photos")
    world.run(1.0)
    view = world.fleet.volume_view(world.now(), "photos")
    assert view is not None
    assert view.voters == 3, "of four three must agree: only one may be without a vote"


# --- while it is held -----------------------------------------------------------------------------


def test_a_held_node_is_accused_of_nothing_while_too_few_others_are_there_for_a_quorum() -> None:
    world = writing("quorum")
    for step in range(4):
        report(world, "n3", files=0, disk=disk(50 * GB - step * GB, 500.0))
        world.run(1.0)
    assert world.state("n3") == "held"
    world["n2"].stop()
    world.run(5.0)
    world["n3"].write("photos", "d1/f001", file_of("mine"))
    world.run(20.0)
    assert not world.incidents("divergence"), "of four three must agree, and two are there"
    world["n2"].start()
    world.until(lambda: bool(world.incidents("divergence")), 30)


def hold_n1(world: FakeWorld) -> HoldView:
    delete(world, "n1", 160)
    commit(world, "n1")
    return the_hold(world)


def test_the_node_is_told_of_its_hold_and_again_when_it_dials() -> None:
    world = writing(rules=replace(WARM, pause_writer=True))
    hold = hold_n1(world)
    told = wire.Hold(hold.id, "photos", "deleted_share", hold.reason, True, False)
    world.run(0.1)
    assert world.sent("n1", wire.Hold) == [told]
    world["n1"].drop(1.0)
    world.run(3.0)
    assert world.sent("n1", wire.Hold) == [told, told]
    assert world.state("n1") == "held"


def test_what_the_node_did_is_shown_and_stands_in_the_timeline() -> None:
    world = writing()
    hold = hold_n1(world)
    world["n1"]._say(wire.HoldAnswer(hold.id, "paused php (pid 4711)"))
    assert look(world, hold.id).reactions == ("paused php (pid 4711)",)
    assert any("paused php" in one.text for one in world.incidents("runaway")[0].timeline)


def test_a_held_node_is_given_nothing_and_gives_nothing() -> None:
    world = writing()
    hold_n1(world)
    world.run(1.0)
    before = dict(world["n1"].disk["photos"])
    world["n2"].put("photos", "d0/later", file_of("later"))
    world.run(15.0)
    assert key_of("d0/later") in world["n3"].disk["photos"]
    assert world["n1"].disk["photos"] == before
    assert world.state("n1") == "held"
    pushes = [one for node in ("n3", "n4") for one in world.sent(node, wire.Push)]
    assert pushes
    assert not any("n1" in one.sources for one in pushes)  # type: ignore[attr-defined]
    assert world.ask(ResyncAsked("n1", None, False)) == "409 held"
    assert world.fleet.lb_status(world.now(), "n1") == 200


def test_a_hold_survives_a_restart_of_the_coordinator() -> None:
    world = writing()
    hold = hold_n1(world)
    world.run(1.0)
    world.restart()
    world.run(20.0)
    assert the_hold(world).id == hold.id
    assert world.state("n1") == "held"
    assert truth(world) == TREE
    world["n1"].disk["photos"][key_of("d0/more")] = file_of("more")
    commit(world, "n1")
    world.run(5.0)
    assert truth(world) == TREE


def test_a_burst_under_observation_is_observed_again_after_a_restart() -> None:
    world = writing()
    world["n1"].disk["photos"][key_of("d0/huge")] = file_of("huge", 3 * GB)
    world.fleet._world.brake.meters.clear()
    commit(world, "n1")
    world.restart()
    world.run(20.0)
    assert the_hold(world).guard == "write_rate"
    assert truth(world) == TREE


def test_changes_that_were_undone_end_the_hold() -> None:
    world = writing()
    hold = hold_n1(world)
    world.run(5.0)
    assert not look(world, hold.id).ends_by_itself
    world["n1"].disk["photos"] = dict(TREE)
    commit(world, "n1")
    world.run(5.0)
    undone = look(world, hold.id)
    assert (undone.state, undone.ends_by_itself) == ("held", True)
    assert undone.advice.startswith("Its cause is gone")
    world.run(40.0)
    assert look(world, hold.id).state == "over"
    assert not look(world, hold.id).ends_by_itself
    assert world.in_rank()
    delete(world, "n1", 160)
    commit(world, "n1")
    assert the_hold(world).id != hold.id, "the guard is armed as before"


def test_a_runaway_whose_file_was_removed_before_it_was_committed_ends_its_hold() -> None:
    world = writing()
    run_away(world, "n1", GB, 5)
    hold = the_hold(world)
    world.run(30.0)
    assert look(world, hold.id).state == "held", "its cause has not been gone for long enough"
    world.run(60.0)
    assert look(world, hold.id).state == "over"
    assert world.in_rank()


def test_a_hold_of_a_node_that_was_removed_is_over() -> None:
    world = writing()
    hold = hold_n1(world)
    nodes = ("n2", "n3", "n4")
    volumes = tuple(replace(one, nodes=nodes, writers=("n2",)) for one in world.config.volumes)
    world.configure(replace(world.config, nodes=nodes, volumes=volumes))
    world.run(61.0)
    assert look(world, hold.id).state == "over"
    brake = world.fleet._world.brake
    assert all(node != "n1" for node, _ in brake.meters)
    assert "n1/photos" not in world.fleet._world.usuals


def test_a_hold_ends_where_a_fence_begins() -> None:
    world = writing()
    hold = hold_n1(world)
    world.ask(QuarantineAsked("n1", "it burns"))
    assert look(world, hold.id).state == "over"
    assert world.state("n1") == "quarantined"
    world.run(5.0)
    assert truth(world) == TREE


# --- decided --------------------------------------------------------------------------------------


def test_what_is_allowed_reaches_everybody_at_once_and_the_guard_stays_on() -> None:
    world = writing()
    hold = hold_n1(world)
    world.run(10.0)
    action = world.ask(AllowAsked(hold.id, 60.0))
    assert getattr(action, "state", action) == "done"
    assert len(truth(world)) == len(TREE) - 160
    assert look(world, hold.id).state == "allowed"
    delete(world, "n1", 250)
    commit(world, "n1")
    world.run(0.2)  # the other guards have a glance at what is more than a handful
    assert len(truth(world)) == len(TREE) - 250, "what goes on with it is allowed, too"
    world.run(30.0)
    assert len(world["n4"].disk["photos"]) == len(TREE) - 250
    world["n1"].disk["photos"][key_of("d0/huge")] = file_of("huge", 3 * GB)
    commit(world, "n1")
    assert the_hold(world).guard == "write_rate", "other guards stay on"


def hold_n1_for_changes(world: FakeWorld) -> HoldView:
    for number in range(210):
        world["n1"].disk["photos"][key_of(f"d{number % 4}/f{number:03}")] = file_of(f"other {number}")
    commit(world, "n1")
    hold = the_hold(world)
    assert hold.guard == "changed_share"
    return hold


def test_who_may_change_many_files_is_held_for_deleting_many_before_one_is_gone_elsewhere() -> None:
    world = writing()
    hold = hold_n1_for_changes(world)
    world.ask(AllowAsked(hold.id, 600.0))
    world.run(20.0)
    assert len(world["n4"].disk["photos"]) == len(TREE)
    for count in (30, 60, 120, 160):
        delete(world, "n1", count)
        commit(world, "n1")
        world.run(0.2)
    assert the_hold(world).guard == "deleted_share"
    world.run(30.0)
    assert len(truth(world)) == len(TREE), "the first of them went while another guard looked away"
    assert len(world["n4"].disk["photos"]) == len(TREE)


def test_who_may_change_many_files_is_held_for_a_flood_before_one_of_it_is_elsewhere() -> None:
    world = writing()
    hold = hold_n1_for_changes(world)
    world.ask(AllowAsked(hold.id, 600.0))
    world.run(20.0)
    for number in range(6):
        world["n1"].disk["photos"][key_of(f"d0/flood{number}")] = file_of(f"flood {number}", 500 * MB)
        commit(world, "n1")
        world.run(0.3)
    assert the_hold(world).guard == "write_rate"
    assert len(truth(world)) == len(TREE), "the first of it went while another guard looked away"


def test_an_allowance_expires_and_the_guard_begins_anew() -> None:
    world = writing()
    hold = hold_n1(world)
    world.ask(AllowAsked(hold.id, 20.0))
    world.run(30.0)
    assert look(world, hold.id).state == "over"
    assert not held(world), "what was allowed is not counted again"
    assert world.in_rank()
    world["n1"].disk["photos"] = {key: value for key, value in TREE.items() if b"\0" not in key}
    commit(world, "n1")
    assert the_hold(world).guard == "deleted_share"


def test_an_allowance_survives_a_restart_and_ends_in_time() -> None:
    world = writing()
    hold = hold_n1(world)
    world.ask(AllowAsked(hold.id, None))
    world.restart()
    world.run(60.0)
    assert look(world, hold.id).state == "allowed"
    world.run(900.0)
    assert look(world, hold.id).state == "over"


@pytest.mark.parametrize("days", [-7, 400])
def test_a_wall_clock_that_jumps_makes_an_allowance_neither_longer_nor_shorter(days: int) -> None:
    """It said when it ends. Minutes that became a week would be a week without that guard."""
    world = writing()
    hold = hold_n1(world)
    world.ask(AllowAsked(hold.id, 60.0))
    world.skew_ms = days * 86_400_000
    world.run(30.0)
    assert look(world, hold.id).state == "allowed"
    world.run(40.0)
    assert look(world, hold.id).state == "over"


def test_what_is_rejected_is_brought_back_verified_and_released() -> None:
    world = writing()
    hold = hold_n1(world)
    world.run(3.0)
    action = world.ask(RejectAsked(hold.id))
    assert getattr(action, "kind", action) == "reject"
    assert world.state("n1") == "quarantined"
    world.until_state("n1", "in_rank", 120.0)
    world.run(1.1)
    got = [one for one in world["n1"].got if isinstance(one, wire.Unhold | wire.Fence | wire.Converge)]
    assert [type(one) for one in got] == [wire.Unhold, wire.Fence, wire.Converge]
    assert world["n1"].disk["photos"] == TREE
    assert truth(world) == TREE
    assert look(world, hold.id).state == "rejected"
    (incident,) = world.incidents("runaway")
    assert incident.state == "closed"
    assert {"fenced", "resynced", "verified", "released"} <= {one.event for one in incident.timeline}
    world.run(60.0)
    assert world.in_rank()


def test_a_reject_says_the_way_out_where_nobody_has_the_last_version_any_more() -> None:
    """A database is written on: what was accepted before the hold is on no disk, and what followed it is rejected."""
    world = writing()
    path = key_of("d1/f201")
    for follower in NODES[1:]:
        world[follower].unmakeable = {path}
    world["n1"].put("photos", "d1/f201", file_of("accepted, and gone when it is fetched"))
    world.run(1.0)
    delete(world, "n1", 160)
    world["n1"].put("photos", "d1/f201", file_of("its successor"))
    hold = the_hold(world)
    world["n1"].unmakeable = {path}
    world.ask(RejectAsked(hold.id))
    world.run(30.0)
    assert world.state("n1") == "resyncing"
    advice = world.view("n1").waiting
    assert " are left. No node, fenced or silent, had the last version of 1 file" in advice
    assert "`closeranks release n1` lets stand what n1 itself has there" in advice
    for node in NODES:
        world[node].unmakeable = set()
    assert not isinstance(world.ask(ReleaseAsked("n1")), str)
    world.until(world.in_rank, 60.0)
    assert truth(world) == TREE | {path: file_of("its successor")}


def test_a_reject_goes_on_after_a_restart() -> None:
    world = writing()
    hold = hold_n1(world)
    world.ask(RejectAsked(hold.id))
    world.run(0.2)
    world.restart()
    world.until_state("n1", "in_rank", 120.0)
    world.run(2.0)
    assert world["n1"].disk["photos"] == TREE
    assert not world.incidents("runaway", "open")


def test_decisions_that_can_not_be_made_are_refused_with_a_reason() -> None:
    world = writing()
    hold = hold_n1(world)
    assert world.ask(AllowAsked("h-000099", None)) == "404 unknown_hold"
    assert world.ask(RejectAsked("h-000099")) == "404 unknown_hold"
    assert world.ask(AllowAsked(hold.id, 0.0)) == "400 bad_seconds"
    assert world.ask(AllowAsked(hold.id, float("nan"))) == "400 bad_seconds"
    world.ask(RejectAsked(hold.id))
    assert world.ask(RejectAsked(hold.id)) == "409 not_held"
    assert world.ask(AllowAsked(hold.id, None)) == "409 not_held"


def test_guards_that_are_off_hold_nothing() -> None:
    world = writing(rules=GuardRules(enabled=False))
    delete(world, "n1", 300)
    commit(world, "n1")
    assert len(truth(world)) == len(TREE) - 300
    for step in range(4):
        report(world, "n1", 5 * GB, disk=disk(50 * GB - step * GB, 100.0))
        world.run(1.0)
    assert not held(world)


# --- bounds ---------------------------------------------------------------------------------------


def test_each_pending_change_is_counted_once_however_often_it_is_asked_about() -> None:
    world = writing()
    world["n1"].disk["photos"][key_of("d0/video")] = file_of("video", 900 * MB)
    commit(world, "n1")
    for _ in range(50):
        world.event(Tick())
    meter = world.fleet._world.brake.meters["n1", "photos"]
    assert meter.committed_total == [1, 900 * MB]


def test_the_same_deletion_after_it_was_undone_by_others_is_a_new_one() -> None:
    world = writing()
    hold = hold_n1(world)
    world.ask(AllowAsked(hold.id, 1.0))
    world.run(10.0)
    for number in range(160):
        path = f"d{number % 4}/f{number:03}"
        world["n2"].disk["photos"][key_of(path)] = TREE[key_of(path)]
    commit(world, "n2")
    world.run(20.0)
    assert world["n1"].disk["photos"] == TREE
    delete(world, "n1", 160)
    commit(world, "n1")
    assert the_hold(world).guard == "deleted_share"


def test_the_usual_is_learned_persisted_and_taken_up_again() -> None:
    world = writing()
    for _ in range(200):
        world.run(5.0)
        report(world, "n1", 5 * MB, 1)
    world.restart()
    usual = world.fleet._world.usuals["n1/photos"]
    assert 2 <= len(usual.buckets) <= 4
    assert usual.bytes() == pytest.approx(300 * MB, rel=0.3)


def test_a_trip_is_counted_by_its_guard() -> None:
    world = writing()
    hold_n1(world)
    counted = [one for one in world.observed if one.metric == "closeranks_guard_holds_total"]
    assert [(one.value, one.labels) for one in counted] == [(1, (("guard", "deleted_share"),))]


@pytest.mark.parametrize("seed", range(6))
def test_what_was_held_never_reaches_the_truth_before_it_is_allowed(seed: int) -> None:
    """Whatever happens meanwhile: more writes, other writers, restarts, lost connections, reports."""
    rng = random.Random(seed)
    world = writing("any-writer" if seed % 2 else "writers")
    evil = {file_of(f"evil {number}") for number in range(250)}
    leaked: list[float] = []
    world.after_step.append(
        lambda event, step: leaked.append(world.mono) if evil & set(truth(world).values()) else None
    )
    for number in range(250):
        world["n1"].disk["photos"][key_of(f"d{number % 4}/f{number:03}")] = file_of(f"evil {number}")
    commit(world, "n1")
    hold = the_hold(world)
    for turn in range(25):
        match rng.randrange(6):
            case 0:
                world.restart(rng.uniform(0.1, 3.0))
            case 1:
                world["n1"].drop(rng.uniform(0.1, 2.0))
            case 2:
                world["n2"].disk["photos"][key_of(f"d1/good{turn}")] = file_of(f"good {turn}")
                commit(world, "n2")
            case 3:
                world["n1"].disk["photos"][key_of(f"d2/more{turn}")] = file_of(f"evil {rng.randrange(250)}")
                commit(world, "n1")
            case 4:
                report(world, "n1", rng.randrange(GB), 5, pending=rng.randrange(2))
            case _:
                world["n1"].disk["photos"].pop(key_of(f"d{rng.randrange(4)}/f{rng.randrange(250):03}"), None)
        world.run(rng.uniform(0.0, 4.0))
    world.run(5.0)
    assert not leaked
    assert look(world, hold.id).state == "held"
    assert not any(evil & set(world[node].disk["photos"].values()) for node in ("n2", "n3", "n4"))
    world.after_step.clear()
    world.ask(AllowAsked(hold.id, 300.0))
    world.until(lambda: not held(world) and world.in_rank(), 120.0)
    assert evil & set(world["n4"].disk["photos"].values())


# --- several volumes ------------------------------------------------------------------------------


def two_volumes() -> FakeWorld:
    volumes = [
        volume_config(name, policy="writers", writers=("n1", "n2"), guards=WARM)
        for name in ("docs", "photos")
    ]
    world = FakeWorld(NODES, volumes, {"docs": TREE, "photos": TREE})
    for agent in world.agents.values():
        agent.watches, agent.scan_interval_s = True, 5.0
    return world.started()


def test_a_hold_on_one_volume_leaves_the_others_alone() -> None:
    world = two_volumes()
    hold = hold_n1(world)
    assert hold.volumes == ("photos",)
    world["n1"].disk["docs"][key_of("d0/mine")] = file_of("mine")
    world["n1"]._stream("docs", "watch")
    world["n2"].disk["docs"][key_of("d0/theirs")] = file_of("theirs")
    world["n2"]._stream("docs", "watch")
    world.run(10.0)
    assert world.state("n1") == "held"
    assert key_of("d0/mine") in world["n4"].disk["docs"]
    assert key_of("d0/theirs") in world["n1"].disk["docs"]
    assert truth(world) == TREE


def test_a_reject_sets_nothing_aside_on_volumes_that_were_not_held() -> None:
    world = two_volumes()
    hold = hold_n1(world)
    world.ask(RejectAsked(hold.id))
    world["n1"].disk["docs"][key_of("d0/mine")] = file_of("mine")
    world["n1"]._stream("docs", "watch")
    world.until_state("n1", "in_rank", 120.0)
    world.run(10.0)
    assert world["n1"].disk["photos"] == TREE
    assert all(key_of("d0/mine") in world[node].disk["docs"] for node in NODES)
    assert {getattr(one, "volume", "") for one in world.sent("n1", wire.Converge)} == {"photos"}


def test_a_full_disk_holds_the_volumes_on_it() -> None:
    world = two_volumes()
    for step in range(4):
        report(world, "n1", files=0, disk=disk(50 * GB - step * GB, 500.0, ("photos",)))
        world.run(1.0)
    assert the_hold(world).volumes == ("photos",)
    world["n1"].disk["docs"][key_of("d0/mine")] = file_of("mine")
    world["n1"]._stream("docs", "watch")
    world.run(10.0)
    assert key_of("d0/mine") in world["n4"].disk["docs"]


def test_what_had_been_merged_before_is_told_and_the_figures_are_those_of_now() -> None:
    world = writing()
    delete(world, "n1", 60)
    commit(world, "n1")
    world.run(3.0)
    assert len(truth(world)) == len(TREE) - 60
    delete(world, "n1", 200)
    commit(world, "n1")
    hold = the_hold(world)
    assert "200 of 404 paths" in hold.reason
    (incident,) = world.incidents("runaway")
    assert "60 changes of n1 had been merged" in incident.advice
    assert "Nothing of it has reached" not in incident.advice
    assert hold.merged_changes == 60
    delete(world, "n1", 210)
    commit(world, "n1")
    world.run(10.0)
    assert look(world, hold.id).paths == hold.paths + 10
    assert look(world, hold.id).reason != hold.reason
    world.ask(AllowAsked(hold.id, 60.0))
    (allowed,) = world.fleet.fleet_view(world.now()).allowed
    assert (allowed.id, allowed.state) == (hold.id, "allowed")


def test_a_reject_says_in_the_end_that_what_had_got_through_before_is_still_there() -> None:
    """The operator was told that the node is brought back, while the first links of many lay on every node."""
    world = writing()
    delete(world, "n1", 60)
    commit(world, "n1")
    world.run(3.0)
    delete(world, "n1", 200)
    commit(world, "n1")
    hold = the_hold(world)
    world.ask(RejectAsked(hold.id))
    world.run(60.0)
    assert look(world, hold.id).state == "rejected"
    assert "60 changes of n1 from the minutes before" in look(world, hold.id).advice
    (incident,) = world.incidents("runaway")
    assert "60 changes of n1 from the minutes before" in incident.timeline[-1].text
    assert "60 changes of n1 had been merged in the minutes before" in incident.advice
