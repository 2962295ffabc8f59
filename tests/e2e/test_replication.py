"""What is written on a writer comes to every replica, whoever writes and however; trees are compared from outside.

No scan helps within the limits of these tests (scan_interval_s is a minute): what arrives was seen by a watcher and
pushed.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from fleet import CountingProxy, Fleet, Flood, MakeFleet, Reader, compare_trees, replicated
from fleet.reader import number_of, versioned
from fleet.scribes import SCRIBES, sparse

pytestmark = pytest.mark.e2e

TRACK = ["mode", "owner", "mtime", "xattrs"]


def _started(make_fleet: MakeFleet, nodes: int = 3, *writers: str, **settings: object) -> Fleet:
    fleet = make_fleet(nodes=nodes, volumes=[replicated(*(writers or ("node-01",)), **settings)])
    fleet.start()
    fleet.wait_in_rank()
    return fleet


def _nobody_is_blamed(fleet: Fleet) -> None:
    assert [f"{i['kind']} {i['node']}: {i['timeline'][0]['text']}" for i in fleet.api.incidents()] == []


@pytest.mark.parametrize("seed", [1, 2])
def test_every_kind_of_writer_reaches_every_replica(make_fleet: MakeFleet, seed: int) -> None:
    fleet = _started(make_fleet, 3)
    rng = random.Random(seed)
    for scribe in rng.sample(SCRIBES, len(SCRIBES)):
        scribe(fleet[0].path(), rng)
        time.sleep(rng.uniform(0, 0.3))  # some before the last has arrived, some after
    fleet.wait_equal(fleet[0])
    _nobody_is_blamed(fleet)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="owners are root's to give")
def test_owners_times_and_xattrs_travel_where_they_are_tracked(make_fleet: MakeFleet) -> None:
    fleet = _started(make_fleet, 3, extra={"track": TRACK})
    rng = random.Random(3)
    for scribe in SCRIBES:
        scribe(fleet[0].path(), rng)
    fleet.wait_equal(fleet[0], track=TRACK)
    _nobody_is_blamed(fleet)


def test_a_sparse_file_stays_sparse(make_fleet: MakeFleet) -> None:
    fleet = _started(make_fleet, 2)
    sparse(fleet[0].path(), random.Random(4))
    fleet.wait_equal(fleet[0])
    held = (fleet[1].path() / "sparse.bin").stat()
    assert held.st_size == 40 << 20
    assert held.st_blocks * 512 < 6 << 20


def test_a_rename_moves_no_content(make_fleet: MakeFleet) -> None:
    fleet = _started(make_fleet, 2)
    served = fleet[0].served_bytes
    before = served()
    (fleet[0].path() / "large.bin").rename(fleet[0].path() / "renamed.bin")
    shutil.copyfile(fleet[0].path() / "renamed.bin", fleet[0].path() / "copied.bin")
    fleet.wait_equal(fleet[0])
    assert served() - before < 100_000, "3 MB are on the replica's disk already"


def test_a_replica_that_slept_through_everything_comes_to_the_same(make_fleet: MakeFleet) -> None:
    fleet = _started(make_fleet, 4)
    asleep = fleet[3]
    asleep.daemon.stop()
    rng = random.Random(5)
    for scribe in SCRIBES:
        scribe(fleet[0].path(), rng)
    shutil.rmtree(fleet[0].path() / "dir-4")
    (fleet[0].path() / "empty file").unlink()
    asleep.start()
    fleet.wait_equal(fleet[0])
    assert not (asleep.path() / "dir-4").exists(), "deleted stays deleted"
    assert not (asleep.path() / "empty file").exists()
    assert fleet.accused() == set()


def test_what_a_sleeper_brings_back_from_before_a_delete_is_not_a_new_file(make_fleet: MakeFleet) -> None:
    """Its agent's own memory of the volume is gone too, and it has the deleted file under its old bytes."""
    fleet = _started(make_fleet, 3)
    asleep = fleet[2]
    asleep.daemon.kill()
    (fleet[0].path() / "large.bin").unlink()
    shutil.rmtree(asleep.state_dir)
    fleet.wait("the delete has reached the other", lambda: not (fleet[1].path() / "large.bin").exists())
    fleet.wait_state(asleep, "unreachable")
    time.sleep(
        11
    )  # a fresh state directory is another agent; it is let in when the first has been gone for 10 s
    asleep.start()
    fleet.wait_equal(fleet[0])
    assert not (fleet[0].path() / "large.bin").exists()
    assert not (asleep.path() / "large.bin").exists()


