"""The first lines of `closeranks status`, and what it says of nodes that are in rank or only late."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import clifake
from clifake import Fake
from closeranks_coordinator.cli.main import main
from closeranks_coordinator.cli.reasons import next_steps
from closeranks_coordinator.core import shapes as model


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    monkeypatch.delenv("CLOSERANKS_TOKEN_FILE", raising=False)
    with clifake.serving(Fake()) as fake:
        monkeypatch.setenv("CLOSERANKS_URL", fake.url)
        fake.routes["GET /api/v1/incidents"] = clifake.page([])
        yield fake


LATE = clifake.node_volume(differing_paths=3, lagging_paths=3, lag_s=2.0)
N1, N2 = clifake.node("n1"), clifake.node("n2")
LAGGING = clifake.node("n3", "lagging", LATE)
JOINING = clifake.node("n3", "joining", in_service=False)
NEVER = clifake.node("n4", "unreachable", connected=False, last_contact=None)
RECOVERING = clifake.node("n3", "resyncing", LATE)
FENCED = clifake.node("n3", "resyncing", LATE, quarantine=clifake.quarantine())


@pytest.mark.parametrize(
    ("nodes", "headline"),
    [
        ([N1, N2, LAGGING], "BEHIND: 1 of 3 nodes is being brought up to date; nobody is accused."),
        ([N1, RECOVERING, LAGGING], "BEHIND: 2 of 3 nodes are being brought up to date; nobody is accused."),
        ([N1, N2, JOINING], "JOINING: 1 of 3 nodes is not in rank yet; nobody is accused."),
        ([JOINING, JOINING], "STARTING: none of 2 nodes is in rank yet; their trees are being read and compared."),
        ([JOINING, NEVER], "STARTING: none of 2 nodes is in rank yet; their trees are being read and compared."),
        ([N1, NEVER], "OUT OF RANK: 1 of 2 nodes is not in rank."),
        ([N1, LAGGING, FENCED], "OUT OF RANK: 2 of 3 nodes are not in rank."),
        ([N1, LAGGING, clifake.node("n2", "suspect")], "OUT OF RANK: 2 of 3 nodes are not in rank."),
        ([N1, clifake.node("n2", "unreachable")], "OUT OF RANK: 1 of 2 nodes is not in rank."),
    ],
)  # fmt: skip
def test_the_headline_accuses_only_where_somebody_is_accused(
    api: Fake, capsys: pytest.CaptureFixture[str], nodes: list[model.NodeView], headline: str
) -> None:
    """The exit code is that of whoever is not in rank, all the same."""
    api.routes["GET /api/v1/fleet"] = clifake.fleet(nodes)
    assert main(["status"]) == 1
    assert capsys.readouterr().out.splitlines()[0] == headline


def test_a_node_that_is_late_and_accused_is_out_of_rank(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    api.routes["GET /api/v1/fleet"] = clifake.fleet([N1, LAGGING])
    api.routes["GET /api/v1/incidents"] = clifake.page([clifake.incident(node="n3")])
    assert main(["status"]) == 1
    assert capsys.readouterr().out.startswith("OUT OF RANK: 1 of 2 nodes is not in rank.\n")


def test_paths_that_nobody_can_tell_are_said_before_lag(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    api.routes["GET /api/v1/fleet"] = clifake.fleet([N1, LAGGING], [clifake.volume(undetermined=2)])
    assert main(["status"]) == 1
    assert capsys.readouterr().out.startswith("UNDETERMINED: ")


def test_a_burst_that_is_waited_for_is_said_to_be_one(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    held = clifake.node_volume("big", differing_paths=786, rest_s=5.0)
    api.routes["GET /api/v1/fleet"] = clifake.fleet([N1, clifake.node("n2", volume=held)])
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert (
        "n2 big: a burst of 786 paths is being watched before it spreads; it spreads as soon as n2 pauses (for 5 s at "
        "most)\n  next  nothing to do; a runaway would be held, and you asked\n" in out
    )
    assert "not for long enough" not in out


def test_who_is_out_of_service_is_said(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes["GET /api/v1/fleet"] = clifake.fleet([N1, N2, JOINING])
    assert main(["status"]) == 1
    assert "  why   out of service: /lb/n3 answers 503\n" in capsys.readouterr().out
    away = clifake.node("n4", "joining", in_service=False)
    api.routes["GET /api/v1/nodes"] = clifake.page([N1, JOINING, away])
    assert main(["nodes"]) == 0
    assert capsys.readouterr().out.endswith("\n\nn3 and n4  out of service: /lb/NODE answers 503\n")
    api.routes["GET /api/v1/nodes/n3"] = JOINING
    assert main(["nodes", "n3"]) == 0
    assert "  serves     no, out of service: /lb/n3 answers 503\n" in capsys.readouterr().out


def test_who_is_not_compared_is_named_with_reason_and_next_step(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = clifake.node_volume("big", compared=False)
    word = "n3 has no volume big: add it to its agent.toml and reload its agent (SIGHUP)"
    nodes = [
        N1,
        clifake.node("n2", volume=unknown, connected=False),
        clifake.node("n3", volume=unknown, waiting=word),
        clifake.node("n4", volume=unknown),
    ]
    api.routes["GET /api/v1/fleet"] = clifake.fleet(nodes, coverage=model.CoverageView(1, 4))
    assert main(["status"]) == 1
    out = capsys.readouterr().out
    assert "\nCompared 1 of 4 nodes: not n2, n3 and n4.\n" in out
    assert "\nn2 big: not compared: its agent is not connected at the moment\n  next  wait a moment" in out
    assert (
        f"\nn3 big: not compared: {word}\n  next  or, if n3 shall not have it: leave it out of `nodes`" in out
    )
    assert "\nn4 big: not compared: not read since it connected" in out


def test_the_next_step_of_a_suspect_is_about_the_volume_it_is_accused_in() -> None:
    late = clifake.node_volume("album", differing_paths=4, lagging_paths=4)
    own = clifake.node_volume("photos", differing_paths=1)
    node = clifake.node("n2", "suspect", volumes=(late, own))
    assert "closeranks diff photos n2" in next_steps(node, [])
    both = clifake.node("n2", "suspect", volumes=(clifake.node_volume("album", differing_paths=4), own))
    assert "closeranks diff photos n2" in next_steps(both, [clifake.incident(volume="photos")])
    assert "closeranks diff album n2" in next_steps(both, [clifake.incident(kind="conflict")])


def test_many_allowances_are_one_line(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    def allowed(node: str, guard: str) -> model.HoldView:
        return model.HoldView(
            "h-000001", guard, node, "photos", "allowed", "2025-11-22T15:56:00.000Z", "2025-11-22T16:12:58.958Z", "",
            "", 1, 1, None, (), (),
        )  # fmt: skip

    seven = tuple(allowed(f"n{at % 2 + 1}", "write_rate" if at % 3 else "disk_full") for at in range(7))
    for found, told in (
        (seven[:1], "h-000001  allowed: until 2025-11-22T16:12:58.958Z disk_full does not hold n1 again\n"),
        (
            seven,
            "allowed: 7 times guards look away, from n1 and n2 (disk_full and write_rate); `closeranks held` says "
            "until when\n",
        ),
    ):
        api.routes["GET /api/v1/fleet"] = clifake.fleet([N1, N2], allowed=found)
        assert main(["status"]) == 0
        out = capsys.readouterr().out
        assert told in out
        assert out.count("allowed: ") == 1


def test_the_conflicts_footer_is_true_of_a_first_who_deleted(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    one = model.ConflictView(
        "photos", "a", "", "a.conflict", "", "n1", "n2", "2025-11-22T15:58:00.000Z", "open", "removed by n1"
    )
    api.routes["GET /api/v1/volumes/photos/conflicts"] = clifake.page([one])
    assert main(["conflicts", "photos"]) == 1
    assert "PATH is as FIRST left it (not there, if FIRST deleted it)" in capsys.readouterr().out


def test_a_fleet_in_a_storm_is_not_simply_in_rank(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    """Most of what is written there comes when it is over: what was compared is what was there before."""
    detail = "very much is being written"
    stormy = clifake.node_volume(watch="inotify", watch_detail=detail, storm=True)
    api.routes["GET /api/v1/fleet"] = clifake.fleet([N1, clifake.node("n2", volume=stormy)])
    assert main(["status"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("All 2 nodes in rank, but for what is being written on n2 at this moment")
    assert f"n2 photos: {detail}" in shown
