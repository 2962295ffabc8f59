"""One measured row, the table for people, the JSON for programs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

UNMEASURED = "NOT MEASURED"


@dataclass(frozen=True, slots=True)
class Against:
    """What the row is compared with: the peer's name, its value in the row's unit, how many times better we are."""

    name: str
    value: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One row. `bound` is what `value` must stay below, `at_least` what the ratio must reach.

    Neither: a figure that is shown and promises nothing. A bound that could not be measured does not hold.
    """

    work: str
    value: float
    unit: str  # s, B, B/s, MB, %, files/s, or a thing counted
    bound: float | None
    note: str = ""
    against: Against | None = None
    at_least: float | None = None
    missing: bool = False  # it could not be measured; the note says why

    @property
    def holds(self) -> bool:
        if self.missing:
            return self.bound is None and self.at_least is None
        if self.bound is not None and not self.value < self.bound:
            return False
        return self.at_least is None or (self.against is not None and self.against.ratio >= self.at_least)

    @property
    def promises(self) -> bool:
        return self.bound is not None or self.at_least is not None


def compared(
    work: str, ours_s: Sequence[float], peer: str, theirs_s: Sequence[float], amount: float, unit: str,
    at_least: float | None, note: str = "",
) -> Measured:  # fmt: skip
    """A row of speeds from the seconds that each turn took; `amount` of work in each, in units of `unit`.

    The ratio is the median of the turns' own ratios.
    """
    ratio = statistics.median(theirs / ours for ours, theirs in zip(ours_s, theirs_s, strict=True))
    against = Against(peer, amount / statistics.median(theirs_s), ratio)
    return Measured(work, amount / statistics.median(ours_s), unit, None, note, against, at_least)


def unmeasured(work: str, why: str, at_least: float | None = None, bound: float | None = None) -> Measured:
    """A row that says why there is no figure, such as a peer that is not installed."""
    return Measured(work, 0, "", bound, why, None, at_least, missing=True)


def show(results: Sequence[Measured], machine: Mapping[str, object]) -> None:
    print("; ".join(f"{name} {value}" for name, value in machine.items()))
    header = ("work", "ours", "theirs", "ratio", "bound", "holds", "note")
    table = [header, *(_cells(m) for m in results)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _cells(m: Measured) -> tuple[str, ...]:
    bounds = [f"< {_amount(m.bound)} {m.unit}"] if m.bound is not None else []
    bounds += [f">= {m.at_least:g} x"] if m.at_least is not None else []
    verdict = "" if not m.promises else UNMEASURED if m.missing else "holds" if m.holds else "BROKEN"
    return (
        m.work,
        "" if m.missing else f"{_amount(m.value)} {m.unit}",
        "" if m.against is None else f"{m.against.name}: {_amount(m.against.value)}",
        "" if m.against is None else f"{m.against.ratio:.2f}",
        ", ".join(bounds),
        verdict,
        m.note,
    )


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.4g}"


def save(results: Sequence[Measured], machine: Mapping[str, object], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [asdict(m) | {"holds": m.holds} for m in results]
    path.write_text(json.dumps({"machine": machine, "results": rows}, indent=2) + "\n")
