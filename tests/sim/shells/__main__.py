"""Play seeds of whole programs, each in a process of its own (clocks, threads and dice are replaced in it)."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

from ..__main__ import seeds

LIMIT_S = 600.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="sim.shells", description=__doc__)
    parser.add_argument("--seeds", default="10", help="how many from a random one on, or FIRST-LAST")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--one", type=int, help="play this seed here and now")
    parser.add_argument("--first", action="store_true", help="end at the first failure")
    parser.add_argument("--story", action="store_true")
    parser.add_argument("--faults", default="", help="these instead of a random subset, with commas")
    args = parser.parse_args()
    if args.one is not None:
        from .play import play

        play(args.one, args.story, frozenset(args.faults.split(",")) if args.faults else None)
    failed = count = 0
    simulated, began = 0.0, time.monotonic()
    for seed in seeds(args.seeds, args.minutes):
        ran = subprocess.run(
            [sys.executable, "-m", "sim.shells", "--one", str(seed), "--faults", args.faults],
            capture_output=True, text=True, timeout=LIMIT_S, env=os.environ, check=False,
        )  # fmt: skip
        count += 1
        if ran.returncode:
            failed += 1
            print(f"seed {seed} failed: {ran.stdout}{ran.stderr[-3000:]}", flush=True)
            if args.first:
                break
            continue
        simulated += json.loads(ran.stdout.splitlines()[-1])["seconds"]
    took = time.monotonic() - began
    print(
        f"shells: {count} seeds, {failed} failed; {simulated:.0f} simulated seconds in {took:.0f} s "
        f"({simulated / max(took, 0.01):.1f} x real time)"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
