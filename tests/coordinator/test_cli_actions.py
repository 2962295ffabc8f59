"""`closeranks quarantine|release|resync|baseline|trash|incident…`: what is sent, what is said, exit codes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

import clifake
from clifake import Fake, Request
from closeranks_coordinator.cli import actions, trash
from closeranks_coordinator.cli.main import main

GUARD = (
    409,
    clifake.error("quorum_would_be_lost", "fencing n2 would leave 1 of 3 nodes, fewer than a quorum"),
)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    monkeypatch.setattr(actions, "POLL_S", 0.01)
    with clifake.serving(Fake()) as fake:
        monkeypatch.setenv("CLOSERANKS_URL", fake.url)
        yield fake


def accept(api: Fake, route: str) -> None:
    api.routes[route] = (202, {"action": "act-1"})


def actions_in_turn(api: Fake, *views: Any) -> None:
    left = list(views)

    def answer(request: Request) -> Any:
        return left.pop(0) if len(left) > 1 else left[0]

    api.routes["GET /api/v1/actions/act-1"] = answer


@pytest.mark.parametrize(
    ("words", "route", "body"),
    [
        (["quarantine", "n2", "--reason", "smoke"], "POST /api/v1/nodes/n2/quarantine", {"reason": "smoke"}),
        (["release", "n2"], "POST /api/v1/nodes/n2/release", {}),
        (["resync", "n2"], "POST /api/v1/nodes/n2/resync", {}),
        (["resync", "n2", "photos"], "POST /api/v1/nodes/n2/resync", {"volume": "photos"}),
    ],
)  # fmt: skip
def test_an_order_is_accepted(
    api: Fake, capsys: pytest.CaptureFixture[str], words: list[str], route: str, body: object
) -> None:
    accept(api, route)
    assert main(words) == 0
    assert api.requests[0].body == body
    assert "accepted (action act-1)" in capsys.readouterr().out
    api.routes[route] = GUARD
    assert main(words) == 1
    captured = capsys.readouterr()
    assert captured.err == "closeranks: fencing n2 would leave 1 of 3 nodes, fewer than a quorum\n"


def test_a_reason_is_needed(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["quarantine", "n2"])
    assert exit_info.value.code == 2
    assert main(["quarantine", "n2", "--reason", " "]) == 2
    assert main(["quarantine", "n2", "--reason", "x" * 501]) == 2
    assert api.requests == []


@pytest.mark.parametrize("words", [["--wait", "n2"], ["n2", "--wait"], ["n2", "photos", "--wait=30"]])
def test_wait_follows_to_the_end(api: Fake, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    accept(api, "POST /api/v1/nodes/n2/resync")
    actions_in_turn(api, clifake.action(state="queued"), clifake.action(state="running"), clifake.action())
    assert main(["resync", *words]) == 0
    assert capsys.readouterr().out == "resync of n2 done; 4.1 kB moved\n"


def test_wait_tells_of_failure_and_of_time(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    accept(api, "POST /api/v1/nodes/n2/resync")
    actions_in_turn(api, clifake.action(state="failed", error="no_space: 5 GiB are missing on n2"))
    assert main(["resync", "n2", "--wait"]) == 1
    assert "no_space: 5 GiB are missing on n2" in capsys.readouterr().err
    actions_in_turn(api, clifake.action(state="running"))
    assert main(["resync", "n2", "--wait=0.1"]) == 1
    assert "is still running; it goes on" in capsys.readouterr().err
    assert main(["resync", "n2", "--wait=soon"]) == 2


def test_wait_outlives_a_restart_of_the_coordinator(api: Fake) -> None:
    accept(api, "POST /api/v1/nodes/n2/resync")
    actions_in_turn(
        api, clifake.action(state="running"), (502, b"gateway"), (502, b"gateway"), clifake.action()
    )
    assert main(["resync", "n2", "--wait"]) == 0


def test_a_dry_run_prints_the_plan(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    accept(api, "POST /api/v1/nodes/n2/resync")
    plan = (
        {"verb": "fetch", "path": "a/b.jpg", "path_b64": "", "fetch_bytes": 2048, "chunks": 2, "note": ""},
        {
            "verb": "remove",
            "path": "x\\n",
            "path_b64": "",
            "fetch_bytes": 0,
            "chunks": 0,
            "note": "to the trash",
        },
    )
    view = clifake.action(dry_run=True, plan=plan, plan_steps=5, plan_bytes=2048, kind="resync")
    actions_in_turn(api, view)
    assert main(["resync", "n2", "--dry-run"]) == 0
    assert api.requests[0].body == {"dry_run": True}
    assert capsys.readouterr().out == (
        "STEP     FETCH  PATH     NOTE\n"
        "fetch   2.0 kB  a/b.jpg\n"
        "remove          x\\n      to the trash\n"
        "5 steps, 3 more not shown; 2.0 kB to fetch. Nothing was changed.\n"
    )
    actions_in_turn(api, clifake.action(dry_run=True, plan=(), plan_steps=0, plan_bytes=0))
    main(["resync", "n2", "--dry-run"])
    assert capsys.readouterr().out == "Nothing to do: n2 already holds the truth.\n"


def test_json_of_an_action_is_the_answer(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes["POST /api/v1/nodes/n2/release"] = (202, b'{"action":  "act-1"}')
    assert main(["release", "n2", "--json"]) == 0
    assert capsys.readouterr().out == '{"action":  "act-1"}\n'


def test_baselines(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes |= {
        "POST /api/v1/baselines": (201, clifake.baseline()),
        "GET /api/v1/baselines": clifake.page(
            [clifake.baseline(), clifake.baseline(name="old", pinned=True)]
        ),
        "GET /api/v1/baselines/spring": clifake.baseline(pinned=True),
        "POST /api/v1/volumes/photos/pin": clifake.volume(),
        "DELETE /api/v1/baselines/spring": (409, clifake.error("pinned", "spring is pinned; unpin it first")),
    }
    assert main(["baseline", "create", "spring", "--volume", "photos", "--node", "n1"]) == 0
    assert api.requests[-1].body == {"name": "spring", "volume": "photos", "node": "n1"}
    assert main(["baseline", "create", "spring", "--volume", "photos"]) == 0
    assert api.requests[-1].body == {"name": "spring", "volume": "photos"}
    assert main(["baseline", "list", "--volume", "photos"]) == 0
    assert api.requests[-1].query["volume"] == "photos"
    assert main(["baseline", "show", "spring"]) == 0
    assert main(["baseline", "pin", "photos", "spring"]) == 0
    assert api.requests[-1].body == {"baseline": "spring"}
    assert main(["baseline", "unpin", "photos"]) == 0
    assert api.requests[-1].body == {"baseline": None}
    capsys.readouterr()
    assert main(["baseline", "delete", "spring"]) == 1
    assert capsys.readouterr().err == "closeranks: spring is pinned; unpin it first\n"


def trashed(number: int) -> dict[str, Any]:
    return {
        "id": f"t{number}", "volume": "photos", "path": f"a/{number}\\x1b", "path_b64": "", "kind": "file",
        "bytes": 2048, "trashed_at": "2025-11-22T15:00:00.000Z", "incident": "inc-1", "why": "replaced",
    }  # fmt: skip


def test_trash(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes["GET /api/v1/nodes/n2/trash"] = clifake.page([trashed(1), trashed(2)])
    api.routes["POST /api/v1/nodes/n2/trash/restore"] = {"items": []}
    assert main(["trash", "list", "n2", "photos", "--incident", "inc-1"]) == 0
    assert {"volume": "photos", "incident": "inc-1"}.items() <= api.requests[0].query.items()
    out = capsys.readouterr().out
    assert "t1  photos  file  2.0 kB  1 h 00 min ago  replaced  inc-1     a/1\\x1b\n" in out
    assert "2 entries, 4.1 kB" in out
    assert main(["trash", "restore", "n2", "photos", "t1", "t2", "--to", "/tmp/back"]) == 0
    assert api.requests[-1].body == {"volume": "photos", "ids": ["t1", "t2"], "to": "/tmp/back"}
    assert main(["trash", "restore", "n2", "photos", "t1", "--in-place"]) == 0
    assert api.requests[-1].body == {"volume": "photos", "ids": ["t1"], "in_place": True}
    assert main(["trash", "restore", "n2", "photos", "t1", "--to", "relative"]) == 2
    with pytest.raises(SystemExit):
        main(["trash", "restore", "n2", "photos", "t1"])


def test_all_that_an_incident_or_a_directory_lost_is_restored_at_once(
    api: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each file needed its ID."""
    monkeypatch.setattr(trash, "ENTRIES_AT_ONCE", 2)
    places = {"t1": "sea/b", "t2": "sea/a", "t3": "sea/b", "t4": "seals", "t5": "sea/c", "t6": "sea"}
    api.routes["GET /api/v1/nodes/n2/trash"] = clifake.page(
        [trashed(number) | {"path": place} for number, place in enumerate(places.values(), 1)]
    )
    api.routes["POST /api/v1/nodes/n2/trash/restore"] = {"node": "n2", "items": [{"id": "x"}]}
    restore = ["trash", "restore", "n2", "photos"]

    def asked() -> list[list[str]]:
        found = [one.body["ids"] for one in api.requests if one.method == "POST"]
        api.requests.clear()
        return found

    assert main([*restore, "t2", "--path", "/sea/", "--to", "/back"]) == 0
    assert asked() == [["t2"], ["t6", "t1", "t3"], ["t5"]], "versions of one path are told apart by the node"
    assert capsys.readouterr().out == "5 entries restored to /back on n2\n"
    assert main([*restore, "--incident", "inc-1", "--to", "/back", "--json"]) == 0
    assert api.requests[0].query["incident"] == "inc-1"
    assert api.requests[0].query["volume"] == "photos"
    assert sum(map(len, asked())) == 6
    assert msgspec.json.decode(capsys.readouterr().out) == {"node": "n2", "items": [{"id": "x"}] * 3}
    assert main([*restore, "--path", "lake", "--to", "/back"]) == 1
    assert "Nothing of that lies in the trash of n2" in capsys.readouterr().err
    assert main([*restore, "--to", "/back"]) == 2
    assert "--path PREFIX or --incident ID" in capsys.readouterr().err
    assert not asked()

    answers = [
        (200, {"node": "n2", "items": []}),
        (409, clifake.error("trash_refused", "/back/sea/c exists")),
    ]
    api.routes["POST /api/v1/nodes/n2/trash/restore"] = lambda _: answers.pop(0)
    assert main([*restore, "--path", "sea", "--to", "/back"]) == 1
    assert capsys.readouterr().err == (
        "2 entries had been restored to /back on n2 before this:\ncloseranks: /back/sea/c exists\n"
    )


