"""Runs the soak; see the package's docstring."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from fleet import Fleet
from soak.chart import draw
from soak.life import LEAST_S, Life, fleet_of
from soak.samples import ALLOWED, Sampler
from soak.trend import judge

RESULTS = Path("bench/results")


def soak(base: Path, minutes: float, nodes: int, seed: int) -> tuple[Sampler, dict[str, int], str]:
    """The samples, what was done, and "" or why the end was not what it must be."""
    fleet = fleet_of(base, nodes)
    try:
        fleet.start()
        fleet.wait_in_rank(60)
        life = Life(fleet, seed)
        sampler = Sampler(fleet, [name for name in fleet.nodes if name != life.restarted.name])
        return sampler, life.deeds, _lived(fleet, life, sampler, minutes * 60)
    finally:
        fleet.kill()


def _lived(fleet: Fleet, life: Life, sampler: Sampler, seconds: float) -> str:
    """The run to its end: in rank, equal to the writer, stopped in order, no fault in any log; "" or what went wrong.

    A daemon that dies or does not answer in time ends the run; then all logs are kept beside the results.
    """
    try:
        left = life.fill(seconds)
        sampler.begin()
        life.live(left, sampler.sample)
        fleet.wait_equal(life.writer, timeout_s=120)
        fleet.stop()
        fleet.check_logs()
    except (AssertionError, OSError, RuntimeError) as error:
        shutil.copytree(fleet.logs, RESULTS / "soak-logs", dirs_exist_ok=True)
        return f"{type(error).__name__}: {error} (all logs: {RESULTS / 'soak-logs'})\n{fleet.story()}"
    return ""


def report(sampler: Sampler, minutes: float, deeds: dict[str, int]) -> tuple[dict[str, Any], list[str]]:
    """What goes to the JSON file, and the series that grew or had too few samples."""
    rows, grown = [], []
    for series in sampler.series.values():
        allowed = ALLOWED[series.name]
        verdict = judge(series.points, allowed)
        label = f"{series.daemon} {series.name}"
        if verdict is None:
            grown.append(f"{label}: only {len(series.points)} samples")
            continue
        row = {
            "daemon": series.daemon, "figure": series.name, "samples": len(series.points),
            "medians_of_thirds": verdict.parts, "rise": verdict.rise, "allowed_rise": allowed,
            "slope_per_hour": verdict.slope_hour, "grows": verdict.grows,
        }  # fmt: skip
        rows.append(row)
        thirds = " -> ".join(f"{part:,.6g}" for part in verdict.parts)
        mark = "GROWS" if verdict.grows else "ok"
        print(f"{label:44} {thirds:48} allowed +{allowed:,.6g}  {mark}")
        if verdict.grows:
            grown.append(f"{label}: {thirds}")
    return {"minutes": minutes, "deeds": deeds, "series": rows}, grown


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--dir", type=Path, default=None)
    asked = parser.parse_args()
    if asked.minutes * 60 < LEAST_S:
        parser.error(f"--minutes: {LEAST_S / 60:g} or more; the first five are not judged (see soak/life.py)")
    seed = asked.seed if asked.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-", dir=asked.dir) as base:
        sampler, deeds, wrong = soak(Path(base), asked.minutes, asked.nodes, seed)
    found, grown = report(sampler, asked.minutes, deeds)
    RESULTS.mkdir(parents=True, exist_ok=True)
    document = found | {"seed": seed, "nodes": asked.nodes, "end": wrong}
    (RESULTS / "soak.json").write_text(json.dumps(document, indent=1))
    title = f"{asked.nodes} nodes, {asked.minutes:g} min: {deeds}"
    (RESULTS / "soak.svg").write_text(draw(title, list(sampler.series.values())))
    print(f"{deeds}; {RESULTS / 'soak.json'}, {RESULTS / 'soak.svg'}")
    if wrong:
        print(f"the end: {wrong}")
    return 1 if wrong or grown else 0


if __name__ == "__main__":
    sys.exit(main())
