"""A small coverage-guided fuzzer: inputs that reach a line transition that none reached before are kept and mutated on.

    python -m fuzz.guided --minutes 5 [--seed N] [--only "frames of agents"]

Prints its seed, and for each target the inputs tried, how many were kept and the transitions reached. A
finding is printed with its input in base64 and makes the exit code 1.

Only lines of closeranks guide it: a parser in C (msgspec, regular expressions) is a black box, whose inputs
come from the seeds' structure. Rejected: atheris, which was not vetted for this project.
"""

from __future__ import annotations

import argparse
import base64
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from fuzz.targets import TARGETS, Target

INPUT_MAX = 64 * 1024
KEPT_MAX = 2000  # inputs of one target
FREE_BYTES = 2 << 20
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0xC0, 0xC1, 0xC6, 0xDC, 0xDD, 0xDE, 0xC7, 0x0A, 0x22, 0x5C)
Edge = tuple[str, int, int]


class Finding(AssertionError):
    """What no input may cause."""


def check(target: Target, data: bytes) -> bool:
    """One input; whether it was accepted. Raises Finding."""
    try:
        target.run(data)
    except target.errors:
        return False
    except (Exception, RecursionError) as error:
        text = base64.b64encode(data[:4096]).decode()
        raise Finding(f"{target.name}: {error!r}\n  input ({len(data)} bytes): {text}") from error
    return True


def check_memory(target: Target, data: bytes) -> None:
    """What one input costs at its peak."""
    tracemalloc.start()
    try:
        check(target, data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if peak > FREE_BYTES + target.memory * len(data):
        text = base64.b64encode(data[:4096]).decode()
        raise Finding(f"{target.name}: {len(data)} bytes cost {peak} bytes of memory\n  input: {text}")


def mutate(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One to four changes: flips, insertions, removals, repeats, lengths, and parts of other inputs."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(found) + 1)
        length = min(len(found) - at, 1 << rng.randrange(8))
        match rng.randrange(8):
            case 0 if at < len(found):
                found[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(found):
                found[at] = rng.choice(INTERESTING)
            case 2:
                found[at:at] = rng.randbytes(length or 1)
            case 3:
                del found[at : at + length]
            case 4:
                found[at:at] = found[at : at + length] * rng.choice((1, 2, 50))
            case 5:
                found[at : at + 4] = rng.choice((0, 1, 2**31, 2**32 - 1, len(found))).to_bytes(4, "big")
            case 6:
                other = rng.choice(others)
                start = rng.randrange(len(other) + 1)
                found[at : at + length] = other[start : start + length]
            case _ if at < len(found) and 0x30 <= found[at] <= 0x39:
                found[at:at] = b"%d" % rng.choice((0, 2**31, 2**63, 2**64, 10**400))
    return bytes(found[:INPUT_MAX])


@dataclass(slots=True)
class Search:
    """The state of one target's search."""

    target: Target
    rng: random.Random
    inputs: list[bytes] = field(default_factory=list)
    edges: set[Edge] = field(default_factory=set)
    tried: int = 0
    accepted: int = 0

    def begin(self) -> None:
        for seed in self.target.seeds or (b"",):
            self.step(seed)
        self.inputs = self.inputs or [b""]

    def step(self, data: bytes | None = None) -> None:
        """Try one input, and keep it where it reached something new."""
        tried = data if data is not None else mutate(self.rng, self.rng.choice(self.inputs), self.inputs)
        self.tried += 1
        fresh: set[Edge] = set()
        self.accepted += _traced(lambda: check(self.target, tried), fresh)
        if data is not None or (fresh - self.edges and len(self.inputs) < KEPT_MAX):
            check_memory(self.target, tried)
            self.inputs.append(tried)
        self.edges |= fresh


def _traced(run: Callable[[], bool], edges: set[Edge]) -> bool:
    """Run it, collecting transitions between lines of our own modules."""

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        name = frame.f_code.co_filename
        if "closeranks_" not in name:
            return None
        last = 0

        def line(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal last
            if event == "line":
                edges.add((name, last, frame.f_lineno))
                last = frame.f_lineno
            return line

        return line

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        return run()
    finally:
        sys.settrace(before)


def fuzz(targets: Sequence[Target], seconds: float, seed: int) -> list[Search]:
    """Every target for its share of the time; at least its seeds. Raises Finding."""
    searches = []
    for target in targets:
        search = Search(target, random.Random(f"{seed} {target.name}"))
        search.begin()
        deadline = time.monotonic() + seconds / len(targets)
        while time.monotonic() < deadline:
            search.step()
        searches.append(search)
        print(
            f"{target.name}: {search.tried} inputs, {search.accepted} accepted, "
            f"{len(search.inputs)} kept, {len(search.edges)} transitions",
            flush=True,
        )
    return searches


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz.guided", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", action="append", default=[])
    asked = parser.parse_args()
    seed = asked.seed if asked.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    targets = [target for target in TARGETS if not asked.only or target.name in asked.only]
    try:
        fuzz(targets, asked.minutes * 60, seed)
    except Finding as finding:
        print(f"FINDING {finding}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
