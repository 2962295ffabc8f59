"""The screen: terminals and files get different tables, and neither is ever driven by what is shown."""

from __future__ import annotations

import io

import pytest

from closeranks_coordinator.cli import words
from closeranks_coordinator.cli.screen import BAD, Cell, Screen, folded, shown_width


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def rows() -> list[list[Cell]]:
    return [
        [Cell("n1", BAD), Cell("12", right=True), Cell("short"), Cell("a long text that folds " * 3)],
        [Cell("node-02"), Cell("3", right=True), Cell("日本\x1b[2J"), Cell("x\ny")],
    ]


HEADERS = ("NODE", "N", "MID", "TEXT")


def test_plain_text_is_aligned_even_with_wide_characters() -> None:
    out = io.StringIO()
    Screen(out, io.StringIO()).table(HEADERS, rows())
    lines = out.getvalue().splitlines()
    assert lines[0] == "NODE      N  MID          TEXT"
    assert lines[2] == "node-02   3  日本\\x1b[2J  x\\ny"
    assert lines[1].index("a long") == shown_width(lines[2][: lines[2].index("x\\ny")])


def test_a_terminal_shows_colours_and_leaves_columns_out_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "45")
    out = Terminal()
    Screen(out, io.StringIO()).table(HEADERS, rows(), ("MID",))
    text = out.getvalue()
    assert "\x1b[1;31mn1" in text
    assert "short" not in text
    assert "(no room for MID: widen the terminal, or use --json)" in text
    assert "\x1b[2J" not in text


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colours_where_they_are_not_wanted(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv(variable, value)
    out = Terminal()
    screen = Screen(out, io.StringIO())
    screen.table(HEADERS, rows())
    screen.line("x", BAD)
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize(
    ("count", "expected"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999999, "1.0 MB"),
     (5 * 10**9, "5.0 GB"), (4 * 10**18, "4.0 EB")],
)  # fmt: skip
def test_sizes(count: int | None, expected: str) -> None:
    assert words.size(count) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0 s"), (0.25, "0.2 s"), (9.0, "9 s"), (59.9, "59 s"), (61, "1 min 01 s"), (1200, "20 min"),
     (7260, "2 h 01 min"), (90000, "1 d 1 h"), (-5, "0 s")],
)  # fmt: skip
def test_spans(seconds: float, expected: str) -> None:
    assert words.span(seconds) == expected


@pytest.mark.parametrize("moment", ["", "nonsense", "9999-99-99T00:00:00Z", "\x1b[2J"])
def test_an_unreadable_moment_is_shown_as_it_is(moment: str) -> None:
    assert words.age(moment, 0) == moment


def test_nothing_is_closed_twice_and_everything_once() -> None:
    closed: list[int] = []
    with Screen(io.StringIO(), io.StringIO()) as screen:
        screen.opened.callback(closed.append, 1)
    assert closed == [1]


def test_a_line_is_folded_under_its_text_and_no_command_is_torn() -> None:
    line = "  Written by  /usr/bin/php, which is long enough to be folded: `closeranks nodes node-01 --json` for more"
    found = folded(line, 60)
    assert found == [
        "  Written by  /usr/bin/php, which is long enough to be",
        "              folded: `closeranks nodes node-01 --json` for",
        "              more",
    ]
    step = "  closeranks trash list node-01 --incident i-000001   (what was set aside, with the ID of each)"
    assert folded(step, 60)[0].startswith("  closeranks trash list node-01 --incident i-000001")
    assert folded("  " + "x" * 100, 60) == ["  " + "x" * 100], "a long name can be copied"
