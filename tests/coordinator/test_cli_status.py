"""`closeranks status` and `nodes`: what an operator reads, to the letter, and the exit code."""

from __future__ import annotations

import io
from collections.abc import Iterator

import msgspec
import pytest

import clifake
from clifake import Fake
from closeranks_coordinator.cli.main import main
from closeranks_coordinator.cli.reasons import next_steps, reasons
from closeranks_coordinator.core import shapes as model


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    monkeypatch.delenv("CLOSERANKS_TOKEN_FILE", raising=False)
    with clifake.serving(Fake()) as fake:
        monkeypatch.setenv("CLOSERANKS_URL", fake.url)
        yield fake


def in_rank(count: int = 3) -> model.FleetView:
    return clifake.fleet([clifake.node(f"n{number}") for number in range(1, count + 1)])


def test_all_in_rank(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes["GET /api/v1/fleet"] = in_rank()
    assert main(["status"]) == 0
    assert capsys.readouterr().out == (
        "All 3 nodes in rank.\n"
        "\n"
        "VOLUME  POLICY  IN RANK       VOTERS  UNDETERMINED  LAG  FILES    SIZE  TRUTH\n"
        "photos  quorum      3/3  3, quorum 2             0    -   1200  3.5 GB  0123456789ab\n"
        "\n"
        "NODE  STATE           FOR  VOLUME  DIFFER  UNCONFIRMED  LAG  CONTACT  ROOT\n"
        "n1    in_rank  4 min 00 s  photos       0            0    -      now  0123456789ab\n"
        "n2    in_rank  4 min 00 s  photos       0            0    -      now  0123456789ab\n"
        "n3    in_rank  4 min 00 s  photos       0            0    -      now  0123456789ab\n"
    )


def test_a_fenced_node_is_named_with_reason_and_next_step(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    differing = clifake.node_volume(root=clifake.OTHER_ROOT, differing_paths=12, differing_bytes=4 * 10**6)
    fenced = clifake.node("n2", "quarantined", differing, quarantine=clifake.quarantine(release="by_hand"))
    nodes = [clifake.node("n1"), fenced, clifake.node("n3")]
    api.routes["GET /api/v1/fleet"] = clifake.fleet(nodes, [clifake.volume(in_rank_nodes=2)])
    api.routes["GET /api/v1/incidents"] = clifake.page([clifake.incident()])
    assert main(["status"]) == 1
    out = capsys.readouterr().out
    assert out.startswith(
        "OUT OF RANK: 1 of 3 nodes is not in rank.\n"
        "\n"
        "n2  QUARANTINED for 4 min 00 s\n"
        "  why   n2 holds 12 paths that 2 of 3 nodes hold otherwise (incident inc-1)\n"
        "  why   photos: 12 paths differ from the truth, 4.0 MB\n"
        "  next  closeranks incident inc-1\n"
        "  next  closeranks resync n2 --wait   then: closeranks release n2\n"
    )


N1, N2 = clifake.node("n1"), clifake.node("n2")
LAGGING = clifake.node("n1", "lagging", clifake.node_volume(lagging_paths=3, lag_s=12.0))
AWAY = clifake.node("n1", "unreachable", connected=False)


@pytest.mark.parametrize(
    ("name", "view", "said"),
    [
        ("lag", clifake.fleet([LAGGING]), "behind by 12 s"),
        ("silence", clifake.fleet([AWAY]), "no contact: last heard 2 s ago"),
        ("undetermined", clifake.fleet([N1, N2], [clifake.volume(undetermined=2)], in_rank=False), "nobody is accused"),
        ("coverage", clifake.fleet([N1], coverage=model.CoverageView(13, 16)), "Compared 13 of 16"),
        ("no truth", clifake.fleet([N1], [clifake.volume(truth_root=None)]), "NO TRUTH YET"),
        ("no pin", clifake.fleet([N1], [clifake.volume(truth_root=None, policy="baseline")]), "baseline pin photos"),
        ("no pin any more", clifake.fleet([N1], [clifake.volume(truth_root=None, policy="baseline", undetermined=7)]),
         "NO TRUTH YET"),
        ("a full disk", clifake.fleet([N1], in_rank=False, problem="no room"), "what it knew before: no room"),
        ("its own word", clifake.fleet([N1], in_rank=False), "NOT PROVEN"),
    ],
)  # fmt: skip
def test_whatever_is_not_proven_exits_1(
    api: Fake, capsys: pytest.CaptureFixture[str], name: str, view: model.FleetView, said: str
) -> None:
    api.routes["GET /api/v1/fleet"] = view
    api.routes["GET /api/v1/incidents"] = clifake.page([])
    assert main(["status"]) == 1
    assert said in capsys.readouterr().out


def test_what_is_not_proven_says_why_and_what_to_do(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    unread = tuple(
        {"path": path, "path_b64": "", "why": why, "detail": "Input/output error"}
        for path, why in (("a/b", "unreadable"), ("socket", "special"), ("c" * 900, "too_large"))
    )
    view = clifake.node("n1", "in_rank", clifake.node_volume(unreadable=3, unreadable_paths=unread))
    api.routes["GET /api/v1/fleet"] = clifake.fleet([view], in_rank=False)
    api.routes["GET /api/v1/incidents"] = clifake.page([])
    assert main(["status"]) == 1
    out = capsys.readouterr().out
    assert "n1 photos: not known to be equal, could not be read: " in out
    assert "a/b (Input/output error), and 1 more" in out
    assert "closeranks nodes n1" in out


def test_bits_that_are_not_written_and_what_is_not_judged_yet_are_told_of_nodes_in_rank(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    one = clifake.node("n1", "in_rank", clifake.node_volume(withheld=2))
    two = clifake.node("n2", "in_rank", clifake.node_volume(withheld=1, differing_paths=7))
    api.routes["GET /api/v1/fleet"] = clifake.fleet([one, two])
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert "sticky bits of 2 paths are not written on 2 nodes; special_bits = true" in out
    assert "closeranks diff photos n1   (names them)" in out
    assert "n2 photos: 7 paths differ, not for long enough" in out


def test_status_without_incidents_still_shows_the_fleet(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    api.routes["GET /api/v1/fleet"] = clifake.fleet(
        [clifake.node("n1", "suspect", blocked_by="max_quarantined")]
    )
    api.routes["GET /api/v1/incidents"] = (500, clifake.error("fault", "broken"))
    assert main(["status"]) == 1
    captured = capsys.readouterr()
    assert "as many as max_quarantined are fenced already" in captured.out
    assert "could not be read" in captured.err


def test_json_is_the_answer_unchanged(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    body = msgspec.json.format(msgspec.json.encode(in_rank()), indent=3)
    api.routes["GET /api/v1/fleet"] = body
    assert main(["status", "--json"]) == 0
    assert capsys.readouterr().out == body.decode() + "\n"


def test_a_refusal_of_status_is_not_out_of_rank(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 2


def test_nodes_golden(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    away = clifake.node("n2", "unreachable", connected=False, address=None)
    two = clifake.node("n3", volumes=(clifake.node_volume("a"), clifake.node_volume("b", files=None)))
    api.routes["GET /api/v1/nodes"] = clifake.page([clifake.node("n1"), away, two])
    assert main(["nodes"]) == 0
    assert capsys.readouterr().out == (
        "NODE  STATE               FOR  DIFFER  BYTES  LAG  FILES  CONTACT  ROOT          ADDRESS\n"
        "n1    in_rank      4 min 00 s       0    0 B    -   1200      now  0123456789ab  n1:7342\n"
        "n2    unreachable  4 min 00 s       0    0 B    -   1200      2 s  0123456789ab  -\n"
        "n3    in_rank      4 min 00 s       0    0 B    -      -      now  (2 volumes)   n3:7342\n"
    )


def test_nodes_follows_the_cursor(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    pages = {None: ([clifake.node("n1")], "c1"), "c1": ([clifake.node("n2")], None)}
    api.routes["GET /api/v1/nodes"] = lambda request: clifake.page(*pages[request.query.get("cursor")])
    assert main(["nodes"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["NODE", "n1", "n2"]


def test_a_cursor_in_a_circle_ends(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes["GET /api/v1/nodes"] = clifake.page([clifake.node("n1")], "again")
    assert main(["nodes"]) == 2
    assert "does not end" in capsys.readouterr().err


def test_one_node_shows_all(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    problem = model.ProblemView("no_space", "the disk is full", None, 5 * 10**6, 10**6)
    unreadable = ({"path": "a\\x1b", "path_b64": "", "why": "unreadable", "detail": "Input/output error"},)
    held = clifake.node_volume(
        problem=problem, unreadable=3, unreadable_paths=unreadable, withheld=1, differing_paths=2,
        progress={"phase": "fetch", "steps_done": 3, "steps_total": 9, "bytes_moved": 1000, "bytes_remaining": 2000},
    )  # fmt: skip
    view = clifake.node(
        "n2", "resyncing", held, quarantine=clifake.quarantine(acknowledged=False),
        disk=(model.DiskView("photos", 10**9, 250 * 10**6),),
    )  # fmt: skip
    api.routes["GET /api/v1/nodes/n2"] = view
    assert main(["nodes", "n2"]) == 0
    out = capsys.readouterr().out
    for part in (
        "n2  RESYNCING for 4 min 00 s", "token 3: 12 paths differ", "has not confirmed its fence",
        "problem    no_space: the disk is full (needs 5.0 MB, 1.0 MB free)",
        "fetching, 3 of 9 steps, 1.0 kB moved, 2.0 kB to go",
        "a\\x1b: unreadable (Input/output error)", "and 2 more", "250.0 MB free (25% of 1.0 GB)", "set-uid",
    ):  # fmt: skip
        assert part in out


def test_who_is_late_under_a_limit_is_said_to_be_limited(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who had set one for the day wondered in the night why nothing came."""
    nodes = [clifake.node("n1"), clifake.node("n2", "lagging")]
    limits = {"n1": "2.0 MB/s at most (by hand)", "n2": "2.0 MB/s at most (by hand)"}
    api.routes["GET /api/v1/fleet"] = clifake.fleet(nodes, in_rank=False, limits=limits)
    api.routes["GET /api/v1/incidents"] = clifake.page([])
    assert main(["status"]) == 1
    out = capsys.readouterr().out
    assert out.count("it fetches 2.0 MB/s at most (by hand); see: closeranks speed") == 1


def test_what_waits_for_room_is_not_about_to_be_brought_back(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = model.ProblemView("trash_full", "the trash has no room", None, 5 * 10**6, 10**6)
    progress: dict[str, int | str] = {"action": "a-1", "phase": "converge", "bytes_moved": 0}
    waiting = clifake.node("n2", "resyncing", clifake.node_volume(problem=problem, progress=progress))
    api.routes["GET /api/v1/nodes/n2"] = waiting
    assert main(["nodes", "n2"]) == 0
    assert "about to be" not in " ".join([capsys.readouterr().out, *reasons(waiting, [], 0)])
    ready = clifake.node("n2", "resyncing", clifake.node_volume(progress=progress))
    assert "photos: about to be brought back" in reasons(ready, [], 0)


@pytest.mark.parametrize("state", ["lagging", "resyncing"])
def test_who_lacks_room_is_told_how_much_and_where(state: str) -> None:
    def steps(code: str) -> str:
        problem = model.ProblemView(code, "no room", None, 5 * 10**6, 10**6)
        return " ".join(next_steps(clifake.node("n2", state, clifake.node_volume(problem=problem)), []))

    assert "n2: make room" in steps("no_space")
    assert "5.0 MB free" in steps("no_space")
    assert "trash_max_bytes of photos" in steps("trash_full"), "a larger disk alone does not end it"
    assert "has room for 5.0 MB, and reload the coordinator" in steps("trash_full")
    assert "wait; if it does not catch up" in steps("io_error") or state == "resyncing"


def test_who_lags_beside_a_disk_that_only_fills_is_not_told_to_repair_something_first() -> None:
    care = model.CareView("n2's disk fills with what closeranks puts there", "make room")
    view = msgspec.structs.replace(clifake.node("n2", "lagging"), cares=[care])
    assert next_steps(view, []) == [
        "wait; if it does not catch up, put right what is said of it: closeranks nodes n2"
    ]


def test_who_lags_and_says_why_is_not_told_to_wait() -> None:
    late = clifake.node("n2", "lagging", clifake.node_volume(lagging_paths=1, lag_s=75.0))
    view = msgspec.structs.replace(late, waiting="photos: a: it could not be changed")
    assert next_steps(view, []) == ["on n2: put right what is said above; it goes on by itself then"]
    assert "photos: a: it could not be changed" in reasons(view, [], 0)


def test_an_unknown_node_exits_2_and_says_so(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes["GET /api/v1/nodes/n9"] = (404, clifake.error("unknown_node", "there is no node n9"))
    assert main(["nodes", "n9"]) == 2
    assert capsys.readouterr().err == "closeranks: there is no node n9\n"


def test_a_name_can_not_leave_its_path_segment(api: Fake) -> None:
    main(["nodes", "../fleet?x=1"])
    assert api.requests[0].path == "/api/v1/nodes/..%2Ffleet%3Fx%3D1"


def test_hostile_text_never_reaches_the_terminal(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b]0;owned\x07\u202egnp\n\x9b31m"
    bad = clifake.node("n1", "suspect", address=evil, quarantine=clifake.quarantine(reason=evil))
    api.routes["GET /api/v1/fleet"] = clifake.fleet([bad])
    api.routes["GET /api/v1/incidents"] = clifake.page(
        [clifake.incident(node="n1", summary=evil, id="i" + evil)]
    )
    api.routes["GET /api/v1/nodes"] = clifake.page([bad])
    api.routes["GET /api/v1/nodes/n1"] = bad
    for words in (["status"], ["nodes"], ["nodes", "n1"], ["incidents"]):
        main(words)
        captured = capsys.readouterr()
        assert all(char.isprintable() or char == "\n" for char in captured.out + captured.err), words
        assert "\\x1b]0;owned" in captured.out


def test_what_a_node_waits_for_is_said_with_what_to_do() -> None:
    text = "Verification failed: a/one.jpg: Permission denied"
    view = clifake.node("n1", "verifying", waiting=text)
    assert reasons(view, [], 0)[-1] == text
    assert next_steps(view, []) == ["on n1: put right what is said above; it goes on by itself then"]


def test_many_nodes_that_are_not_watched_for_one_reason_are_one_line(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    held = clifake.node_volume(watch="rescan", watch_detail="too few inotify watches")
    nodes = [clifake.node(f"n{number}", volume=held) for number in range(1, 9)]
    api.routes["GET /api/v1/fleet"] = clifake.fleet(nodes)
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert "n1, n2, n3, n4, n5 and 3 more photos: not watched, only scanned: too few inotify watches" in out
    assert out.count("too few inotify watches") == 1


def test_what_a_fence_takes_is_a_reason(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fence = clifake.quarantine(by_hand=True, remarks=("n1 alone has the present version of 3 paths.",))
    api.routes["GET /api/v1/fleet"] = clifake.fleet([clifake.node("n1", "quarantined", quarantine=fence)])
    api.routes["GET /api/v1/incidents"] = clifake.page([])
    assert main(["status"]) == 1
    assert "  why   n1 alone has the present version of 3 paths." in capsys.readouterr().out


def test_what_is_said_of_a_disk_is_told_in_status_and_of_its_node(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody is out of rank for it, and somebody should make room."""
    care = model.CareView("n2's disk /srv fills with what the other nodes have", "make room on /srv of n2")
    full = clifake.node("n2", cares=(care,), disk=(model.DiskView("photos", 10**10, 10**8, 3 * 10**9),))
    api.routes["GET /api/v1/fleet"] = clifake.fleet([clifake.node("n1"), full])
    api.routes["GET /api/v1/nodes/n2"] = full
    assert main(["status"]) == 0
    told = capsys.readouterr().out
    assert "n2's disk /srv fills with what the other nodes have\n  next  make room on /srv of n2" in told
    main(["nodes", "n2"])
    told = capsys.readouterr().out
    assert "3.0 GB of the disk are trash" in told
    assert "n2's disk /srv fills with" in told
    assert "make room on /srv of n2" in told


def test_one_trouble_is_told_once_and_a_conflict_is_no_reason(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    message = "/srv/photos can not be opened: No such file or directory. Mount it or correct `path`."
    problem = model.ProblemView("not_mounted", message, None, None, None)
    held = clifake.node_volume(problem=problem, watch="rescan", watch_detail=message)
    nodes = [clifake.node("n1", "unreachable", held), clifake.node("n2")]
    api.routes["GET /api/v1/fleet"] = clifake.fleet(nodes)
    api.routes["GET /api/v1/incidents"] = clifake.page(
        [
            clifake.incident(
                id="i-1", kind="outage", node="n1", summary=f"n1 can not read photos: {message}"
            ),
            clifake.incident(id="i-2", kind="conflict", node="n1", summary="n1 and another writer wrote"),
        ]
    )
    assert main(["status"]) == 1
    out = capsys.readouterr().out
    assert out.count("No such file or directory") == 1
    assert "another writer" not in out


def test_nodes_of_which_the_same_is_to_be_said_are_told_together(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    late = clifake.node_volume(differing_paths=3, lagging_paths=3, lag_s=5.0)
    nodes = [clifake.node(f"n{number}", "lagging", late) for number in range(1, 9)]
    api.routes["GET /api/v1/fleet"] = clifake.fleet(
        [*nodes, clifake.node("n9", "suspect", blocked_by="max_quarantined")]
    )
    api.routes["GET /api/v1/incidents"] = clifake.page([])
    assert main(["status"]) == 1
    out = capsys.readouterr().out
    assert (
        "n1  LAGGING for 4 min 00 s, and 7 more nodes for the same reason: n2, n3, n4, n5, n6 and 2 more\n"
        in out
    )
    assert out.count("behind by 5 s, 3 paths to catch up") == 1
    assert "differ from the truth" not in out, "lag is no divergence"
    assert "  why   waits for its fence: as many as max_quarantined are fenced already\n" in out


def test_undetermined_advises_to_compare_two_sides_that_can_be_compared(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    other = clifake.node_volume(root=clifake.OTHER_ROOT)
    nodes = [
        clifake.node("n1", "quarantined", other, quarantine=clifake.quarantine()),
        clifake.node("n2"), clifake.node("n3"), clifake.node("n4", "in_rank", other, connected=False),
        clifake.node("n5", "in_rank", other),
    ]  # fmt: skip
    api.routes["GET /api/v1/fleet"] = clifake.fleet(
        nodes, [clifake.volume(nodes=("n1", "n2", "n3", "n4", "n5"), undetermined=1)], in_rank=False
    )
    told = clifake.incident(kind="undetermined", node=None, evidence={"sides": ["n3", "n5"]})
    for found, asked in ((told, "n3 --against n5"), (None, "n2 --against n5")):
        api.routes["GET /api/v1/incidents"] = clifake.page([found] if found else [])
        assert main(["status"]) == 1
        out = capsys.readouterr().out
        assert f"  next  closeranks diff photos {asked}\n" in out
    nodes = nodes[:3]
    api.routes["GET /api/v1/fleet"] = clifake.fleet(nodes, [clifake.volume(undetermined=1)], in_rank=False)
    assert main(["status"]) == 1
    assert "--against" not in capsys.readouterr().out, "equal trees show nothing"


def test_open_incidents_that_are_told_nowhere_else_are_counted(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    api.routes["GET /api/v1/fleet"] = in_rank()
    kinds = (("duplicate_node", "n2"), ("recurrence", "n1"), ("recurrence", "n3"), ("undetermined", None))
    api.routes["GET /api/v1/incidents"] = clifake.page(
        [clifake.incident(id=f"i-{at}", kind=kind, node=node) for at, (kind, node) in enumerate(kinds)]
    )
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert "also open: 4 incidents: duplicate_node, recurrence (2) and undetermined\n" in out
    assert "  next  closeranks incidents --open\n" in out
    away = clifake.fleet(
        [clifake.node("n1", "suspect"), clifake.node("n2")], [clifake.volume(undetermined=1)]
    )
    api.routes["GET /api/v1/fleet"] = away
    assert main(["status"]) == 1
    out = capsys.readouterr().out
    assert "also open: 2 incidents: duplicate_node and recurrence\n" in out, (
        "n1 and the volume are told above"
    )


def test_more_open_incidents_than_one_page_has_are_counted(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    api.routes["GET /api/v1/fleet"] = in_rank()
    first, second = ([clifake.incident(kind="recurrence", node=node)] * 250 for node in ("n1", "n2"))
    api.routes["GET /api/v1/incidents"] = lambda request: (
        clifake.page(second) if request.query.get("cursor") == "next" else clifake.page(first, "next")
    )
    assert main(["status"]) == 0
    assert "also open: 500 incidents: recurrence (500)\n" in capsys.readouterr().out


def test_a_verified_node_is_not_said_to_differ(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fence = clifake.quarantine(verified=True, release="by_hand")
    api.routes["GET /api/v1/fleet"] = clifake.fleet([clifake.node("n2", "quarantined", quarantine=fence)])
    api.routes["GET /api/v1/incidents"] = clifake.page(
        [clifake.incident(summary="n2 holds what the truth never had in 1 path")]
    )
    assert main(["status"]) == 1
    assert (
        "  why   equal to the truth again, read back from disk; fenced before, because n2 holds what the truth never "
        "had in 1 path (incident inc-1)\n" in capsys.readouterr().out
    )


def test_without_a_pin_nobody_speaks_of_a_quorum(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    volume = clifake.volume(truth_root=None, policy="baseline", undetermined=7)
    api.routes["GET /api/v1/fleet"] = clifake.fleet([N1, N2], [volume], in_rank=False)
    api.routes["GET /api/v1/incidents"] = clifake.page([])
    assert main(["status"]) == 1
    out = capsys.readouterr().out
    assert "a volume has no baseline pinned to be compared with" in out
    assert "no quorum" not in out


def test_a_node_that_is_held_for_a_full_disk_with_nothing_kept_back_is_told_to_make_room() -> None:
    node = clifake.node("n2", "held", holds=("h-000001",), wants_room=True)
    (step,) = next_steps(node, [])
    assert step.startswith("on n2: free some room on the disk")
    decides = next_steps(clifake.node("n2", "held", holds=("h-000001",)), [])
    assert [one.split()[1] for one in decides] == ["allow", "reject"]


def test_on_a_terminal_what_is_said_is_folded_under_its_label(
    api: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = clifake.incident(summary="n2 deleted " + "very " * 40 + "much")
    api.routes["GET /api/v1/fleet"] = clifake.fleet([clifake.node("n1"), clifake.node("n2", "suspect")])
    api.routes["GET /api/v1/incidents"] = clifake.page([told])
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdout", out)
    assert main(["status"]) == 1
    lines = out.getvalue().splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("  why   n2 deleted"))
    assert max(map(len, lines)) <= 80
    assert lines[at + 1].startswith("        very")