def test_a_machine_that_is_put_back_to_an_image_brings_no_old_version_back(
    make_fleet: MakeFleet, tmp_path: Path
) -> None:
    """Disk and agent together, as a snapshot of a virtual machine has them: it knows of nothing that came since."""
    names = ("node-01", "node-02", "node-03")
    fleet = _started(make_fleet, 3, *names)
    machine, changed = fleet[2], Path("dir-1", "file-001.bin")
    machine.daemon.stop()
    shutil.copytree(machine.state_dir, tmp_path / "state")
    shutil.copytree(machine.path(), tmp_path / "tree", symlinks=True)
    machine.start()
    fleet.wait_in_rank()
    (fleet[0].path() / changed).write_bytes(b"newer")
    (fleet[0].path() / "large.bin").unlink()
    (machine.path() / "new.bin").write_bytes(b"of its own, on all of them")
    fleet.wait_equal(fleet[0])
    machine.daemon.kill()
    shutil.rmtree(machine.state_dir)
    shutil.copytree(tmp_path / "state", machine.state_dir)
    for one in machine.path().iterdir():  # the volume's root stays what it is
        shutil.rmtree(one) if one.is_dir() else one.unlink()
    shutil.copytree(tmp_path / "tree", machine.path(), symlinks=True, dirs_exist_ok=True)
    machine.start()
    fleet.wait_equal(fleet[0])
    assert (machine.path() / changed).read_bytes() == b"newer"
    assert (machine.path() / "new.bin").exists()
    assert not (fleet[0].path() / "large.bin").exists()
    (told,) = fleet.api.incidents()
    assert (told["kind"], told["node"], told["state"]) == ("put_back", machine.name, "closed")
    listed = json.loads(fleet.run("trash", "list", machine.name, "--incident", told["id"], "--json").stdout)
    assert {item["path"] for item in listed["items"]} == {str(changed), "large.bin"}


@pytest.mark.parametrize("mounted", ["at once", "later"])
def test_a_state_directory_that_alone_is_put_back_loses_no_change(
    make_fleet: MakeFleet, tmp_path: Path, mounted: str
) -> None:
    """The files are as new as ever: what was written there and reached nobody goes to the others.

    Who has put back a system's disk may mount the other one when the agent runs already: nothing is told before.
    """
    names = ("node-01", "node-02", "node-03")
    fleet = _started(make_fleet, 3, *names)
    machine, changed = fleet[2], Path("dir-1", "file-001.bin")
    machine.daemon.stop()
    shutil.copytree(machine.state_dir, tmp_path / "state")
    machine.start()
    fleet.wait_in_rank()
    (fleet[0].path() / changed).write_bytes(b"newer")
    (fleet[0].path() / "large.bin").unlink()
    fleet.wait_equal(fleet[0])
    machine.daemon.kill()
    (machine.path() / "new.bin").write_bytes(b"written while nobody watched")
    (machine.path() / changed).write_bytes(b"newest")
    shutil.rmtree(machine.state_dir)
    shutil.copytree(tmp_path / "state", machine.state_dir)
    if mounted == "later":
        machine.path().rename(tmp_path / "unmounted")
        machine.start()
        fleet.wait_state(machine, "unreachable")
        (tmp_path / "unmounted").rename(machine.path())
    else:
        machine.start()
    fleet.wait("its changes are on the others", lambda: (fleet[0].path() / "new.bin").exists(), timeout_s=60)
    fleet.wait_equal(machine)
    assert (fleet[0].path() / changed).read_bytes() == b"newest"
    assert not (fleet[0].path() / "large.bin").exists()
    assert {one["kind"] for one in fleet.api.incidents()} == ({"outage"} if mounted == "later" else set())


