"""How fast chunks travel is the operator's to say, also while they do; what is late meanwhile is shown as lag."""

from __future__ import annotations

import os
import struct
import time

import pytest

from fleet import MakeFleet, replicated

pytestmark = pytest.mark.e2e

MB = 1_000_000
ACL_VERSION = 2
USER_OBJECT, USER, GROUP_OBJECT, MASK, OTHER = 1, 2, 4, 16, 32
UNDEFINED = 0xFFFFFFFF


def test_a_limit_slows_a_replica_down_and_taking_it_back_lets_it_go(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=2, volumes=[replicated("node-01")])
    fleet.start()
    fleet.wait_in_rank()
    assert fleet.run("speed", "--bytes-per-second", "1M").returncode == 0
    began = time.monotonic()
    (fleet[0].path() / "large").write_bytes(os.urandom(40 * MB))
    late = fleet.wait(
        "the replica is shown as late",
        lambda: [v for v in fleet.api.node("node-02")["volumes"] if (v["lag_s"] or 0) >= 3],
    )
    assert late[0]["lagging_paths"] == 1
    assert not (fleet[1].path() / "large").exists()
    assert fleet.run("speed", "--bytes-per-second", "none").returncode == 0
    fleet.wait_equal(fleet[0])
    assert time.monotonic() - began < 40, "at the limit it would have taken 40 s"
    fleet.wait_in_rank()
    assert "1.0 MB" not in fleet.run("speed").stdout


def test_a_limit_for_one_node_holds_on_average(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=2, volumes=[replicated("node-01")])
    fleet.start()
    fleet.wait_in_rank()
    assert fleet.run("speed", "--node", "node-02", "--bytes-per-second", "4M").returncode == 0
    began = time.monotonic()
    (fleet[0].path() / "large").write_bytes(os.urandom(16 * MB))
    fleet.wait_equal(fleet[0])
    assert time.monotonic() - began >= 2.5, "16 MB at 4 MB/s, with a second's burst and an early start"


def test_an_access_list_travels_with_its_file(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(nodes=2, volumes=[replicated("node-01", extra={"track": ["mode", "xattrs"]})])
    fleet.start()
    fleet.wait_in_rank()
    entries = [
        (USER_OBJECT, 6, UNDEFINED), (USER, 4, 12345), (GROUP_OBJECT, 4, UNDEFINED),
        (MASK, 4, UNDEFINED), (OTHER, 0, UNDEFINED),
    ]  # fmt: skip
    blob = struct.pack("<I", ACL_VERSION) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    path = fleet[0].path() / "guarded"
    path.write_bytes(b"for one more")
    os.setxattr(path, "system.posix_acl_access", blob)
    other = fleet[1].path() / "guarded"
    fleet.wait("the file is there", other.exists)
    fleet.wait(
        "the list is on the replica",
        lambda: (
            "system.posix_acl_access" in os.listxattr(other)
            and os.getxattr(other, "system.posix_acl_access") == blob
        ),
    )
    (path.parent / "plain").write_bytes(b"")
    fleet.wait_equal(fleet[0])
