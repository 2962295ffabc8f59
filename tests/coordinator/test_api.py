"""The HTTP API over the real core: answers, refusals, tokens, foreign sites, lists, hostile input."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from apifake import FILES, NODES, Client, FakeCore, break_ranks, fleet_config, three_nodes, volume_config
from closeranks_coordinator.core.incident_record import Incident
from closeranks_coordinator.core.model import QuarantineAsked, Tick
from closeranks_coordinator.core.shapes import (
    ActionView,
    BaselineView,
    FleetView,
    IncidentView,
    NodeView,
    SpeedView,
    VolumeView,
)
from closeranks_coordinator.storage.store import StoredEvent
from closeranks_coordinator.web import call as api_core
from closeranks_coordinator.web import events, stream
from closeranks_coordinator.web import schemas as api_views
from closeranks_coordinator.web.app import build_app
from closeranks_proto import messages as wire
from closeranks_proto.errors import UserError

TOKEN = "correct-horse-battery-staple"
Made = Callable[..., "asyncio.Future[Client]"]


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[FakeCore]:
    made = FakeCore(tmp_path, fleet_config())
    await three_nodes(made)
    yield made
    await made.close()


@pytest.fixture
async def client(core: FakeCore) -> AsyncIterator[Client]:
    async with Client(core) as made:
        yield made


@pytest.fixture
async def wide(tmp_path: Path) -> AsyncIterator[Client]:
    """A fleet with a second volume, `web`, of policy baseline and with none pinned."""
    core = FakeCore(tmp_path, fleet_config(volume_config(), volume_config("web", "baseline")))
    await three_nodes(core)
    async with Client(core) as made:
        yield made
    await core.close()


def error_of(body: bytes) -> api_views.ErrorBody:
    return msgspec.json.decode(body, type=api_views.ErrorView).error


async def divergence(client: Client) -> str:
    """The id of the one divergence."""
    (found,) = (await client.json("/api/v1/incidents?kind=divergence"))["items"]
    assert isinstance(found["id"], str)
    return found["id"]


# --- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/api/v1/fleet", FleetView),
        ("/api/v1/nodes", api_views.NodePage),
        ("/api/v1/nodes/node-02", NodeView),
        ("/api/v1/volumes", api_views.VolumePage),
        ("/api/v1/volumes/photos", VolumeView),
        ("/api/v1/volumes/photos/diff?node=node-02", api_views.DiffPage),
        ("/api/v1/volumes/photos/conflicts?state=open", api_views.ConflictPage),
        ("/api/v1/speed", SpeedView),
        ("/api/v1/volumes/photos/diff?node=node-02&against=node-01&all=true&limit=2", api_views.DiffPage),
        ("/api/v1/incidents", api_views.IncidentPage),
        ("/api/v1/incidents?state=open&node=node-02&volume=photos&kind=divergence", api_views.IncidentPage),
        ("/api/v1/incidents/DIVERGENCE", IncidentView),
        ("/api/v1/incidents/DIVERGENCE/report?format=json", IncidentView),
        ("/api/v1/actions", api_views.ActionPage),
        ("/api/v1/baselines", api_views.BaselinePage),
        ("/lb/node-01", api_views.RotationView),
    ],
)
async def test_every_answer_has_the_promised_shape(
    core: FakeCore, client: Client, path: str, kind: type
) -> None:
    await break_ranks(core)
    await core.ask(QuarantineAsked("node-02", "to look at it"))
    status, body, answer = await client.ask("GET", path.replace("DIVERGENCE", await divergence(client)))
    assert status == 200, body
    msgspec.json.decode(body, type=kind, strict=True)
    if kind is not api_views.RotationView:
        shown = msgspec.json.decode(body)
        assert set(shown) == {field.encode_name for field in msgspec.structs.fields(kind)}, (
            "nothing beside it"
        )
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Server"] == "closeranks"


async def test_a_divergence_is_shown_everywhere(core: FakeCore, client: Client) -> None:
    await break_ranks(core)
    fleet = await client.json("/api/v1/fleet")
    assert not fleet["in_rank"]
    node = await client.json("/api/v1/nodes/node-02")
    assert node["quarantine"]["incident"] == await divergence(client)
    diff = await client.json("/api/v1/volumes/photos/diff?node=node-02")
    assert [(row["path"], row["change"]) for row in diff["entries"]] == [
        ("<b>x</b>.jpg", "added"),
        ("a.jpg", "modified"),
        ("b.jpg", "same"),
        ("sub/c.jpg", "same"),
    ][:2]
    assert diff["total"] == 2
    assert (await client.ask("GET", "/lb/node-02"))[0] == 503
    assert (await client.ask("GET", "/lb/node-01"))[0] == 200
    assert (await client.ask("HEAD", "/lb/node-02"))[:2] == (503, b"")


async def test_names_that_are_not_utf_8_come_escaped_and_in_base64(core: FakeCore, client: Client) -> None:
    await break_ranks(core, {b"\xff\x01\n": b"x"})
    diff = await client.json("/api/v1/volumes/photos/diff?node=node-02")
    (row,) = diff["entries"]
    assert row["path"] == "\\xff\\x01\\n"
    assert base64.b64decode(row["path_b64"]) == b"\xff\x01\n"


async def test_lists_page_by_cursor_without_gaps_or_repeats(client: Client) -> None:
    found: list[str] = []
    cursor = ""
    while True:
        page = await client.json("/api/v1/nodes?limit=1" + (f"&cursor={cursor}" if cursor else ""))
        assert len(page["items"]) == 1
        found += [node["node"] for node in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = page["next_cursor"]
    assert found == list(NODES)


async def test_a_diff_pages_by_cursor(core: FakeCore, client: Client) -> None:
    await break_ranks(core, {f"new/{n:03}\xff".encode("latin-1"): b"x" for n in range(50)})
    whole = await client.json("/api/v1/volumes/photos/diff?node=node-02&limit=1000")
    paged: list[object] = []
    cursor = None
    while True:
        more = "" if cursor is None else f"&cursor={cursor}"
        page = await client.json(f"/api/v1/volumes/photos/diff?node=node-02&limit=7{more}")
        paged += page["entries"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert paged == whole["entries"]
    assert len(paged) == whole["total"] == 50


async def test_incidents_that_nobody_asked_for_are_not_made_to_be_shown(
    core: FakeCore, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand of a thousand paths each would hold everybody up for most of a second."""
    await break_ranks(core, {b"new": b"x"})
    (open_one,) = (await client.json("/api/v1/incidents?state=open&kind=divergence&node=node-02"))["items"]
    assert open_one["kind"] == "divergence"
    monkeypatch.setattr(Incident, "view", None)
    for query in ("state=closed", "kind=outage", "node=node-01", "state=open&kind=divergence&node=node-03"):
        assert (await client.json(f"/api/v1/incidents?{query}"))["items"] == []


