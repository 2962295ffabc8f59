"""Play seeds. One line for each failure, with how to play it again; one line for all of them."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator

from .fleet import Failed, Outcome, World
from .swarm import FAULTS, POLICIES, plan

FAILURES_MAX = 20


def seeds(text: str, minutes: float | None) -> Iterator[int]:
    """`7-9`: these; `100`: so many, from a random one on; with minutes: until they are over."""
    if "-" in text:
        first, _, last = text.partition("-")
        yield from range(int(first), int(last) + 1)
        return
    start = random.SystemRandom().randrange(2**31)
    end = None if minutes is None else time.monotonic() + 60 * minutes
    number = 0
    while number < int(text) if end is None else time.monotonic() < end:
        yield start + number
        number += 1


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="sim", description=__doc__)
    parser.add_argument("--seeds", default="100", help="how many from a random one on, or FIRST-LAST")
    parser.add_argument("--minutes", type=float, help="as many as can be played in that time")
    parser.add_argument("--policy", choices=POLICIES)
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--faults", help=f"these instead of a random subset, with commas: {' '.join(FAULTS)}")
    parser.add_argument("--first", action="store_true", help="end at the first failure")
    parser.add_argument("--story", action="store_true", help="print the story also where nothing fails")
    args = parser.parse_args(argv)
    only = None if args.faults is None else frozenset(one for one in args.faults.split(",") if one)
    if only is not None and only - FAULTS.keys():
        parser.error(f"no such fault: {' '.join(sorted(only - FAULTS.keys()))}")
    outcomes: list[Outcome] = []
    failed = 0
    began = time.monotonic()
    for seed in seeds(args.seeds, args.minutes):
        world = World(plan(seed, args.policy, args.nodes, only))
        try:
            outcomes.append(world.play())
        except Failed as failure:
            failed += 1
            print(f"seed {seed} failed: {failure}\n", flush=True)
            if failed >= (1 if args.first else FAILURES_MAX):
                break
        if args.story:
            print("\n".join(world.time.story))
    print(summary(outcomes, failed, time.monotonic() - began))
    return 1 if failed else 0


def summary(outcomes: list[Outcome], failed: int, took_s: float) -> str:
    """What was played, in one line."""
    simulated = sum(one.seconds for one in outcomes)
    first = outcomes[0].plan.seed if outcomes else 0
    return (
        f"sim: {len(outcomes) + failed} seeds from {first}, {failed} failed; {simulated / 3600:.1f} simulated hours, "
        f"{sum(one.events for one in outcomes):,} events, {sum(one.steps for one in outcomes):,} steps of the core in "
        f"{took_s:.0f} s ({simulated / max(took_s, 0.001):.0f} x real time); "
        f"{sum(one.accused for one in outcomes)} accusations, {sum(one.fenced for one in outcomes)} fences, "
        f"{sum(sum(one.deeds.values()) for one in outcomes):,} deeds and faults"
    )


if __name__ == "__main__":
    sys.exit(main())