@pytest.mark.parametrize("what", ["older", "empty"])
def test_a_writers_tree_that_was_replaced_brings_no_old_version_and_deletes_nothing(
    make_fleet: MakeFleet, tmp_path: Path, what: str
) -> None:
    """By the agent's own advice: stop it, remove the volume's index, start it again. Nobody has written anything."""
    fleet = _started(make_fleet, 3, "node-01", guards={"enabled": False})
    machine, changed = fleet[0], Path("dir-1", "file-001.bin")
    if what == "older":
        shutil.copytree(
            machine.path(), tmp_path / "older", symlinks=True, ignore=shutil.ignore_patterns(".closeranks")
        )
    else:
        (tmp_path / "older").mkdir()
    (machine.path() / changed).write_bytes(b"newest")
    (machine.path() / "large.bin").unlink()
    (machine.path() / "new.bin").write_bytes(b"came later")
    fleet.wait_equal(fleet[1])
    machine.daemon.stop()
    machine.path().rename(tmp_path / "away")
    shutil.copytree(tmp_path / "older", machine.path(), symlinks=True)
    machine.start()
    told = fleet.wait("it says why", lambda: fleet.api.node(machine.name)["volumes"][0]["problem"])
    assert fleet.api.node(machine.name)["state"] == "unreachable"
    index = machine.state_dir / "volume-photos.sqlite"
    assert str(index) in told["message"]
    machine.daemon.stop()
    index.unlink()
    machine.start()
    fleet.wait_equal(fleet[1], timeout_s=60)
    for node in fleet.nodes.values():
        assert (node.path() / changed).read_bytes() == b"newest"
        assert (node.path() / "new.bin").read_bytes() == b"came later"
        assert not (node.path() / "large.bin").exists()
    _nobody_is_blamed(fleet)


def test_a_replicas_own_change_is_divergence_and_is_undone(make_fleet: MakeFleet) -> None:
    fleet = _started(make_fleet, 3)
    replica = fleet[2]
    (replica.path() / "large.bin").write_bytes(b"not a writer's")
    (replica.path() / "extra.bin").write_bytes(b"not a writer's either")
    incident = fleet.wait_incident(kind="divergence", node=replica.name, state="closed")
    assert {path["path"] for path in incident["paths"]} == {"large.bin", "extra.bin"}
    fleet.wait_in_rank()
    fleet.assert_equal_trees()
    assert fleet.accused() == {replica.name}
    listed = fleet.run("trash", "list", replica.name, "--json")
    assert "extra.bin" in listed.stdout, "nothing is lost"


def test_a_writer_may_write_while_a_replica_is_brought_back(make_fleet: MakeFleet) -> None:
    fleet = _started(make_fleet, 3)
    (fleet[1].path() / "dir-1" / "file-001.bin").write_bytes(b"a replica's own idea")
    for number in range(60):
        (fleet[0].path() / f"meanwhile-{number}.bin").write_bytes(os.urandom(4000))
        time.sleep(0.03)
    fleet.wait_incident(kind="divergence", node="node-02", state="closed")
    fleet.wait_equal(fleet[0])
    assert fleet.accused() == {"node-02"}