def test_a_trash_of_very_many_is_counted_by_directory_on_a_terminal(
    api: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nine hundred lines of one rewritten log hid the forty files that somebody looked for."""
    places = ["var"] * 900 + ["2026/Sea"] * 40 + ["2026/Seals"]
    many = [
        {
            **trashed(number),
            "path": f"{place}/{number}",
            "trashed_at": f"2025-11-22T15:{number // 60:02}:{number % 60:02}.000Z",
        }
        for number, place in enumerate(places)
    ]
    api.routes["GET /api/v1/nodes/n2/trash"] = clifake.page(many)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")

    def listed(*more: str) -> list[str]:
        out = io.StringIO()
        with monkeypatch.context() as terminal:
            terminal.setattr(out, "isatty", lambda: True)
            terminal.setattr("sys.stdout", out)
            assert main(["trash", "list", "n2", *more]) == 0
        return [line.rstrip() for line in out.getvalue().splitlines()]

    shown = listed()
    assert [line.split() for line in shown[:3]] == [
        ["VOLUME", "ENTRIES", "SIZE", "NEWEST", "DIRECTORY"],
        ["photos", "900", "1.8", "MB", "45", "min", "ago", "var/"],
        ["photos", "40", "81.9", "kB", "44", "min", "ago", "2026/Sea/"],
    ]
    assert len(shown) < 20
    assert any("t940" in line for line in shown), "what came last is at hand"
    assert "941 entries, 1.9 MB; restore with: closeranks trash restore n2 VOLUME ID --to DIR" in shown
    assert shown[-1].startswith("each of them: closeranks trash list n2 --all")
    assert len(listed("--all")) == 943
    below = listed("--under", "2026/Sea/", "--all")
    assert len(below) == 42
    assert "40 entries" in below[-1]
    assert listed("--under", "2027") == ["Nothing of 2027 in the trash of n2."]
    assert main(["trash", "list", "n2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 943, "programs get each"


def test_incidents(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    closed = clifake.incident(id="inc-0", state="closed", node=None, kind="undetermined")
    api.routes["GET /api/v1/incidents"] = clifake.page([clifake.incident(), closed])
    assert main(["incidents"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert main(["incidents", "--open", "--node", "n2"]) == 0
    assert {"state": "open", "node": "n2"}.items() <= api.requests[-1].query.items()
    capsys.readouterr()
    api.routes["GET /api/v1/incidents"] = clifake.page([])
    assert main(["incidents"]) == 0
    assert capsys.readouterr().out == "No incidents.\n"


def test_a_report_in_each_format(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes["GET /api/v1/incidents/inc-1/report"] = lambda request: {
        "md": b"# inc-1\n\x1b[2J\n", "html": b"<p>inc-1</p>", "json": b'{"id": "inc-1"}',
    }[request.query["format"]]  # fmt: skip
    assert main(["incident", "inc-1"]) == 0
    assert capsys.readouterr().out == "# inc-1\n\\x1b[2J\n"
    assert main(["incident", "inc-1", "--format", "html"]) == 0
    assert capsys.readouterr().out == "<p>inc-1</p>\n"
    assert main(["incident", "inc-1", "--format", "json"]) == 0
    assert capsys.readouterr().out == '{"id": "inc-1"}\n'
    assert main(["incident", "inc-9"]) == 2


def test_a_terminal_gets_the_report_as_text_and_folded(api: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Markdown showed its escapes there: `\\*` for a star, and a path a line for a thousand lines."""
    api.routes["GET /api/v1/incidents/inc-1/report"] = lambda request: {
        "md": b"# inc\\-1\n", "text": b"WHAT TO DO\n  " + b"word " * 30 + b"\n",
    }[request.query["format"]]  # fmt: skip
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdout", out)
    assert main(["incident", "inc-1"]) == 0
    title, *lines = out.getvalue().splitlines()
    assert title == "WHAT TO DO"
    assert len(lines) == 2
    assert max(map(len, lines)) <= 80
    assert main(["incident", "inc-1", "--format", "md"]) == 0
    assert out.getvalue().endswith("# inc\\-1\n")


def test_a_resync_that_leaves_undetermined_paths_says_so(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    accept(api, "POST /api/v1/nodes/n2/resync")
    actions_in_turn(api, clifake.action())
    split, other = clifake.volume(undetermined=2), clifake.volume("other", ("n1", "n3"), undetermined=3)
    api.routes["GET /api/v1/fleet"] = clifake.fleet([clifake.node("n2")], [split, other], in_rank=False)
    assert main(["resync", "n2", "--wait"]) == 0
    out = capsys.readouterr().out
    assert out.count("may still differ") == 1
    assert "note: 2 paths of photos may still differ: nobody can tell which version is right" in out