async def test_whether_it_lives_waits_for_nothing_that_is_to_become_durable(
    core: FakeCore, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[str] = []

    async def settled() -> None:
        waited.append("settled")

    monkeypatch.setattr(core, "settled", settled)
    assert (await client.ask("GET", "/-/healthy"))[0] == 200
    assert (await client.ask("GET", "/-/ready"))[0] in (200, 503)
    assert waited == []
    await client.json("/api/v1/nodes")
    assert waited == ["settled"]


async def test_a_page_ends_at_a_bound_in_bytes(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_core, "PAGE_MAX_BYTES", 10)
    page = await client.json("/api/v1/nodes")
    assert len(page["items"]) == 1
    assert page["next_cursor"] is not None


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("limit=0", "bad_query"),
        ("limit=1001", "bad_query"),
        ("limit=-1", "bad_query"),
        ("limit=ten", "bad_query"),
        ("limit=1&limit=2", "bad_query"),
        ("limit=99999999999999999999999999999999999", "bad_query"),
        ("limit=%D9%A1", "bad_query"),
        ("cursor=", "bad_query"),
        ("cursor=!!!", "bad_cursor"),
        ("cursor=bm9wZQ", "bad_cursor"),
        ("cursor=/w", "bad_cursor"),
        ("colour=red", "bad_query"),
        ("%FF=1", "bad_query"),
    ],
)
async def test_a_query_that_makes_no_sense_is_400(client: Client, query: str, code: str) -> None:
    status, body, _ = await client.ask("GET", f"/api/v1/nodes?{query}")
    assert status == 400
    assert error_of(body).code == code


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/volumes/photos/diff", 400),
        ("/api/v1/volumes/photos/diff?node=nobody", 404),
        ("/api/v1/volumes/nothing/diff?node=node-01", 404),
        ("/api/v1/volumes/photos/diff?node=node-01&against=nobody", 404),
        ("/api/v1/volumes/photos/diff?node=node-01&all=yes", 400),
        ("/api/v1/volumes/photos/diff?node=%00", 400),
        ("/api/v1/volumes/web/diff?node=node-01", 409),
        ("/api/v1/incidents?state=broken", 400),
        ("/api/v1/volumes/nothing/conflicts", 404),
        ("/api/v1/volumes/photos/conflicts?state=broken", 400),
        ("/api/v1/incidents/i-000001/report?format=pdf", 400),
        ("/api/v1/incidents/i-999999", 404),
        ("/api/v1/incidents/i-999999/report", 404),
        ("/api/v1/actions/a-999999", 404),
        ("/api/v1/baselines/none", 404),
        ("/api/v1/nodes/node-99", 404),
        ("/api/v1/nodes/%FF%FE", 404),
        ("/api/v1/nodes/a%00b", 404),
        ("/api/v1/nodes/%2e%2e%2f%2e%2e", 404),
        ("/api/v1/nodes/" + "x" * 2000, 404),
        ("/api/v1/nodes/node-01/", 404),
        ("/api/v1/volumes/%E2%80%AE", 404),
        ("/api/v2/fleet", 404),
        ("/", 404),
        ("/lb/nobody", 404),
        ("/lb/%00", 404),
    ],
)
async def test_what_does_not_exist_or_makes_no_sense_is_said_in_json(
    wide: Client, path: str, status: int
) -> None:
    found, body, answer = await wide.ask("GET", path)
    assert found == status, body
    assert answer.headers["Content-Type"] == "application/json"
    error = error_of(body)
    assert error.code
    assert error.message