def test_a_reader_of_a_replica_sees_whole_versions_and_never_an_older_one(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=3, volumes=[replicated("node-01")])
    names = [f"versioned-{number}.bin" for number in range(4)]
    for name in names:
        (fleet.pristine() / name).write_bytes(versioned(1, b"first"))
    fleet.start()
    fleet.wait_in_rank()
    replicas = [fleet[n].path() / name for n in (1, 2) for name in names]
    arrived: dict[Path, set[int | None]] = {path: set() for path in replicas}
    rng = random.Random(6)
    with ExitStack() as ended:
        readers = [ended.enter_context(Reader(*replicas[:4])), ended.enter_context(Reader(*replicas[4:]))]
        begun = time.monotonic()
        number = 1
        # Six seconds, and on until versions enough have come to each name that there was something to see.
        while time.monotonic() < begun + 6 or min(map(len, arrived.values())) < 5:
            assert time.monotonic() < begun + 60, arrived
            number += 1
            for name in names:
                aside = fleet[0].path() / f".{name}.new"
                aside.write_bytes(versioned(number, rng.randbytes(rng.choice((10, 30_000, 1_300_000)))))
                aside.rename(fleet[0].path() / name)
            time.sleep(rng.uniform(0, 0.2))
            for path, versions in arrived.items():
                versions.add(number_of(path.read_bytes()))
        fleet.wait_equal(fleet[0])
        for reader in readers:
            seen = reader.stop()
            assert (seen["torn"], seen["missing"], seen["back"]) == (0, 0, 0), seen
            assert seen["versions"] > 3, seen


def _replaced(path: Path, content: bytes) -> None:
    aside = path.with_suffix(".new")
    aside.write_bytes(content)
    aside.rename(path)


