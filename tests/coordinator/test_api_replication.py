"""The HTTP API of what replication brings: conflicts, speed, who writes, how nodes are watched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from apifake import FILES, Client, FakeCore, fleet_config, three_nodes, volume_config
from closeranks_coordinator.core.model import FromAgent, RootStored, Tick
from closeranks_proto import messages as wire
from closeranks_proto.paths import key_of

HAND = wire.Hand(4711, "/usr/bin/php", "php x.php", 33, None, "apache2.service", ("1 /sbin/init",), 2, 4096)
MB = 1_000_000


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[FakeCore]:
    volume = replace(volume_config(policy="any-writer"), writers=("node-01", "node-02", "node-03"))
    made = FakeCore(tmp_path, fleet_config(volume))
    await three_nodes(made)
    for _ in range(10):
        await made.step(Tick(), 1.0)
    yield made
    await made.close()


@pytest.fixture
async def client(core: FakeCore) -> AsyncIterator[Client]:
    async with Client(core) as made:
        yield made


async def clash(core: FakeCore, *paths: bytes) -> None:
    """node-01 and node-02 change the same paths, neither knowing of the other."""
    for node in ("node-01", "node-02"):
        await core.give_root(node, FILES | {path: f"of {node}".encode() for path in paths})
    await core.step(Tick(), 1.0)  # what is there already waits for what may follow it


async def test_a_conflict_is_listed_with_both_names(core: FakeCore, client: Client) -> None:
    await clash(core, b"a.jpg")
    (found,) = (await client.json("/api/v1/volumes/photos/conflicts"))["items"]
    assert (found["path"], found["winner"], found["loser"]) == ("a.jpg", "node-01", "node-02")
    assert found["kept_path"] != found["path"]
    assert found["state"] == "open"
    assert (await client.json("/api/v1/volumes/photos"))["conflicts"] == 1
    (incident,) = (await client.json("/api/v1/incidents?kind=conflict"))["items"]
    assert incident["node"] == "node-02"
    assert found["kept_path"] in incident["timeline"][0]["text"]
    status, body, _ = await client.ask("GET", f"/api/v1/incidents/{incident['id']}/report")
    assert status == 200
    assert b"closeranks conflicts photos" in body
    assert b'closeranks_conflicts_open{volume="photos"} 1.0' in (await client.ask("GET", "/metrics"))[1]


async def test_conflicts_page_without_gaps_or_repeats(core: FakeCore, client: Client) -> None:
    names = [b"n%02d" % number for number in range(7)]
    await clash(core, *names)
    seen, cursor = list[str](), ""
    for _ in range(10):
        page = await client.json(f"/api/v1/volumes/photos/conflicts?limit=2{cursor}")
        seen += [one["path"] for one in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert sorted(seen) == [name.decode() for name in names]


async def test_a_volume_says_who_may_write(client: Client) -> None:
    found = await client.json("/api/v1/volumes/photos")
    assert (found["writers"], found["conflicts"]) == (["node-01", "node-02", "node-03"], 0)


async def test_a_node_says_who_wrote_most(core: FakeCore, client: Client) -> None:
    made = core.tree.build(sorted((key_of(path), b"") for path in ()))
    core.unsaved.update(made.pages)
    await core.step(RootStored("node-03", "photos", made.root, "watch", core.mono, (HAND,)))
    (writer,) = (await client.json("/api/v1/nodes/node-03"))["writers"]
    assert (writer["exe"], writer["unit"], writer["files"], writer["bytes"]) == (
        "/usr/bin/php", "apache2.service", 2, 4096,
    )  # fmt: skip


async def test_a_volume_of_a_node_says_how_it_is_watched(core: FakeCore, client: Client) -> None:
    status = wire.VolumeStatus(
        "photos", None, 4, 3, 3, (), 0, 10**9, 10**8, 12, "rescan", "no permission for fanotify", 3, 2
    )
    await core.step(FromAgent("node-03", status))
    (found,) = (await client.json("/api/v1/nodes/node-03"))["volumes"]
    assert [found[key] for key in ("watch", "watch_detail", "watch_dropped", "hard_links")] == [
        "rescan", "no permission for fanotify", 3, 2,
    ]  # fmt: skip


async def post(client: Client, body: object) -> tuple[int, Any]:
    status, found, _ = await client.ask("POST", "/api/v1/speed", body)
    return status, msgspec.json.decode(found)


async def test_speed_is_set_and_taken_back(client: Client) -> None:
    status, found = await post(client, {"node": "node-02", "bytes_s": 20 * MB})
    assert status == 200
    assert found["nodes"][1] == {
        "node": "node-02", "receive_bytes_s": 20 * MB, "serve_bytes_s": 20 * MB, "why": "by hand",
    }  # fmt: skip
    await post(client, {"bytes_s": 40 * MB})
    assert (await client.json("/api/v1/speed"))["fleet_bytes_s"] == 40 * MB
    assert (await client.json("/api/v1/fleet"))["limits"]["node-01"] == (
        "40 MB/s at most (its share of the fleet's 40 MB/s (by hand))"
    )
    await post(client, {"bytes_s": None})
    await post(client, {"node": "node-02", "bytes_s": None})
    found = await client.json("/api/v1/speed")
    assert found["fleet_bytes_s"] is None
    assert {one["receive_bytes_s"] for one in found["nodes"]} == {None}
    assert (await client.json("/api/v1/fleet"))["limits"] == {}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"bytes_s": 1}, 400), ({"bytes_s": -5}, 400), ({"bytes_s": 2**60}, 400), ({"bytes_s": "20M"}, 400),
        ({"bytes_s": MB, "unlimited": True}, 400), ({"node": "node-09", "bytes_s": MB}, 404), ({"speed": 1}, 400),
    ],
)  # fmt: skip
async def test_a_speed_that_can_not_be_is_refused(client: Client, body: object, status: int) -> None:
    found, answer = await post(client, body)
    assert found == status
    assert answer["error"]["message"]