async def test_a_wrong_method_is_405_and_says_what_is_allowed(client: Client) -> None:
    status, body, answer = await client.ask("POST", "/api/v1/fleet", {}, own_host(client))
    assert status == 405
    assert error_of(body).code == "method_not_allowed"
    assert answer.headers["Allow"] == "GET,HEAD"


def own_host(client: Client) -> dict[str, str]:
    return {"Host": f"127.0.0.1:{client.server.port}"}


@pytest.mark.parametrize(
    "path",
    ["/api/v1/fleet", "/api/v1/nodes/node-01", "/metrics", "/-/healthy", "/-/ready", "/api/v1/openapi.json"],
)
async def test_head_answers_like_get_without_a_body(client: Client, path: str) -> None:
    status, body, _ = await client.ask("HEAD", path)
    assert status == 200
    assert body == b""


async def test_a_fault_is_logged_and_shows_nothing_of_the_inside(
    core: FakeCore, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> FleetView:
        raise RuntimeError("the secret inside")

    monkeypatch.setattr(core.fleet, "fleet_view", broken)
    with caplog.at_level(logging.ERROR):
        status, body, _ = await client.ask("GET", "/api/v1/fleet")
    assert status == 500
    assert error_of(body).code == "fault"
    assert b"secret" not in body
    assert b"Traceback" not in body
    assert "the secret inside" in caplog.text


# --- orders ----------------------------------------------------------------------------------------


async def test_a_client_that_leaves_in_the_middle_of_its_order_is_no_fault(
    core: FakeCore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reads, began, ended = web.Request.read, asyncio.Event(), asyncio.Event()

    async def watched(request: web.Request) -> bytes:
        began.set()
        try:
            return await reads(request)
        finally:
            ended.set()

    monkeypatch.setattr(web.Request, "read", watched)
    runner = web.AppRunner(build_app(core))  # as the program does: nothing is cancelled by who hangs up
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    _, writer = await asyncio.open_connection(host, port)
    head = f"POST /api/v1/nodes/node-02/quarantine HTTP/1.1\r\nHost: {host}:{port}\r\n"
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{{".encode())
    async with asyncio.timeout(20):
        await began.wait()
        writer.transport.abort()
        await ended.wait()
    await runner.cleanup()
    assert [one.getMessage() for one in caplog.records if one.levelname == "ERROR"] == []


async def test_a_node_is_quarantined_and_the_action_can_be_followed(core: FakeCore, client: Client) -> None:
    status, body, _ = await client.ask(
        "POST", "/api/v1/nodes/node-03/quarantine", {"reason": " its fan is loud "}
    )
    assert status == 202
    accepted = msgspec.json.decode(body, type=api_views.AcceptedView)
    action = msgspec.convert(await client.json(f"/api/v1/actions/{accepted.action}"), ActionView)
    assert (action.kind, action.node, action.state) == ("quarantine", "node-03", "done")
    node = await client.json("/api/v1/nodes/node-03")
    assert node["quarantine"]["reason"] == "its fan is loud"
    assert node["quarantine"]["by_hand"]
    status, body, _ = await client.ask("POST", "/api/v1/nodes/node-03/quarantine", {"reason": "again"})
    assert (status, error_of(body).code) == (409, "already_quarantined")
    assert [item["id"] for item in (await client.json("/api/v1/actions"))["items"]] == [accepted.action]


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("nodes/node-03/quarantine", {}, 400, "bad_body"),
        ("nodes/node-03/quarantine", None, 400, "bad_body"),
        ("nodes/node-03/quarantine", {"reason": ""}, 400, "bad_body"),
        ("nodes/node-03/quarantine", {"reason": "   "}, 400, "bad_body"),
        ("nodes/node-03/quarantine", {"reason": "x" * 501}, 400, "bad_body"),
        ("nodes/node-03/quarantine", {"reason": 7}, 400, "bad_body"),
        ("nodes/node-03/quarantine", {"reason": "x", "forse": True}, 400, "bad_body"),
        ("nodes/node-03/quarantine", ["reason"], 400, "bad_body"),
        ("nodes/node-03/quarantine", b"{", 400, "bad_json"),
        ("nodes/node-03/quarantine", b'{"reason": "\xff"}', 400, "bad_json"),
        ("nodes/node-03/quarantine", b"[" * 60_000, 400, "bad_body"),
        ("nodes/node-03/quarantine", {"reason": "x" * 70_000}, 413, "too_large"),
        ("nodes/nobody/quarantine", {"reason": "x"}, 404, "unknown_node"),
        ("nodes/node-03/release", {}, 409, "not_quarantined"),
        ("nodes/node-03/release", {"volume": "nothing"}, 404, "unknown_volume"),
        ("nodes/node-03/release", {"dry_run": True}, 400, "no_dry_run"),
        ("nodes/node-03/resync", {"volume": "nothing"}, 404, "unknown_volume"),
        ("nodes/node-03/resync", {"volume": "../../etc"}, 400, "bad_body"),
        ("nodes/node-03/resync", {"dry_run": "yes"}, 400, "bad_body"),
        ("nodes/node-03/resync", {"volume": "web"}, 409, "no_truth"),
        ("baselines", {"name": "good"}, 400, "bad_body"),
        ("baselines", {"name": "GOOD", "volume": "photos"}, 400, "bad_body"),
        ("baselines", {"name": "good", "volume": "nothing"}, 404, "unknown_volume"),
        ("baselines", {"name": "good", "volume": "photos", "node": "nobody"}, 404, "unknown_node"),
        ("volumes/photos/pin", {}, 400, "bad_body"),
        ("volumes/photos/pin", {"baseline": "none"}, 409, "wrong_policy"),
        ("volumes/web/pin", {"baseline": "none"}, 404, "unknown_baseline"),
        ("volumes/nothing/pin", {"baseline": "none"}, 404, "unknown_volume"),
    ],
)
async def test_an_order_that_can_not_be_is_refused_with_its_reason(
    wide: Client, path: str, body: object, status: int, code: str
) -> None:
    found, answer, _ = await wide.ask("POST", f"/api/v1/{path}", body)
    assert (found, error_of(answer).code) == (status, code), answer
    assert error_of(answer).message


async def test_a_baseline_is_created_pinned_unpinned_and_deleted(wide: Client) -> None:
    status, body, answer = await wide.ask(
        "POST", "/api/v1/baselines", {"name": "good", "volume": "web", "node": "node-01"}
    )
    assert status == 201
    assert answer.headers["Location"] == "/api/v1/baselines/good"
    made = msgspec.json.decode(body, type=BaselineView)
    assert made.files == len(FILES)
    assert (await wide.json("/api/v1/baselines?volume=web"))["items"][0]["name"] == "good"
    assert (await wide.json("/api/v1/baselines?volume=photos"))["items"] == []
    status, body, _ = await wide.ask("POST", "/api/v1/volumes/web/pin", {"baseline": "good"})
    assert status == 200
    assert msgspec.json.decode(body, type=VolumeView).baseline == "good"
    status, body, _ = await wide.ask("DELETE", "/api/v1/baselines/good")
    assert (status, error_of(body).code) == (409, "pinned")
    status, _, _ = await wide.ask("POST", "/api/v1/volumes/web/pin", {"baseline": None})
    assert status == 200
    await wide.ask("POST", "/api/v1/volumes/web/pin", {"baseline": "good"})
    status, body, _ = await wide.ask("DELETE", "/api/v1/volumes/web/pin")
    assert status == 200
    assert msgspec.json.decode(body, type=VolumeView).baseline is None
    assert (await wide.ask("DELETE", "/api/v1/baselines/good", {}))[0] == 200
    assert (await wide.ask("DELETE", "/api/v1/baselines/good"))[0] == 404


async def test_an_order_that_can_not_be_made_durable_is_503(
    core: FakeCore, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_core, "ASK_TIMEOUT_S", 0.05)
    core.problem = "no room left"

    async def never(_: object) -> object:
        await asyncio.sleep(60)
        return None

    monkeypatch.setattr(core, "ask", never)
    status, body, _ = await client.ask("POST", "/api/v1/nodes/node-03/quarantine", {"reason": "x"})
    assert (status, error_of(body).code) == (503, "not_durable")
    assert "no room left" in error_of(body).message
    status, body, _ = await client.ask("GET", "/-/ready")
    assert status == 503
    assert b"no room left" in body
    assert (await client.ask("GET", "/-/healthy"))[0] == 200


async def test_reload_says_what_is_wrong_with_the_file(core: FakeCore, client: Client) -> None:
    assert (await client.ask("POST", "/-/reload"))[0] == 200

    def wrong() -> None:
        raise UserError("coordinator.toml: settle_s: not a number")

    core.reloading = wrong
    status, body, _ = await client.ask("POST", "/-/reload", {})
    assert (status, error_of(body).code) == (409, "configuration_refused")
    assert "settle_s" in error_of(body).message


async def test_ready_is_503_until_the_coordinator_is(core: FakeCore, client: Client) -> None:
    assert (await client.ask("GET", "/-/ready"))[0] == 200
    core.ready = False
    assert (await client.ask("GET", "/-/ready"))[0] == 503


# --- trash -----------------------------------------------------------------------------------------

ITEM = wire.TrashItem("t1", "photos", b"sub\0c\xff", "file", 7, 10**18, "i-000001", "replaced")


async def test_the_trash_of_a_node_is_listed_and_restored(core: FakeCore, client: Client) -> None:
    asked: list[object] = []

    def answer(node: str, message: object) -> wire.TrashAnswer:
        asked.append((node, message))
        return wire.TrashAnswer(0, (ITEM,), "next", "")

    core.trash_answer = answer
    status, body, _ = await client.ask(
        "GET", "/api/v1/nodes/node-02/trash?volume=photos&incident=i-000001&limit=5"
    )
    assert status == 200
    page = msgspec.json.decode(body, type=api_views.TrashPage)
    assert page.next_cursor == "next"
    assert (page.items[0].path, page.items[0].bytes, page.items[0].why) == ("sub/c\\xff", 7, "replaced")
    assert asked == [("node-02", wire.TrashList(0, "photos", "i-000001", 5, ""))]
    status, body, _ = await client.ask(
        "POST", "/api/v1/nodes/node-02/trash/restore", {"volume": "photos", "ids": ["t1"], "to": "/root/back"}
    )
    assert status == 200
    assert msgspec.json.decode(body, type=api_views.RestoredView).items[0].id == "t1"
    assert asked[-1] == ("node-02", wire.TrashRestore(0, "photos", ("t1",), "/root/back", False))


async def test_the_trash_of_a_volume_that_the_node_has_not_is_no_empty_one(
    core: FakeCore, client: Client
) -> None:
    core.trash_answer = lambda node, message: wire.TrashAnswer(0, (), None, "")
    status, answer, _ = await client.ask("GET", "/api/v1/nodes/node-02/trash?volume=fotos")
    assert (status, error_of(answer).code) == (404, "unknown_volume")
    assert error_of(answer).message == "node-02 has no volume 'fotos'; it has: photos"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"volume": "photos", "ids": ["t1"]}, 400, "bad_body"),
        ({"volume": "photos", "ids": ["t1"], "to": "relative"}, 400, "bad_body"),
        ({"volume": "photos", "ids": ["t1"], "to": "/a\0b"}, 400, "bad_body"),
        ({"volume": "photos", "ids": ["t1"], "to": "/a", "in_place": True}, 400, "bad_body"),
        ({"volume": "photos", "ids": [], "to": "/a"}, 400, "bad_body"),
        ({"volume": "nothing", "ids": ["t1"], "to": "/a"}, 404, "unknown_volume"),
        ({"volume": "photos", "ids": ["t1"], "in_place": True}, 409, "not_quarantined_by_hand"),
        ({"volume": "photos", "ids": ["t1"], "to": "/a"}, 503, "node_unreachable"),
    ],
)
async def test_a_restore_that_can_not_be_is_refused(
    client: Client, body: object, status: int, code: str
) -> None:
    found, answer, _ = await client.ask("POST", "/api/v1/nodes/node-02/trash/restore", body)
    assert (found, error_of(answer).code) == (status, code)


