"""Runs of several contestants in turns, so that a slow moment of the machine meets all of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping

Run = Callable[[], float | None]  # seconds that it took; None: take the time from outside


def interleaved(runs: Mapping[str, Run], rounds: int, warm_up: bool = True) -> dict[str, list[float]]:
    """Seconds of each contestant in each round. Who begins changes; the first, unmeasured round warms up."""
    names = list(runs)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-1 if warm_up else 0, rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            spent = seconds(runs[name])
            if turn >= 0:
                taken[name].append(spent)
    for name in names:
        print(f"  {name}: {' '.join(f'{spent:.3f}' for spent in taken[name])} s", file=sys.stderr)
    return taken


def seconds(run: Run) -> float:
    """What one run took, by its own clock if it has one."""
    began = time.perf_counter()
    own = run()
    return time.perf_counter() - began if own is None else own