def _rewritten(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        assert os.pwrite(descriptor, content, 0) == len(content)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("write", [_replaced, _rewritten])
def test_a_long_file_that_never_rests_comes_in_whole_versions(
    make_fleet: MakeFleet, write: Callable[[Path, bytes], None]
) -> None:
    """Each 20 ms another mebibyte: whatever a replica is told of is gone from the writer's disk when it asks."""
    fleet = _started(make_fleet, 3)
    rng, stop = random.Random(11), threading.Event()
    bodies = [rng.randbytes(1_300_000) for _ in range(4)]

    def never_rest() -> None:
        for number in itertools.count(1):
            if stop.is_set():
                return
            write(fleet[0].path() / "hot.bin", versioned(number, bodies[number % len(bodies)]))
            time.sleep(0.02)

    seen: dict[int, set[int | None]] = {1: set(), 2: set()}

    def look() -> dict[int, int]:
        for node, numbers in seen.items():
            path = fleet[node].path() / "hot.bin"
            if path.exists():
                numbers.add(number_of(path.read_bytes()))
        return {node: len(numbers) for node, numbers in seen.items()}

    writer = threading.Thread(target=never_rest)
    writer.start()
    try:
        fleet.wait("versions come while it goes on", look, lambda found: min(found.values()) >= 4)
    finally:
        stop.set()
        writer.join()
    fleet.wait_equal(fleet[0])
    assert None not in seen[1] | seen[2], "never a part of a version, nor two mixed"
    _nobody_is_blamed(fleet)


@pytest.mark.parametrize("victim", ["writer", "replica", "coordinator"])
def test_a_kill_in_the_middle_loses_nothing(make_fleet: MakeFleet, victim: str) -> None:
    fleet = _started(make_fleet, 3)
    rng = random.Random(victim)
    flood = Flood(fleet[0].path(), fleet.base / "flood.log", "small", size=3000, rate=300, seconds=5)
    daemon = {"writer": fleet[0].daemon, "replica": fleet[1].daemon, "coordinator": fleet.coordinator}[victim]
    for _ in range(2):
        time.sleep(rng.uniform(0.5, 1.5))
        daemon.kill()
        time.sleep(rng.uniform(0, 0.5))
        if victim == "coordinator":
            fleet.start_coordinator()
        else:
            fleet[0 if victim == "writer" else 1].start()
    flood.wait(30)
    fleet.wait_equal(fleet[0], timeout_s=60)
    assert fleet.accused() == set()


def _both_write(first: Path, second: Path) -> None:
    """On each side: a file of its own, a change of a file of its own, a delete, and the same path differently."""
    (first / "from the first.bin").write_bytes(b"1" * 5000)
    (first / "dir-1" / "file-001.bin").write_bytes(b"changed by the first")
    (first / "dir-0" / "deep" / "er" / "file-000.bin").unlink()
    (second / "from the second.bin").write_bytes(b"2" * 5000)
    (second / "dir-2" / "file-002.bin").write_bytes(b"changed by the second")
    (second / "empty file").unlink()
    (second / "new").mkdir()
    (second / "new" / "below").write_bytes(b"in a new directory")
    (first / "large.bin").write_bytes(b"the first writer's version")
    (second / "large.bin").write_bytes(b"the second writer's version")


def _merged(fleet: Fleet) -> None:
    """Both sides' changes are everywhere; of the path that both changed, both versions are, one under its own name."""
    tree = fleet[2].path()
    assert (tree / "from the first.bin").read_bytes() == b"1" * 5000
    assert (tree / "from the second.bin").read_bytes() == b"2" * 5000
    assert (tree / "dir-1" / "file-001.bin").read_bytes() == b"changed by the first"
    assert (tree / "dir-2" / "file-002.bin").read_bytes() == b"changed by the second"
    assert (tree / "new" / "below").read_bytes() == b"in a new directory"
    assert not (tree / "dir-0" / "deep" / "er" / "file-000.bin").exists()
    assert not (tree / "empty file").exists()
    found = {
        path.name: path.read_bytes() for path in tree.iterdir() if path.is_file() and "large" in path.name
    }
    versions = {b"the first writer's version", b"the second writer's version"}
    assert set(found.values()) == versions, found
    assert found["large.bin"] in versions
    incident = fleet.wait_incident(kind="conflict")
    told = str(incident["timeline"]) + str(incident["paths"])
    assert "large.bin" in told
    listed = fleet.run("conflicts", "photos")
    assert listed.returncode in (0, 1), listed.stderr
    assert "large.bin" in listed.stdout
    assert fleet.accused() == set(), "a writer is nobody's rogue"


@pytest.mark.parametrize("policy", ["writers", "any-writer"])
def test_two_writers_that_could_not_be_reached_are_merged_path_by_path(
    make_fleet: MakeFleet, policy: str
) -> None:
    writers = ("node-01", "node-02") if policy == "writers" else ()
    fleet = make_fleet(nodes=3, volumes=[replicated(*writers)])
    proxy = CountingProxy(fleet.agents_port)
    for node in (fleet[0], fleet[1]):
        node.coordinator_port = proxy.port
    fleet.start()
    fleet.wait_in_rank()
    proxy.block()
    for node in (fleet[0], fleet[1]):
        fleet.wait_state(node, "unreachable")
    _both_write(fleet[0].path(), fleet[1].path())
    (fleet[2].path() / "large.bin").stat()  # the third has seen neither
    proxy.unblock()
    fleet.wait_equal(fleet[0], timeout_s=60)
    _merged(fleet)
    proxy.close()


@pytest.mark.parametrize("how", ["frozen", "killed"])
def test_a_writer_whose_agent_was_away_merges_what_was_written_meanwhile(
    make_fleet: MakeFleet, how: str
) -> None:
    """Only its agent slept (SIGSTOP) or was down: the programs beside it wrote on."""
    fleet = _started(make_fleet, 3, "node-01", "node-02")
    if how == "frozen":
        fleet[1].daemon.pause()
    else:
        fleet[1].daemon.kill()
    _both_write(fleet[0].path(), fleet[1].path())
    fleet.wait(
        "the first writer's changes are on the third",
        lambda: (fleet[2].path() / "large.bin").read_bytes() == b"the first writer's version",
    )
    if how == "frozen":
        fleet[1].daemon.resume()
    else:
        fleet[1].start()
    fleet.wait_equal(fleet[0], timeout_s=60)
    _merged(fleet)
    assert (fleet[2].path() / "large.bin").read_bytes() == b"the first writer's version", "first wins"


def test_two_writers_in_turn_do_not_conflict(make_fleet: MakeFleet) -> None:
    fleet = _started(make_fleet, 3, "node-01", "node-02")
    for turn in range(6):
        node, other = fleet[turn % 2], fleet[1 - turn % 2]
        body = b"turn %d" % turn
        (node.path() / "shared.txt").write_bytes(body)
        fleet.wait(
            "the other writer has it",
            lambda b=body, o=other: (o.path() / "shared.txt").read_bytes() == b,  # type: ignore[misc]
        )
    fleet.wait_equal(fleet[0])
    _nobody_is_blamed(fleet)


@pytest.mark.parametrize("watch", ["auto", "rescan"])
def test_half_of_a_volume_that_gets_other_names_is_no_deletion(make_fleet: MakeFleet, watch: str) -> None:
    """So much that the old names fill several steps, before any step has a new one."""

    def tree(place: Path) -> None:
        for number in range(6000):
            directory = place / f"{number % 4}"
            directory.mkdir(parents=True, exist_ok=True)
            (directory / f"{number}").write_bytes(b"%d" % number * 10)

    fleet = make_fleet(nodes=2, volumes=[replicated("node-01", scan_interval_s=2.0)], tree=tree)
    for node in fleet.nodes.values():
        node.volume_extra["photos"] = {"watch": watch}
    fleet.start()
    fleet.wait_in_rank()
    for number in range(2):
        (fleet[0].path() / f"{number}").rename(fleet[0].path() / f"renamed {number}")
    fleet.wait("the names are there", (fleet[1].path() / "renamed 1" / "5997").exists, timeout_s=60)
    fleet.wait_equal(fleet[0], timeout_s=60)
    assert fleet.api.held() == []
    _nobody_is_blamed(fleet)


def test_a_rename_storm_and_its_removal_arrive(make_fleet: MakeFleet) -> None:
    """20,000 entries renamed as one directory and one by one; then all of them removed."""
    fleet = _started(make_fleet, 2, guards={"deleted_share": 1.0})
    tree = fleet[0].path()
    flood = Flood(tree, fleet.base / "flood.log", "small", size=64, limit=10_000 * 64)
    flood.wait(60)
    fleet.wait_equal(fleet[0], timeout_s=60)
    for number, place in enumerate(sorted(tree.glob("flood-*"))):
        if number % 2:
            place.rename(tree / f"moved-{number}")
        else:
            for path in sorted(place.iterdir()):
                path.rename(path.with_suffix(".renamed"))
    fleet.wait_equal(fleet[0], timeout_s=60)
    for place in [*tree.glob("flood-*"), *tree.glob("moved-*")]:
        shutil.rmtree(place)
    fleet.wait_equal(fleet[0], timeout_s=60)
    found = compare_trees(fleet.pristine(), {"node-02": str(fleet[1].path())})
    assert found == {"node-02": []}
    _nobody_is_blamed(fleet)


def test_special_bits_that_may_not_be_written_are_withheld_and_nobody_is_late_for_them(
    make_fleet: MakeFleet,
) -> None:
    fleet = _started(make_fleet, 3)
    path = fleet[0].path() / "tool"
    path.write_bytes(b"first")
    path.chmod(0o4755)
    (fleet[0].path() / "shared").mkdir(mode=0o755)
    (fleet[0].path() / "shared").chmod(0o1777)
    replica = fleet[1].path() / "tool"
    fleet.wait("the file is there", replica.exists)
    fleet.wait_in_rank()
    assert replica.stat().st_mode & 0o7777 == 0o755
    path.write_bytes(b"second, and longer")
    path.chmod(0o4755)
    fleet.wait("its next version is there", lambda: replica.read_bytes() == b"second, and longer")
    fleet.wait_in_rank()
    _nobody_is_blamed(fleet)