async def test_in_place_is_allowed_while_quarantined_by_hand_and_the_node_s_no_is_409(
    core: FakeCore, client: Client
) -> None:
    await core.ask(QuarantineAsked("node-02", "by hand"))
    core.trash_answer = lambda node, message: wire.TrashAnswer(0, (), None, "t1 is gone")
    body = {"volume": "photos", "ids": ["t1"], "in_place": True}
    status, answer, _ = await client.ask("POST", "/api/v1/nodes/node-02/trash/restore", body)
    assert (status, error_of(answer).code, error_of(answer).message) == (409, "trash_refused", "t1 is gone")


# --- who may ask -----------------------------------------------------------------------------------


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Client]:
    core = FakeCore(tmp_path, fleet_config(), (TOKEN, "another-token-of-16"))
    await three_nodes(core)
    async with Client(core) as made:
        yield made
    await core.close()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong-token-entirely"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer \u00fc"},
    ],
)
@pytest.mark.parametrize(
    "path", ["/api/v1/fleet", "/metrics", "/api/v1/openapi.json", "/nowhere", "/api/v1/events"]
)
async def test_without_a_known_token_nothing_is_told(
    guarded: Client, path: str, headers: dict[str, str]
) -> None:
    status, body, answer = await guarded.ask("GET", path, None, headers)
    assert status == 401
    assert error_of(body).code in ("token_missing", "token_wrong")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_each_known_token_opens_and_health_needs_none(guarded: Client) -> None:
    for token in (TOKEN, "another-token-of-16"):
        assert (await guarded.ask("GET", "/api/v1/fleet", None, {"Authorization": f"Bearer {token}"}))[
            0
        ] == 200
        assert (await guarded.ask("GET", "/api/v1/fleet", None, {"Authorization": f"bearer {token}"}))[
            0
        ] == 200
    for path in ("/lb/node-01", "/-/healthy", "/-/ready"):
        assert (await guarded.ask("GET", path))[0] == 200
        assert (await guarded.ask("HEAD", path))[0] == 200
    assert (await guarded.ask("POST", "/-/reload"))[0] == 401
    status, _, _ = await guarded.ask(
        "POST", "/api/v1/nodes/node-03/quarantine", {"reason": "x"}, {"Authorization": f"Bearer {TOKEN}"}
    )
    assert status == 202


