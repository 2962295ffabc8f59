"""What guards hold, over HTTP and on the command line."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

import clifake
from apifake import Client, FakeCore, fleet_config, three_nodes, volume_config
from clifake import Fake
from closeranks_coordinator.cli.main import main
from closeranks_coordinator.core.model import FromAgent, Tick
from closeranks_coordinator.core.rules import GuardRules
from closeranks_coordinator.core.shapes import HandView, HoldView
from closeranks_coordinator.core.writers import BEYOND
from closeranks_proto import messages as wire
from closeranks_proto.parts import OUTSIDE

GB = 10**9


async def fill_disk(core: FakeCore, node: str = "node-02") -> None:
    for step in range(4):
        disk = wire.DiskState("/srv", ("photos",), False, 100 * GB, (50 - step) * GB, 1e9, 500.0)
        await core.step(FromAgent(node, wire.Activity(1000, (), (disk,), ())), 1.0)
    await core.step(Tick(), 1.0)


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[FakeCore]:
    made = FakeCore(tmp_path, fleet_config(replace(volume_config(), guards=GuardRules(warm_up_s=0))))
    await three_nodes(made)
    yield made
    await made.close()


@pytest.fixture
async def client(core: FakeCore) -> AsyncIterator[Client]:
    async with Client(core) as made:
        yield made


async def test_what_is_held_is_listed_shown_and_counted(core: FakeCore, client: Client) -> None:
    assert await client.json("/api/v1/held") == {"items": [], "next_cursor": None}
    await fill_disk(core)
    (item,) = (await client.json("/api/v1/held?state=held"))["items"]
    assert (item["id"], item["guard"], item["node"], item["state"]) == (
        "h-000001",
        "disk_full",
        "node-02",
        "held",
    )
    assert item == await client.json("/api/v1/held/h-000001")
    msgspec.convert(item, HoldView)
    assert (await client.json("/api/v1/held?node=node-01"))["items"] == []
    node = await client.json("/api/v1/nodes/node-02")
    assert (node["state"], node["holds"]) == ("held", ["h-000001"])
    _, text, _ = await client.ask("GET", "/metrics")
    assert b'closeranks_guard_holds_total{guard="disk_full"} 1.0' in text
    assert b'closeranks_guard_holds_total{guard="write_rate"} 0.0' in text
    assert b'closeranks_incidents_total{kind="runaway"} 1.0' in text


async def test_it_is_allowed_once_with_an_expiry(core: FakeCore, client: Client) -> None:
    await fill_disk(core)
    status, body, _ = await client.ask("POST", "/api/v1/held/h-000001/allow", {"seconds": 60})
    assert status == 202, body
    action = await client.json(f"/api/v1/actions/{msgspec.json.decode(body)['action']}")
    assert (action["kind"], action["node"], action["state"]) == ("allow", "node-02", "done")
    hold = await client.json("/api/v1/held/h-000001")
    assert hold["state"] == "allowed"
    assert hold["expires_at"] is not None
    await core.step(Tick(), 1.0)
    assert (await client.json("/api/v1/nodes/node-02"))["state"] == "in_rank"


async def test_a_reject_fences_and_can_be_followed(core: FakeCore, client: Client) -> None:
    await fill_disk(core)
    status, body, _ = await client.ask("POST", "/api/v1/held/h-000001/reject", {})
    assert status == 202, body
    action = await client.json(f"/api/v1/actions/{msgspec.json.decode(body)['action']}")
    assert (action["kind"], action["state"]) == ("reject", "running")
    assert (await client.json("/api/v1/nodes/node-02"))["quarantine"]["incident"] == "i-000001"
    status, body, _ = await client.ask("POST", "/api/v1/held/h-000001/reject", {})
    assert (status, msgspec.json.decode(body)["error"]["code"]) == (409, "not_held")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/api/v1/held/h-9", None, 404, "unknown_hold"),
        ("POST", "/api/v1/held/h-9/allow", {}, 404, "unknown_hold"),
        ("POST", "/api/v1/held/h-9/reject", {}, 404, "unknown_hold"),
        ("POST", "/api/v1/held/h-9/allow", {"seconds": 0}, 400, "bad_body"),
        ("POST", "/api/v1/held/h-9/allow", {"hours": 1}, 400, "bad_body"),
        ("POST", "/api/v1/held/h-9/reject", {"seconds": 1}, 400, "bad_body"),
        ("GET", "/api/v1/held?state=none", None, 400, "bad_query"),
    ],
)
async def test_what_can_not_be_is_refused(
    client: Client, method: str, path: str, body: Any, status: int, code: str
) -> None:
    found, answer, _ = await client.ask(method, path, body)
    assert (found, msgspec.json.decode(answer)["error"]["code"]) == (status, code)


# --- the command line -----------------------------------------------------------------------------


def hold(**changes: Any) -> HoldView:
    php = HandView(
        4711, "/usr/bin/php", "php -f /srv/site/cron.php", 33, None, "apache2", (), 3, 41 * GB, None, ""
    )
    values: dict[str, Any] = {
        "id": "h-000001", "guard": "write_rate", "node": "n2", "volume": "photos", "state": "held",
        "since": "2025-11-22T15:56:00.000Z", "expires_at": None, "reason": "n2 wrote 41 GB in 6 min",
        "advice": "", "paths": 3, "bytes": 41 * GB, "incident": "i-000001", "writers": (php,),
        "reactions": ("paused php (pid 4711)",),
    }  # fmt: skip
    return HoldView(**(values | changes))


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    with clifake.serving(Fake()) as fake:
        monkeypatch.setenv("CLOSERANKS_URL", fake.url)
        yield fake


def test_held_accuses_nobody_outside_a_full_disk_and_says_what_a_reject_needs_first(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    tar = HandView(99, "/usr/bin/tar", "tar x", 0, None, "cron", (), 0, GB, None, f"{OUTSIDE}, on some disk")
    api.routes["GET /api/v1/held"] = clifake.page([hold(guard="disk_full", writers=(tar,))])
    assert main(["held"]) == 1
    out = capsys.readouterr().out
    assert (
        "  maybe /usr/bin/tar, pid 99, unit cron, outside the volumes (it may have been to another disk): 0 files, "
        in out
    )
    assert "  by " not in out
    assert (
        "  first What does not fit into the trash (by default a tenth of the disk) must be removed by hand on n2"
        in out
    )


def test_held_says_what_by_whom_and_what_to_type(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes["GET /api/v1/held"] = clifake.page([hold()])
    assert main(["held"]) == 1
    out = capsys.readouterr().out
    by = "by    /usr/bin/php (script /srv/site/cron.php), pid 4711, unit apache2: 3 files, "
    for part in ("n2 wrote 41 GB in 6 min", by, "paused php", "closeranks allow h-000001",
                 "closeranks reject h-000001"):  # fmt: skip
        assert part in out
    assert api.requests[0].query["state"] == "held"


def test_held_says_of_how_many_files_no_writer_was_looked_for(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    more = HandView(0, "", "", None, None, "", (), 15_000, 0, None, BEYOND)
    api.routes["GET /api/v1/held"] = clifake.page([hold(writers=(*hold().writers, more))])
    assert main(["held"]) == 1
    out = capsys.readouterr().out
    assert f"  and   15000 more files: {BEYOND}\n" in out, out


def test_nothing_held_exits_0_and_what_is_over_is_shown_on_demand(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    api.routes["GET /api/v1/held"] = clifake.page([])
    assert main(["held"]) == 0
    assert "Nothing is held." in capsys.readouterr().out
    api.routes["GET /api/v1/held"] = clifake.page([hold(state="over")])
    assert main(["held", "--all"]) == 0
    assert "over" in capsys.readouterr().out
    assert "state" not in api.requests[-1].query


def test_what_ends_by_itself_asks_nobody_to_decide(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes["GET /api/v1/held"] = clifake.page([hold(ends_by_itself=True)])
    assert main(["held"]) == 1
    out = capsys.readouterr().out
    assert "its cause is gone: it ends by itself" in out
    assert "closeranks reject" not in out


def test_a_full_disk_with_nothing_kept_back_asks_for_room_alone(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    api.routes["GET /api/v1/held"] = clifake.page([hold(guard="disk_full", wants_room=True)])
    assert main(["held"]) == 1
    out = capsys.readouterr().out
    assert "next  on n2: free some room on the disk that is named there" in out
    assert "closeranks allow" not in out
    assert "closeranks reject" not in out


def test_what_a_reject_does_not_undo_is_said_beside_it(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes["GET /api/v1/held"] = clifake.page([hold(merged_changes=157)])
    assert main(["held"]) == 1
    assert "note  157 changes of n2 from the minutes before were let through" in capsys.readouterr().out


def test_held_as_json_is_the_answer_unchanged(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    body = msgspec.json.encode(clifake.page([hold()]))
    api.routes["GET /api/v1/held"] = body
    assert main(["held", "--json"]) == 1
    assert capsys.readouterr().out.encode() == body + b"\n"


@pytest.mark.parametrize(
    ("words", "route", "body"),
    [
        (["allow", "h-000001"], "POST /api/v1/held/h-000001/allow", {}),
        (["allow", "h-000001", "--for", "60"], "POST /api/v1/held/h-000001/allow", {"seconds": 60.0}),
        (["reject", "h-000001"], "POST /api/v1/held/h-000001/reject", {}),
    ],
)
def test_decisions_are_sent(
    api: Fake, capsys: pytest.CaptureFixture[str], words: list[str], route: str, body: dict[str, Any]
) -> None:
    api.routes[route] = (202, {"action": "a-000001"})
    assert main(words) == 0
    assert api.requests[-1].body == body
    assert "accepted (action a-000001)" in capsys.readouterr().out


@pytest.mark.parametrize("seconds", ["soon", "0", "nan", "1e12"])
def test_an_expiry_that_is_none_is_refused_before_asking(
    api: Fake, capsys: pytest.CaptureFixture[str], seconds: str
) -> None:
    assert main(["allow", "h-000001", "--for", seconds]) == 2
    assert "not a number of seconds from 1 to" in capsys.readouterr().err
    assert not api.requests


def test_status_shows_a_held_node_and_what_to_type(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    held = clifake.node("n2", "held", holds=("h-000001",))
    api.routes["GET /api/v1/fleet"] = clifake.fleet([clifake.node("n1"), held])
    told = clifake.incident(kind="runaway", summary="n2 wrote 41 GB in 6 min")
    api.routes["GET /api/v1/incidents"] = clifake.page([told])
    assert main(["status"]) == 1
    out = capsys.readouterr().out
    for part in ("n2 wrote 41 GB in 6 min", "closeranks allow h-000001", "closeranks reject h-000001"):
        assert part in out


def test_running_allowances_are_shown_with_their_end(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    allowed = hold(state="allowed", expires_at="2025-11-22T16:11:00.000Z", volumes=("photos",))
    until = "until 2025-11-22T16:11:00.000Z write_rate does not hold n2 on photos again"
    api.routes["GET /api/v1/held"] = clifake.page([allowed])
    assert main(["held", "--all"]) == 0
    assert until in capsys.readouterr().out
    assert main(["held"]) == 0
    assert capsys.readouterr().out.count(until) == 1
    api.routes["GET /api/v1/fleet"] = clifake.fleet([clifake.node("n1")], allowed=(allowed,))
    main(["status"])
    assert until in capsys.readouterr().out


def test_the_commands_are_completed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    out = capsys.readouterr().out
    assert all(f'" {verb}"' in out for verb in ("held", "allow", "reject"))
