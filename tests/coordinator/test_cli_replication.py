"""The command line of what replication brings: conflicts, speed, writers, watching; and names that nobody has."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

import clifake
from clifake import Fake, serving
from closeranks_coordinator.cli.conflicts import _print
from closeranks_coordinator.cli.main import main
from closeranks_coordinator.cli.screen import Screen
from closeranks_coordinator.core import shapes as model

PHP = model.HandView(
    4711, "/usr/bin/php", "php /var/www/x.php", 33, 1000, "apache2.service", ("1 /sbin/init",), 41, 3_200_000_000,
    "2025-11-22T15:59:00.000Z", "",
)  # fmt: skip
NOBODY = model.HandView(
    0, "", "", None, None, "", (), 900, 12, "2025-11-22T15:59:30.000Z", "inotify does not tell who writes"
)
OUTSIDE = msgspec.structs.replace(PHP, pid=12, exe="/usr/bin/dd", detail="outside the volumes, on some disk")
CONFLICT = model.ConflictView(
    "photos", "a.jpg", "YS5qcGc=", "a.conflict-n2.jpg", "YQ==", "n1", "n2", "2025-11-22T15:58:00.000Z", "open",
    "both versions are kept",
)  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    with serving(Fake()) as fake:
        monkeypatch.setenv("CLOSERANKS_URL", fake.url)
        yield fake


def speed(fleet: int | None = None, *limits: int | None) -> model.SpeedView:
    nodes: list[dict[str, Any]] = [
        {"node": f"n{number}", "receive_bytes_s": limit, "serve_bytes_s": limit, "why": "by hand"}
        for number, limit in enumerate(limits, 1)
    ]
    return model.SpeedView(fleet, "the configuration" if fleet else "no limit is set", tuple(nodes))


# --- conflicts -------------------------------------------------------------------------------------


def test_conflicts_of_every_volume_are_listed(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes["GET /api/v1/volumes"] = clifake.page([clifake.volume(), clifake.volume("web")])
    api.routes["GET /api/v1/volumes/photos/conflicts"] = clifake.page([CONFLICT])
    api.routes["GET /api/v1/volumes/web/conflicts"] = clifake.page([])
    assert main(["conflicts"]) == 1
    out = capsys.readouterr().out
    assert "photos  open   2 min 00 s ago  n1     n2" in out
    assert "a.conflict-n2.jpg" in out
    assert "1 conflict open." in out


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
def test_conflicts_tear_no_name_on_a_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """Of a torn name nobody can make a command."""
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", str(columns))
    name = "albums/2025/summer in the mountains/DSC_0042"
    kept = f"{name}.conflict-n2-20261122-193800-3fa2c1.jpg"
    one = msgspec.structs.replace(CONFLICT, path=f"{name}.jpg", kept_path=kept)
    out = Terminal()
    _print(Screen(out, io.StringIO()), [one, CONFLICT], 1_763_827_200_000)
    shown = [line.rstrip() for line in out.getvalue().partition("2 conflicts open")[0].splitlines()]
    for path in (f"{name}.jpg", f"kept as {kept}", "a.jpg", "kept as a.conflict-n2.jpg"):
        (line,) = [line for line in shown if f"  {line}".endswith(f"  {path}")]
        assert len(line) <= columns or line.strip() == path
    assert all(len(line) <= columns for line in shown if name not in line)
    assert " ".join(out.getvalue().split()).count("both versions are kept") == 2
    assert all(word in " ".join(out.getvalue().split()) for word in ("photos", "n1", "n2", "2 min 00 s ago"))


def test_conflicts_of_all_volumes_and_pages_are_one_document(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    api.routes["GET /api/v1/volumes"] = clifake.page([clifake.volume(), clifake.volume("web")])
    of_web = msgspec.structs.replace(CONFLICT, volume="web")
    api.routes["GET /api/v1/volumes/photos/conflicts"] = lambda request: (
        clifake.page([CONFLICT])
        if request.query.get("cursor") == "next"
        else clifake.page([CONFLICT], "next")
    )
    api.routes["GET /api/v1/volumes/web/conflicts"] = clifake.page([of_web])
    assert main(["conflicts", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert [one["volume"] for one in document["items"]] == ["photos", "photos", "web"]
    assert document["next_cursor"] is None


def test_no_open_conflict_exits_0(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes["GET /api/v1/volumes/photos/conflicts"] = clifake.page([])
    assert main(["conflicts", "photos"]) == 0
    assert capsys.readouterr().out == "No conflicts.\n"
    assert api.requests[-1].query["state"] == "open"


def test_a_deleted_loser_has_no_second_name(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    deleted = model.ConflictView(
        "photos", "a.jpg", "", None, None, "n1", "n2", "2025-11-22T15:58:00.000Z", "resolved", "deleted"
    )
    api.routes["GET /api/v1/volumes/photos/conflicts"] = clifake.page([deleted])
    assert main(["conflicts", "photos", "--all"]) == 0
    assert "- (it was deleted there)" in capsys.readouterr().out


# --- speed -----------------------------------------------------------------------------------------


def test_speed_shows_what_holds_and_why(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes["GET /api/v1/speed"] = speed(40_000_000, 20_000_000, None)
    assert main(["speed"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("fleet  40.0 MB/s  (the configuration)\n")
    assert "n1          20.0 MB/s       20.0 MB/s  by hand" in out
    assert "n2           no limit        no limit" in out


@pytest.mark.parametrize(
    ("words", "body"),
    [
        (["--bytes-per-second", "20M"], {"bytes_s": 20_000_000}),
        (["--bytes-per-second", "2.5k", "--node", "n1"], {"node": "n1", "bytes_s": 2500}),
        (["--bytes-per-second", "none"], {"unlimited": True}),
        (["--node", "n1", "--bytes-per-second", "auto"], {"node": "n1", "bytes_s": None}),
        (["--faster"], {"bytes_s": 80_000_000}), (["--slower"], {"bytes_s": 20_000_000}),
        (["--slower", "--node", "n1"], {"node": "n1", "bytes_s": 5_000_000}),
    ],
)  # fmt: skip
def test_faster_and_slower_now(api: Fake, words: list[str], body: dict[str, Any]) -> None:
    api.routes["GET /api/v1/speed"] = api.routes["POST /api/v1/speed"] = speed(40_000_000, 10_000_000)
    assert main(["speed", *words]) == 0
    assert api.requests[-1].body == body


def test_a_speed_says_how_it_is_taken_back_from_the_same_node(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    api.routes["POST /api/v1/speed"] = speed(40_000_000, 10_000_000)
    assert main(["speed", "--node", "n1", "--bytes-per-second", "1M"]) == 0
    assert "(closeranks speed --node n1 --bytes-per-second auto)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["--bytes-per-second", "fast"], ["--bytes-per-second", "-1"], ["--faster"]]
)
def test_a_speed_that_is_none_exits_2(api: Fake, words: list[str]) -> None:
    api.routes["GET /api/v1/speed"] = speed(None, None)
    assert main(["speed", *words]) == 2
    assert not [one for one in api.requests if one.method == "POST"]


def test_a_speed_that_is_refused_exits_1(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes["POST /api/v1/speed"] = (400, clifake.error("bad_body", "too slow"))
    assert main(["speed", "--bytes-per-second", "2000"]) == 1
    assert capsys.readouterr().err == "closeranks: too slow\n"


def test_a_speed_beyond_what_is_allowed_is_a_wrong_use(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speed", "--bytes-per-second", "1"]) == 2
    assert "allowed are 1024 to" in capsys.readouterr().err


# --- who writes, how it is watched -------------------------------------------------------------------


def test_a_node_shows_who_wrote_most_by_bytes_and_by_files(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    api.routes["GET /api/v1/nodes/n2"] = clifake.node("n2", writers=(PHP, NOBODY))
    assert main(["nodes", "n2"]) == 0
    by_bytes, by_files = capsys.readouterr().out.split("most bytes first")[1].split("most files first")
    php = "/usr/bin/php (script /var/www/x.php, pid 4711, unit apache2.service, uid 33, login uid 1000)"
    assert by_bytes.index(php) < by_bytes.index("unknown: inotify does not tell who writes")
    assert by_files.index("unknown: inotify does not tell who writes") < by_files.index(php)
    assert "3.2 GB" in by_bytes
    assert "started by 1 /sbin/init" in by_bytes


def test_a_node_shows_how_its_volumes_are_watched(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    held = clifake.node_volume(watch="rescan", watch_detail="no permission", watch_dropped=3, hard_links=2)
    api.routes["GET /api/v1/nodes/n2"] = clifake.node("n2", volume=held)
    assert main(["nodes", "n2"]) == 0
    out = capsys.readouterr().out
    assert "watched    rescan: no permission" in out
    assert "lost       events 3 times" in out
    assert "hard links 2 names" in out


def test_status_tells_of_open_conflicts_and_of_what_is_not_watched(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    held = clifake.node_volume(watch="rescan", watch_detail="too few inotify watches")
    nodes = [clifake.node("n1"), clifake.node("n2", volume=held), clifake.node("n3")]
    writers = clifake.volume(policy="writers", writers=("n1",), conflicts=2)
    api.routes["GET /api/v1/fleet"] = clifake.fleet(nodes, [writers])
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert "photos: 2 conflicts of writers open\n  next  closeranks conflicts photos\n" in out
    assert "n2 photos: not watched, only scanned: too few inotify watches" in out
    assert "1 writer" in out


def test_status_shows_how_far_the_last_node_is_behind(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    late = clifake.node("n2", "lagging", clifake.node_volume(lagging_paths=3, lag_s=75.0))
    early = clifake.node("n1", volume=clifake.node_volume(lag_s=0.0))
    api.routes["GET /api/v1/fleet"] = clifake.fleet([early, late], [clifake.volume(policy="any-writer")])
    api.routes["GET /api/v1/incidents"] = clifake.page([])
    assert main(["status"]) == 1
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("photos"))
    assert "1 min 15 s" in row
    assert "> " not in row


def test_status_says_where_a_lag_is_the_least_that_it_is(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    held = clifake.node_volume(differing_paths=3, lagging_paths=3, lag_s=75.0, lag_at_least=True)
    api.routes["GET /api/v1/fleet"] = clifake.fleet([clifake.node("n2", "lagging", held)])
    api.routes["GET /api/v1/incidents"] = clifake.page([])
    assert main(["status"]) == 1
    out = capsys.readouterr().out
    assert "behind by at least 1 min 15 s, 3 paths to catch up" in out
    assert out.count("> 1 min 15 s") == 2, "of the volume, and of the node"


# --- names that nobody has, and trash that lies elsewhere --------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["nodes", "n9"], ["incident", "i-9"], ["quarantine", "n9", "--reason", "x"], ["release", "n9"],
        ["resync", "n9"], ["resync", "n9", "--wait"], ["trash", "list", "n9"], ["baseline", "show", "none"],
        ["baseline", "delete", "none"], ["baseline", "pin", "photos", "none"], ["diff", "photos", "n9"],
        ["conflicts", "none"], ["speed", "--node", "n9"], ["speed", "--node", "n9", "--bytes-per-second", "1M"],
        ["trash", "restore", "n9", "photos", "1", "--to", "/x"],
    ],
)  # fmt: skip
def test_a_name_that_nobody_has_exits_2(api: Fake, words: list[str]) -> None:
    api.routes["GET /api/v1/speed"] = speed(None, None)
    assert main(words) == 2  # the fake answers 404 to what it has no route for


def test_incidents_of_a_node_that_nobody_has_exits_2(api: Fake) -> None:
    api.routes["GET /api/v1/incidents"] = clifake.page([])
    assert main(["incidents", "--node", "n9"]) == 2
    api.routes["GET /api/v1/nodes/n2"] = clifake.node("n2")
    assert main(["incidents", "--node", "n2"]) == 0


def test_an_empty_trash_says_why(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes["GET /api/v1/nodes/n1/trash"] = api.routes["GET /api/v1/nodes/n2/trash"] = clifake.page([])
    api.routes["GET /api/v1/incidents/inc-1"] = clifake.incident(files_trashed=3)
    assert main(["trash", "list", "n1", "--incident", "inc-1"]) == 0
    out = capsys.readouterr().out
    assert "it is about n2" in out
    assert "closeranks trash list n2 --incident inc-1" in out
    main(["trash", "list", "n2", "--incident", "inc-1"])
    assert "set 3 items aside on n2, and nothing of it is in the trash any more" in capsys.readouterr().out
    api.routes["GET /api/v1/incidents/inc-1"] = clifake.incident(files_trashed=0)
    main(["trash", "list", "n2", "--incident", "inc-1"])
    assert capsys.readouterr().out == "Incident inc-1 set nothing aside on n2.\n"
    assert main(["trash", "list", "n2", "--incident", "inc-2"]) == 2


def test_the_trash_of_a_volume_that_the_node_has_not_exits_2(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "n2 has no volume 'none'; it has: photos"
    api.routes["GET /api/v1/nodes/n2/trash"] = (404, clifake.error("unknown_volume", text))
    for words in (["n2", "none"], ["n2", "none", "--json"]):
        assert main(["trash", "list", *words]) == 2
        assert capsys.readouterr().err == f"closeranks: {text}\n"


def test_writers_outside_the_volumes_are_told_as_such_and_none_is_left_out_silently(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    many = tuple(msgspec.structs.replace(PHP, pid=n, exe=f"/bin/x{n}", bytes=n) for n in range(1, 8))
    api.routes["GET /api/v1/nodes/n2"] = clifake.node("n2", writers=(OUTSIDE, *many))
    assert main(["nodes", "n2"]) == 0
    out = capsys.readouterr().out
    assert (
        "/usr/bin/dd (pid 12, unit apache2.service, uid 33, login uid 1000), outside the volumes, 41 files"
        in out
    )
    assert "  and 2 more: closeranks nodes n2 --json\n" in out


def test_who_writes_beside_the_volumes_is_told_behind_who_writes_in_them(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five busy programs that have nothing to do with a volume were all that was seen of who writes most."""
    beside = [
        msgspec.structs.replace(OUTSIDE, exe=f"/usr/bin/dd{n}", bytes=10**10 + n, files=0) for n in range(7)
    ]
    writers = (*beside, msgspec.structs.replace(PHP, bytes=5, files=1))
    api.routes["GET /api/v1/nodes/n2"] = msgspec.structs.replace(clifake.node("n2"), writers=writers)
    assert main(["nodes", "n2"]) == 0
    inside, outside = capsys.readouterr().out.split("beside the volumes, most bytes first")
    assert "/usr/bin/php" in inside.split("most bytes first")[1]
    assert "/usr/bin/dd" not in inside
    assert outside.count("/usr/bin/dd") == 2
    assert "and 5 more: closeranks nodes n2 --json" in outside
