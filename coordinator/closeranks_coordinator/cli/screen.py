r"""What is printed and how: rich tables and colours on a terminal, plain aligned text elsewhere.

Everything that came from a server passes `printable`, so no name can drive the terminal. rich is
imported only where a terminal shows a table, because it doubles the program's start.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TextIO

from closeranks_proto.lines import printable

if TYPE_CHECKING:
    from rich.console import Console

FOLDED = 30  # columns that a folding text needs at least
GOOD, CARE, BAD, FAINT, STRONG = "green", "yellow", "bold red", "dim", "bold"
_LABEL = re.compile(r"\s*(?:\S+(?: \S+){0,4}? {2,})?")  # with it a text begins
_CODE = re.compile(r"`[^`]+`|(?<=  )closeranks .+?(?=   \()")
_JOINED = "\u00a0"
_ANSI = {GOOD: "32", CARE: "33", BAD: "1;31", FAINT: "2", STRONG: "1"}


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table; `right` aligns numbers, `style` colours where colours are shown."""

    text: str
    style: str = ""
    right: bool = False


class Screen:
    """Standard output and standard error of one command; closes at its end what the command has opened."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.out = sys.stdout if out is None else out
        self.err = sys.stderr if err is None else err
        self.terminal = self.out.isatty()
        self.colours = self.terminal and wants_colour()
        self.live = self.err.isatty() and os.environ.get("TERM") != "dumb"
        self.opened = ExitStack()

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        self.opened.close()

    def line(self, text: str = "", style: str = "") -> None:
        """One line; what is not printable comes out escaped."""
        self.out.write(self.styled(printable(text), style) + "\n")

    def folded(self, text: str, style: str = "") -> None:
        """One line; on a terminal it goes on under what stands behind its label, and no command is torn."""
        shown = printable(text)
        width = self.width if self.terminal else 0
        for line in folded(shown, width) if 0 < width < shown_width(shown) else [shown]:
            self.out.write(self.styled(line, style) + "\n")

    @property
    def width(self) -> int:
        """Columns of the terminal, or what COLUMNS says."""
        return shutil.get_terminal_size().columns

    def lines(self, text: str) -> None:
        """Text of many lines, each made printable."""
        for line in text.splitlines():
            self.line(line)

    def styled(self, text: str, style: str) -> str:
        return f"\x1b[{_ANSI[style]}m{text}\x1b[0m" if self.colours and style else text

    def table(
        self, headers: Sequence[str], rows: Iterable[Sequence[Cell]], least: Sequence[str] = ()
    ) -> None:
        """Aligned columns under their headers.

        On a terminal that is too narrow the columns `least` are left out, first to last, and that is said.
        """
        cells = [[Cell(printable(cell.text), cell.style, cell.right) for cell in row] for row in rows]
        if not self.terminal:
            self._plain_table(headers, cells)
            return
        dropped = _dropped(headers, cells, least, self.console().width)
        kept = [column for column, header in enumerate(headers) if header not in dropped]
        self._rich_table(
            [headers[column] for column in kept], [[row[column] for column in kept] for row in cells]
        )
        if dropped:
            self.line(f"(no room for {', '.join(dropped)}: widen the terminal, or use --json)", FAINT)

    def fits(self, headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> bool:
        """Whether a table of these has room on the terminal with nothing folded or left out."""
        cells = [[Cell(printable(cell.text)) for cell in row] for row in rows]
        widths = _widths(headers, cells)
        return sum(widths) + 2 * (len(widths) - 1) <= self.width

    def raw_json(self, body: bytes) -> None:
        """An answer as it came; on a terminal, what could drive it is written as JSON escapes."""
        text = body.decode("utf-8", "replace")
        self.out.write((safe_json(text) if self.terminal else text).rstrip("\n") + "\n")

    def say(self, text: str) -> None:
        """To standard error: what happened and what to do."""
        self.err.write(printable(text) + "\n")

    def _plain_table(self, headers: Sequence[str], rows: list[list[Cell]]) -> None:
        widths = _widths(headers, rows)
        right = [bool(rows) and rows[0][column].right for column in range(len(headers))]
        for row in [[Cell(header) for header in headers], *rows]:
            parts = []
            for cell, width, is_right in zip(row, widths, right, strict=True):
                padding = " " * (width - shown_width(cell.text))
                parts.append(padding + cell.text if is_right else cell.text + padding)
            self.out.write("  ".join(parts).rstrip() + "\n")

    def _rich_table(self, headers: Sequence[str], rows: list[list[Cell]]) -> None:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        for column, header in enumerate(headers):
            is_right, is_last = bool(rows) and rows[0][column].right, column == len(headers) - 1
            table.add_column(
                header, justify="right" if is_right else "left", no_wrap=not is_last, overflow="fold"
            )
        for row in rows:
            table.add_row(*(Text(cell.text, style=cell.style) for cell in row))
        self.console().print(table)

    def console(self) -> Console:
        from rich.console import Console

        system: Literal["auto"] | None = "auto" if self.colours else None
        # Both are given: of a dumb terminal rich knows no other width than 80.
        return Console(
            file=self.out, color_system=system, highlight=False, markup=False, emoji=False, width=self.width,
            height=shutil.get_terminal_size().lines,
        )  # fmt: skip


def _widths(headers: Sequence[str], rows: list[list[Cell]]) -> list[int]:
    return [
        max([shown_width(header), *(shown_width(row[column].text) for row in rows)])
        for column, header in enumerate(headers)
    ]


def _dropped(headers: Sequence[str], rows: list[list[Cell]], least: Sequence[str], room: int) -> list[str]:
    """The columns of `least`, in their order, without which the rest fits into `room`.

    The last column may fold, so it counts with FOLDED at most, unless it can be left out itself.
    """
    widths = dict(zip(headers, _widths(headers, rows), strict=True))
    if headers[-1] not in least:
        widths[headers[-1]] = min(widths[headers[-1]], FOLDED)
    dropped: list[str] = []
    for header in least:
        if sum(widths.values()) + 2 * (len(widths) - 1) <= room:
            break
        del widths[header]
        dropped.append(header)
    return dropped


def folded(text: str, width: int) -> list[str]:
    """A printable line in lines of at most `width` columns, further ones indented; commands stay in one piece."""
    label = _LABEL.match(text)
    indent = 0 if label is None else min(label.end(), width // 3)
    whole = _CODE.sub(lambda code: code.group().replace(" ", _JOINED), text)
    lead = len(text) - len(text.lstrip(" "))
    lines = textwrap.wrap(
        whole[lead:], width, initial_indent=" " * lead, subsequent_indent=" " * indent, break_on_hyphens=False,
        break_long_words=False, replace_whitespace=False,
    )  # fmt: skip
    return [line.replace(_JOINED, " ") for line in lines]


def wants_colour() -> bool:
    """NO_COLOR of any value but empty switches colours off (no-color.org), and so does a dumb terminal."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def safe_json(text: str) -> str:
    """The same JSON without characters that could drive a terminal; line ends between tokens stay."""
    if all(char.isprintable() or char == "\n" for char in text):
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else json.dumps(char)[1:-1] for char in text)


def shown_width(text: str) -> int:
    """Columns that a terminal gives to `text`."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )
