"""`closeranks diff`: the output format of the rules, paging, exit codes, hostile names."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import clifake
from clifake import Fake, Request
from closeranks_coordinator.cli.main import main
from closeranks_proto.paths import escape, unescape

ROUTE = "GET /api/v1/volumes/photos/diff"
PROGRAM = str(Path(sys.executable).with_name("closeranks"))


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    with clifake.serving(Fake()) as fake:
        monkeypatch.setenv("CLOSERANKS_URL", fake.url)
        yield fake


def entry(path: str, change: str = "modified", **more: Any) -> dict[str, Any]:
    return {
        "path": path,
        "path_b64": "",
        "change": change,
        "aspects": ["content"],
        "chunks": [],
        "bytes": 10,
    } | more


def entries(found: list[dict[str, Any]], cursor: str | None = None, **more: Any) -> dict[str, Any]:
    return {"entries": found, "next_cursor": cursor} | more


def test_golden(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes[ROUTE] = entries(
        [
            entry("a/changed.jpg", chunks=[[0, 3], [7, 7]], bytes=4096),
            entry("a/new", "added", bytes=5),
            entry("b", "missing", bytes=0),
            entry("c d", "unreadable", bytes=None),
        ]
    )
    assert main(["diff", "photos", "n2"]) == 1
    assert capsys.readouterr().out == (
        "* a/changed.jpg\n"
        "+ a/new\n"
        "- b\n"
        "! c d\n"
        "# 1 differ, 1 only on n2, 1 missing on n2, 1 could not be read; 4101 bytes differ; against truth\n"
    )


def test_nothing_differs(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes[ROUTE] = entries([], undetermined=4)
    assert main(["diff", "photos", "n2"]) == 0
    assert capsys.readouterr().out == (
        "# 0 differ, 0 only on n2, 0 missing on n2, 0 could not be read; 0 bytes differ; against truth; "
        "4 undetermined left out (no quorum holds one entry)\n"
    )


def test_withheld_bits_are_named_and_are_no_difference(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes[ROUTE] = entries([entry("tool", "withheld", bytes=0)], withheld=1)
    assert main(["diff", "photos", "n2"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "# withheld tool"
    assert out[1].startswith("# 0 differ, ")
    assert "1 withheld, which count as equal" in out[1]
    assert "special_bits = true" in out[1]


def test_all_lists_the_same_and_they_do_not_count(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes[ROUTE] = entries([entry("a", "same")])
    assert main(["diff", "photos", "n2", "--all"]) == 0
    assert capsys.readouterr().out.startswith("= a\n# 0 differ")
    assert api.requests[0].query["all"] == "true"


def test_chunks_stand_on_a_line_of_their_own(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes[ROUTE] = entries([entry("a", chunks=[[0, 3], [7, 7]]), entry("b", "missing")])
    assert main(["diff", "photos", "n2", "--chunks"]) == 1
    assert capsys.readouterr().out.splitlines()[:3] == ["* a", "# chunks 0-3,7", "- b"]


def test_against_is_asked_for(api: Fake) -> None:
    api.routes[ROUTE] = entries([])
    main(["diff", "photos", "n2", "--against", "n3"])
    assert api.requests[0].query["against"] == "n3"
    assert api.requests[0].query["node"] == "n2"


def many_pages(request: Request) -> dict[str, Any]:
    at = int(request.query.get("cursor", "0"))
    return entries(
        [entry(f"d/{number:06}") for number in range(at, at + 100)], str(at + 100) if at < 900 else None
    )


def test_pages_follow_one_another(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes[ROUTE] = many_pages
    assert main(["diff", "photos", "n2"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:-1] == [f"* d/{number:06}" for number in range(1000)]
    assert lines[-1].startswith("# 1000 differ")


def test_json_prints_each_entry_unchanged_on_one_line(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.routes[ROUTE] = (
        b'{"entries": [{"path": "a",\n "change": "modified", "unheard": [1]}, '
        b'{"path":"b","change":"added"}], "next_cursor": null}'
    )
    assert main(["diff", "photos", "n2", "--json"]) == 1
    assert capsys.readouterr().out == (
        '{"path":"a","change":"modified","unheard":[1]}\n{"path":"b","change":"added"}\n'
    )  # fmt: skip


HOSTILE = [
    b"plain",
    b"new\nline",
    b"tab\tand\rreturn",
    b"back\\slash \\n",
    b"\xff\xfe not UTF-8",
    b"\x1b[2J\x1b]0;owned\x07",
    "\u202ereversed\u2028".encode(),
    b"# not a total",
    b" leading and trailing ",
    "grün/日本".encode(),
    b"\x9b31m C1",
]


def test_hostile_names_stay_on_one_line_and_can_be_read_back(
    api: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    api.routes[ROUTE] = entries([entry(escape(name)) for name in HOSTILE])
    main(["diff", "photos", "n2"])
    lines = capsys.readouterr().out.split("\n")
    assert [unescape(line[2:]) for line in lines[: len(HOSTILE)]] == HOSTILE
    assert all(line[:2] == "* " and line.isprintable() for line in lines[: len(HOSTILE)])


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, clifake.error("unknown_volume", "there is no volume photos")),
        (409, clifake.error("no_truth", "undetermined")),
        (200, b"<html>"),
        (200, {"entries": 3}),
        (500, b"Internal Server Error"),
    ],
)
def test_what_could_not_be_asked_exits_2(
    api: Fake, capsys: pytest.CaptureFixture[str], status: int, body: object
) -> None:
    api.routes[ROUTE] = (status, body)
    assert main(["diff", "photos", "n2"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1


def test_a_page_that_fails_in_the_middle_exits_2(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(request: Request) -> Any:
        return many_pages(request) if "cursor" not in request.query else (503, b"")

    api.routes[ROUTE] = answer
    assert main(["diff", "photos", "n2"]) == 2
    assert "# " not in capsys.readouterr().out


def test_a_reader_that_goes_away_ends_it_quietly(api: Fake) -> None:
    api.routes[ROUTE] = lambda request: entries([entry("x" * 200)] * 1000, str(len(api.requests)))
    process = subprocess.Popen(
        [PROGRAM, "diff", "photos", "n2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(20) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def test_control_c_says_one_line(api: Fake) -> None:
    api.routes[ROUTE] = lambda request: entries([entry("x")], str(len(api.requests)))
    process = subprocess.Popen(
        [PROGRAM, "diff", "photos", "n2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while len(api.requests) < 3:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert process.stderr.read() == b"closeranks: interrupted; what was accepted goes on\n"
    assert process.wait(10) == 130
    process.stderr.close()


@pytest.mark.parametrize("no_color", ["", "1"])
def test_colours_only_on_a_terminal_without_no_color(api: Fake, no_color: str) -> None:
    api.routes[ROUTE] = entries([entry(escape(b"\x1b[2Jname"))])
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": no_color, "COLUMNS": "200"}
    with subprocess.Popen([PROGRAM, "diff", "photos", "n2"], stdout=theirs, env=environment) as process:
        os.close(theirs)
        assert process.wait(20) == 1
    shown = os.read(ours, 65536)
    os.close(ours)
    assert (b"\x1b[" in shown) is (no_color == "")
    assert b"\x1b[2J" not in shown
    assert b"* \\x1b[2Jname" in shown