async def test_without_configured_tokens_a_sent_one_is_ignored(client: Client) -> None:
    assert (await client.ask("GET", "/api/v1/fleet", None, {"Authorization": "Bearer whatever"}))[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "127.0.0.1:1"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": "localhost"}, 200),
        ({"Host": "127.0.0.1"}, 200),
        ({"Host": "ranks.example"}, 200),
        ({"Host": "RANKS.example"}, 200),
        ({"X-Forwarded-For": "203.0.113.7"}, 403),
        ({"Forwarded": "for=203.0.113.7", "Host": "localhost"}, 403),
        ({"X-Forwarded-For": "203.0.113.7", "Host": "ranks.example"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "https://ranks.example"}, 200),
    ],
)
async def test_an_order_from_another_site_is_refused(
    client: Client, headers: dict[str, str], status: int
) -> None:
    found, body, _ = await client.ask("POST", "/-/reload", None, headers)
    assert found == status, body
    if status == 403:
        assert error_of(body).code in ("foreign_host", "foreign_origin")


async def test_the_own_origin_is_accepted_and_reading_is_not_bound_to_a_host(client: Client) -> None:
    own = f"http://127.0.0.1:{client.server.port}"
    assert (await client.ask("POST", "/-/reload", None, {"Origin": own}))[0] == 200
    assert (await client.ask("GET", "/lb/node-01", None, {"Host": "balancer.internal"}))[0] == 200


