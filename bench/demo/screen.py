"""What the demo says: one line an event, and on a terminal a live line with all sixteen states below.

Without a terminal only the lines are printed, uncoloured. NO_COLOR is honoured by rich.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

MARKS = {
    "in_rank": ("■", "green"),
    "joining": ("□", "cyan"),
    "lagging": ("▪", "cyan"),
    "suspect": ("?", "bold yellow"),
    "quarantined": ("✖", "bold red"),
    "resyncing": ("⟳", "bold blue"),
    "verifying": ("✓", "bold magenta"),
    "unreachable": ("·", "red"),
    "held": ("!", "bold yellow"),
}
LEGEND = "■ in rank  ? suspect  ✖ quarantined  ⟳ resyncing  ✓ verifying  □ joining"


def amount(value: float | None) -> str:
    """Bytes for people: 999 B, 1.3 MB."""
    if value is None:
        return "unknown"
    for unit in ("B", "KB", "MB"):
        if value < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


class Screen:
    def __init__(self) -> None:
        self.console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self.origin = time.monotonic()
        self._live: Live | None = None

    def clock(self) -> None:
        """The times at the left count from here."""
        self.origin = time.monotonic()

    def title(self, text: str) -> None:
        self.console.print()
        self.console.print(text, style="bold")

    def say(self, text: str, style: str = "") -> None:
        line = Text().append(f"{time.monotonic() - self.origin:7.1f} s  ", style="dim")
        line.append(text, style=style)
        self.console.print(line)

    def detail(self, text: str, style: str = "dim") -> None:
        self.console.print(Text(" " * 11 + text, style=style))

    def plain(self, text: str = "") -> None:
        self.console.print(text)

    def show(self, states: Mapping[str, str], note: str) -> None:
        """The live line: a mark a node, and what is being done. Nothing without a terminal."""
        if not self.console.is_terminal:
            return
        marks = Text(" " * 11)
        for node in sorted(states):
            mark, style = MARKS.get(states[node], ("~", ""))
            marks.append(mark + " ", style=style)
        shown = Group(marks, Text(" " * 11 + note), Text(" " * 11 + LEGEND, style="dim"))
        if self._live is None:
            self._live = Live(shown, console=self.console, transient=True, refresh_per_second=10)
            self._live.start()
        else:
            self._live.update(shown)

    def still(self) -> None:
        """End the live line."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def table(self, title: str, rows: Sequence[tuple[str, str, str]]) -> None:
        shown = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
        shown.add_column(style="bold")
        shown.add_column(justify="right")
        shown.add_column(style="dim")
        for row in rows:
            shown.add_row(*(Text(cell) for cell in row))
        self.console.print()
        self.console.print(shown)
