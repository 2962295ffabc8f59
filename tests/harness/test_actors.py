"""The processes and disks that the tests of replication work with: they must do what they say."""

from __future__ import annotations

import os
import random
import socket
import time
from pathlib import Path

import pytest

from fleet import CountingProxy, Flood, LoopDisk, Reader, compare_trees, copy_tree, small_tree, wait_until
from fleet.reader import number_of, versioned
from fleet.scribes import SCRIBES
from replication.contents import contents, write_by_rename, write_in_place
from replication.contents import number_of as measured_number
from replication.seen import Late, Observer, percentile


def test_owners_times_and_xattrs_are_compared_where_asked(tmp_path: Path) -> None:
    small_tree(tmp_path / "a")
    copy_tree(tmp_path / "a", tmp_path / "b")
    trees = {"b": str(tmp_path / "b")}
    track = ("owner", "mtime", "xattrs")
    assert compare_trees(tmp_path / "a", trees, track=track) == {"b": []}
    os.utime(tmp_path / "b" / "large.bin", ns=(1, 1))
    os.setxattr(tmp_path / "b" / "dir-1", "user.x", b"y")
    assert compare_trees(tmp_path / "a", trees) == {"b": []}
    found = [str(d) for d in compare_trees(tmp_path / "a", trees, track=track)["b"]]
    assert found == ["attributes 'dir-1'", "attributes 'large.bin'"]


@pytest.mark.parametrize("scribe", SCRIBES, ids=lambda scribe: scribe.__name__)
def test_a_scribe_changes_the_tree(tmp_path: Path, scribe: object) -> None:
    assert callable(scribe)
    small_tree(tmp_path / "a")
    small_tree(tmp_path / "b")
    scribe(tmp_path / "b", random.Random(1))
    assert compare_trees(tmp_path / "a", {"b": str(tmp_path / "b")})["b"] != []


def test_a_blocked_proxy_lets_nobody_through() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    proxy = CountingProxy(server.getsockname()[1])
    proxy.block()
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client:
        assert client.recv(1) == b"", "ended at once"
    proxy.unblock()
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client:
        accepted, _ = server.accept()
        client.sendall(b"x")
        assert accepted.recv(1) == b"x"
        accepted.close()
    proxy.close()
    server.close()


def test_a_flood_says_what_it_wrote_and_stops_at_its_limit(tmp_path: Path) -> None:
    for shape, limit in (("grow", 5 << 20), ("large", 25 << 20), ("small", 700 * 1000)):
        place = tmp_path / shape
        place.mkdir()
        flood = Flood(place, tmp_path / f"{shape}.log", shape, limit=limit, size=1000)
        flood.wait(30)
        written = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        assert written == flood.told()[-1]["bytes"] >= limit
        assert flood.written_by(time.monotonic()) == written
        assert flood.written_by(0) <= written


def test_a_paced_flood_keeps_its_pace(tmp_path: Path) -> None:
    began = time.monotonic()
    flood = Flood(tmp_path, tmp_path / "flood.log", "small", size=100, rate=200, seconds=1)
    flood.wait(30)
    assert flood.told()[-1]["files"] == 200
    assert time.monotonic() - began > 0.9


def test_a_reader_tells_whole_versions_from_torn_and_older_ones(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(versioned(5, b"five"))
    assert number_of(path.read_bytes()) == 5
    assert number_of(versioned(6, b"six")[:-1]) is None
    reader = Reader(path)

    def put(data: bytes) -> None:
        (tmp_path / "aside").write_bytes(data)
        (tmp_path / "aside").rename(path)
        time.sleep(0.1)  # long enough to be read

    for data in (versioned(6, b"six"), b"torn", versioned(4, b"an older one"), versioned(7, b"")):
        put(data)
    path.unlink()
    time.sleep(0.1)  # long enough to be missed
    seen = reader.stop()
    assert seen["versions"] >= 3
    assert min(seen["torn"], seen["back"], seen["missing"]) >= 1


def test_the_observer_sees_right_bytes_and_waits_for_all(tmp_path: Path) -> None:
    places = [tmp_path / "one", tmp_path / "two"]
    for place in places:
        place.mkdir()
    assert measured_number(contents(7)) == 7
    assert measured_number(contents(7)[:-1]) is None
    with Observer(places) as observer:

        def both() -> None:
            write_by_rename(places[0], 1)
            write_in_place(places[1], 1)

        taken = observer.timed(1, both, timeout_s=10)
        assert all(0 < each < 10 for each in taken)
        with pytest.raises(Late, match=r"\[1\]"):
            observer.timed(2, lambda: write_by_rename(places[0], 2), timeout_s=0.3)
    assert percentile([3, 1, 2, 4], 0.5) == 2
    assert percentile(list(range(1, 101)), 0.99) == 99


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_loop_disk_is_a_disk_of_its_own(tmp_path: Path) -> None:
    with LoopDisk(tmp_path / "disk", tmp_path / "image", 64 << 20) as disk:
        assert disk.path.stat().st_dev != tmp_path.stat().st_dev
        (disk.path / "file").write_bytes(bytes(1 << 20))
        os.sync()
        assert disk.used_bytes() > 1 << 20
    wait_until("it is gone", lambda: disk.path.stat().st_dev == tmp_path.stat().st_dev)