async def test_with_a_token_any_host_may_be_meant_but_no_foreign_page(guarded: Client) -> None:
    token = {"Authorization": f"Bearer {TOKEN}"}
    assert (await guarded.ask("POST", "/-/reload", None, {**token, "Host": "coordinator.example"}))[0] == 200
    status, _, _ = await guarded.ask("POST", "/-/reload", None, {**token, "Origin": "https://evil.example"})
    assert status == 403


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
async def test_a_body_that_is_not_json_is_415(client: Client, kind: str) -> None:
    for body in (b'{"reason": "x"}', b""):
        status, answer, _ = await client.ask(
            "POST", "/api/v1/nodes/node-03/quarantine", body, {"Content-Type": kind}
        )
        assert (status, error_of(answer).code) == (415, "not_json")


# --- the report ------------------------------------------------------------------------------------


async def test_reports_come_in_their_types_and_escape_what_a_rogue_named(
    core: FakeCore, client: Client
) -> None:
    await break_ranks(core)
    where = f"/api/v1/incidents/{await divergence(client)}/report"
    status, body, answer = await client.ask("GET", where)
    assert (status, answer.headers["Content-Type"]) == (200, "text/markdown; charset=utf-8")
    assert b"# node-02 broke ranks" in body
    status, body, answer = await client.ask("GET", f"{where}?format=html")
    assert (status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b"<b>x" not in body
    assert b"&lt;b&gt;x" in body
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "script" not in answer.headers["Content-Security-Policy"]


# --- events ----------------------------------------------------------------------------------------


async def read_events(
    client: Client, count: int, last_id: str | None = None
) -> list[tuple[str, str, object]]:
    """(event, id, data) of the first `count` events, "" as the event of a bare id."""
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    found: list[tuple[str, str, object]] = []
    event, identity, data = "", "", None
    async with (
        asyncio.timeout(5),
        client.session.get(client.url("/api/v1/events"), headers=headers) as answer,
    ):
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["Cache-Control"] == "no-store"
        async for raw in answer.content:
            name, _, value = raw.decode().rstrip("\n").partition(": ")
            match name:
                case "event":
                    event = value
                case "id":
                    identity = value
                case "data":
                    data = msgspec.json.decode(value)
                case "" if identity:
                    found.append((event, identity, data))
                    event, identity, data = "", "", None
                    if len(found) == count:
                        break
    return found


async def test_events_carry_what_a_get_answers_and_can_be_resumed(core: FakeCore, client: Client) -> None:
    (first,) = await read_events(client, 1)
    reading = asyncio.create_task(read_events(client, 1, last_id=first[1]))
    await asyncio.sleep(0.05)  # whether it listens already or asks in a moment: the answer is the same
    await core.ask(QuarantineAsked("node-03", "x"))
    seen = await reading
    assert {event for event, _, _ in seen} <= {"node", "action", "volume", "incident"}
    again = await read_events(client, 1, last_id=first[1])
    assert again == seen
    for event, _, data in again:
        if event == "node":
            assert data == await client.json("/api/v1/nodes/node-03")
    assert int(seen[0][1]) > int(first[1])


@pytest.mark.parametrize("last_id", ["0", "-5", "x", "99999999999999999999", "9" * 18])
async def test_an_id_that_is_unknown_or_too_old_is_answered_by_a_reset(client: Client, last_id: str) -> None:
    assert (await read_events(client, 1, last_id))[0][0] == "reset"


async def test_an_event_is_made_once_for_all_who_listen(
    core: FakeCore, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    render = stream.render

    def counted(core: api_core.Core, event: StoredEvent) -> bytes:
        made.append(event.id)
        return render(core, event)

    monkeypatch.setattr(stream, "render", counted)
    (first,) = await read_events(client, 1)
    reading = [asyncio.create_task(read_events(client, 2, last_id=first[1])) for _ in range(20)]
    async with asyncio.timeout(10):
        while core.events.listeners < 20:
            await asyncio.sleep(0.01)
    one, two = core.events.publish("node", "node-02"), core.events.publish("volume", "photos")
    seen = await asyncio.gather(*reading)
    assert [[int(id) for _, id, _ in each] for each in seen] == [[one, two]] * 20
    assert all(each == seen[0] for each in seen)
    assert made == [one, two]


async def test_what_was_made_of_an_event_is_not_sent_for_ever() -> None:
    now = 0.0
    shared = events.Shared(lambda: now)
    event = StoredEvent(1, "node", "node-02", 0)
    shared.put(event, b"of now")
    assert shared.get(event) == b"of now"
    now = events.SHARED_S + 0.1
    assert shared.get(event) is None
    for number in range(10):
        shared.put(StoredEvent(number, "node", f"n{number}", 0), bytes(events.SHARED_MAX_BYTES // 4))
    assert [number for number in range(10) if shared.get(StoredEvent(number, "node", "", 0))] == [6, 7, 8, 9]


async def test_a_thing_that_is_gone_is_told_like_its_get(core: FakeCore, client: Client) -> None:
    (first,) = await read_events(client, 1)
    core.events.publish("node", "node-99")
    ((event, _, data),) = await read_events(client, 1, first[1])
    assert event == "node"
    assert msgspec.convert(data, api_views.ErrorView).error.code == "unknown_node"


async def test_a_stream_is_kept_alive_and_ends_when_the_coordinator_goes_down(
    core: FakeCore, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("closeranks_coordinator.web.stream.KEEP_ALIVE_S", 0.02)
    async with asyncio.timeout(5), client.session.get(client.url("/api/v1/events")) as answer:
        async for raw in answer.content:
            if raw == b": still here\n":
                break
        core.events.hang_up()
        await answer.content.read()
    assert core.events.listeners == 0


async def test_too_many_streams_are_refused(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("closeranks_coordinator.web.events.LISTENERS_MAX", 0)
    status, body, _ = await client.ask("GET", "/api/v1/events")
    assert (status, error_of(body).code) == (503, "too_many_streams")


async def test_head_of_the_stream_ends_at_once(client: Client) -> None:
    assert (await client.ask("HEAD", "/api/v1/events"))[:2] == (200, b"")


async def test_a_client_that_does_not_read_is_cut_off(
    core: FakeCore, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("closeranks_coordinator.web.stream.STUCK_AFTER_S", 0.2)
    monkeypatch.setattr("closeranks_coordinator.web.stream._look", lambda *_: {"x": "y" * 1_000_000})
    reader, writer = await asyncio.open_connection("127.0.0.1", client.server.port, limit=1024)
    writer.write(b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readline()
    while core.events.listeners == 0:
        await asyncio.sleep(0.01)
    for number in range(50):
        core.events.publish("node", f"n{number}")
    async with asyncio.timeout(5):
        while core.events.listeners:
            await asyncio.sleep(0.02)
    writer.close()


async def test_time_passing_alone_changes_no_answer_s_shape(core: FakeCore, client: Client) -> None:
    await core.step(Tick(), 1000.0)
    msgspec.convert(await client.json("/api/v1/fleet"), FleetView)
