"""One measured bound, the table for people, the JSON for programs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Measured:
    """`bound` None: a figure that is shown and promises nothing."""

    work: str
    value: float
    unit: str  # s, B, B/s, MB, %, or a thing counted
    bound: float | None
    note: str = ""

    @property
    def holds(self) -> bool:
        return self.bound is None or self.value < self.bound


def show(results: Sequence[Measured]) -> None:
    rows = [
        (
            m.work,
            f"{m.value:,.4g} {m.unit}" if m.value < 1000 else f"{m.value:,.0f} {m.unit}",
            ""
            if m.bound is None
            else f"< {m.bound:,.4g} {m.unit}"
            if m.bound < 1000
            else f"< {m.bound:,.0f} {m.unit}",
            "" if m.bound is None else "holds" if m.holds else "BROKEN",
            m.note,
        )
        for m in results
    ]
    header = ("work", "measured", "bound", "", "note")
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(5)]
    for row in [header, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def save(results: Sequence[Measured], path: Path) -> None:
    machine: dict[str, Any] = {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [asdict(m) | {"holds": m.holds} for m in results]
    path.write_text(json.dumps({"machine": machine, "results": rows}, indent=2) + "\n")
