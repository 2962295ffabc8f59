"""`closeranks scrub`, and what `closeranks nodes NODE` says of a scrub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

import clifake
from clifake import Fake, serving
from closeranks_coordinator.cli.main import main
from closeranks_coordinator.core import shapes as model

MB = 1_000_000


def tour(**changes: Any) -> model.ScrubVolumeView:
    base = model.ScrubVolumeView(
        "running", False, 30, 100, 12 * MB, 40 * MB, 0, 0, 0, "2025-11-22T15:59:00.000Z", None,
        "2025-11-19T16:00:00.000Z", 20 * MB, 200,
    )  # fmt: skip
    return msgspec.structs.replace(base, **changes)


def view(*tours: model.ScrubVolumeView | None) -> model.ScrubView:
    return model.ScrubView(
        tuple(
            model.ScrubNodeView(f"n{number}", True, False, None, {"photos": one})
            for number, one in enumerate(tours, 1)
        )
    )


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    with serving(Fake()) as fake:
        monkeypatch.setenv("CLOSERANKS_URL", fake.url)
        yield fake


def test_every_node_is_shown(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes["GET /api/v1/scrub"] = view(
        tour(slowed=True), tour(state="waiting", started=None, debt_bytes=5), None
    )
    assert main(["scrub"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "12.0 MB of 40.0 MB" in lines[1]
    assert "20.0 MB/s (slowed)" in lines[1]
    assert "waiting" in lines[2]
    assert "5 B" in lines[2]
    assert "unknown" in lines[3]


@pytest.mark.parametrize(
    ("words", "body"),
    [
        (["--now"], {"now": True}),
        (["n1", "--now"], {"now": True, "node": "n1"}),
        (["n2", "--pause"], {"paused": True, "node": "n2"}),
        (["--resume"], {"paused": False}),
        (["--bytes-per-second", "5M"], {"bytes_s": 5 * MB}),
        (["--bytes-per-second", "none"], {"unlimited": True}),
        (["n1", "--bytes-per-second", "auto"], {"auto": True, "node": "n1"}),
        (["n1", "--faster"], {"bytes_s": 40 * MB, "node": "n1"}),
        (["--slower"], {"bytes_s": 20 * MB}),
    ],
)
def test_orders(api: Fake, words: list[str], body: dict[str, Any]) -> None:
    api.routes["GET /api/v1/scrub"] = view(tour(), tour(bytes_s=40 * MB))
    api.routes["POST /api/v1/scrub"] = view(tour(), tour())
    assert main(["scrub", *words]) == 0
    assert api.requests[-1].body == body


def test_an_order_is_not_taken_for_what_nodes_told_before_it(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    """Right after `--resume` the table says "paused", for no node has heard of it yet."""
    api.routes["POST /api/v1/scrub"] = view(tour(state="paused"))
    assert main(["scrub", "--resume"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "all nodes: tours go on, and begin when they are due",
        "what the nodes told last, before that:",
    ]
    assert "paused" in lines[3]


def test_a_limit_says_how_it_is_taken_back_from_the_same_node(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    api.routes["POST /api/v1/scrub"] = view(tour())
    assert main(["scrub", "n1", "--bytes-per-second", "5M"]) == 0
    assert "(closeranks scrub n1 --bytes-per-second auto)" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--bytes-per-second", "fast"], ["--faster"], ["n1", "--slower"]])
def test_what_can_not_be_exits_2(api: Fake, words: list[str]) -> None:
    api.routes["GET /api/v1/scrub"] = view(tour(bytes_s=None), None)
    assert main(["scrub", *words]) == 2
    assert not [one for one in api.requests if one.method == "POST"]


def test_a_refusal_exits_1(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes["POST /api/v1/scrub"] = (409, clifake.error("node_unreachable", "nobody hears"))
    assert main(["scrub", "--now"]) == 1
    assert capsys.readouterr().err == "closeranks: nobody hears\n"


@dataclass(frozen=True)
class Told:
    scrub: model.ScrubVolumeView
    says: str


@pytest.mark.parametrize(
    "told",
    [
        Told(tour(), "running, 12.0 MB of 40.0 MB and 30 of 100 files read again, at most 20.0 MB/s"),
        Told(tour(), "no content was last verified more than 3 d 0 h ago"),
        Told(tour(debt_bytes=7 * MB), "7.0 MB behind its interval"),
        Told(tour(decayed=2), "2 files decayed on this disk so far: look at its health"),
    ],
)
def test_a_node_shows_its_scrub(api: Fake, capsys: pytest.CaptureFixture[str], told: Told) -> None:
    node = clifake.node("n1")
    volume = msgspec.structs.replace(node.volumes[0], scrub=told.scrub)
    api.routes["GET /api/v1/nodes/n1"] = msgspec.structs.replace(node, volumes=(volume,))
    assert main(["nodes", "n1"]) == 0
    assert told.says in capsys.readouterr().out
