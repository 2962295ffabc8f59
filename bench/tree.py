"""What the tree costs: build, edit, compare, read, and collect over have/want.

    PYTHONPATH=bench .venv/bin/python bench/tree.py [entries] [xxh3-128|blake3]

Every figure is the median of several rounds, in process time of one core where nothing else is said.
"""

from __future__ import annotations

import gc
import random
import statistics
import sys
import time
from collections.abc import Callable

from closeranks_proto.closure import Closure
from closeranks_proto.digests import DigestAlgorithm, algorithm_named
from closeranks_proto.entries import Entry, Kind, encode_entry
from closeranks_proto.limits import CHUNK_BYTES
from closeranks_proto.tree import Tree

Items = list[tuple[bytes, bytes]]


def photo_tree(rng: random.Random, algorithm: DigestAlgorithm, count: int) -> Items:
    """Sorted entries such as a photo archive has: 100 files a directory."""
    found: Items = []
    for number in range(count):
        year, album = number // 50_000, number // 100
        if not number % 100:
            directory = encode_entry(Entry(Kind.DIRECTORY, mode=0o755))
            found.append((b"photos\0%04d\0album-%06d" % (2000 + year, album), directory))
        value = encode_entry(
            Entry(Kind.FILE, rng.randrange(20_000, 60_000), rng.randbytes(algorithm.width), 0o644)
        )
        found.append((b"photos\0%04d\0album-%06d\0img_%05d.jpg" % (2000 + year, album, number % 100), value))
    return sorted(found)


def seconds(work: Callable[[], object], rounds: int) -> float:
    taken: list[float] = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


class Bench:
    def __init__(self, algorithm: DigestAlgorithm, count: int) -> None:
        self.rng = random.Random(1)
        self.algorithm = algorithm
        self.items = photo_tree(self.rng, algorithm, count)
        self.objects: dict[bytes, bytes] = {}
        self.reads = 0
        self.tree = Tree(algorithm, self.source)
        self.objects.update(self.tree.empty.pages)
        self.root = b""

    def source(self, digest: bytes) -> bytes:
        self.reads += 1
        return self.objects[digest]

    def value(self) -> bytes:
        return encode_entry(Entry(Kind.FILE, 1, self.rng.randbytes(self.algorithm.width), 0o644))

    def say(self, what: str, value: float, unit: str, note: str = "") -> None:
        print(f"{what:<44}{value:>10.2f} {unit:<10}{note}")

    def build(self) -> None:
        made = self.tree.build(self.items)
        taken = seconds(lambda: self.tree.build(self.items), 3)
        self.objects.update(made.pages)
        self.root = made.root
        gc.collect()
        gc.freeze()  # the million items are this script's, the collector must not visit them in every figure
        size = sum(map(len, made.pages.values()))
        note = f"{len(made.pages)} pages, {size / len(self.items):.0f} bytes an entry"
        self.say(f"build {len(self.items):,} entries", taken, "s", note)

    def edit(self) -> None:
        def isolated() -> None:
            made = self.tree.edit(self.root, [(self.rng.choice(self.items)[0], self.value())])
            self.objects.update(made.pages)

        self.say("one isolated edit", seconds(isolated, 200) * 1e6, "us", "most pages not in the cache")
        place = self.items[len(self.items) // 2][0]
        again = seconds(lambda: self.tree.edit(self.root, [(place, self.value())]), 200)
        self.say("one edit of a page just edited", again * 1e6, "us")
        middle = len(self.items) // 2
        for what, keys in (
            ("clustered", [key for key, _ in self.items[middle : middle + 10_000]]),
            ("scattered", sorted(self.rng.sample([key for key, _ in self.items], 10_000))),
        ):
            edits = [(key, self.value()) for key in keys]
            taken = seconds(lambda edits=edits: self.tree.edit(self.root, edits), 3)  # type: ignore[misc]
            self.say(f"{len(edits):,} {what} edits, each", taken / len(edits) * 1e6, "us")

    def compare(self) -> None:
        for count in (1, 100, 10_000):
            keys = sorted(self.rng.sample([key for key, _ in self.items], count))
            made = self.tree.edit(self.root, [(key, self.value()) for key in keys])
            self.objects.update(made.pages)
            fresh = Tree(self.algorithm, self.source)
            self.reads = 0
            taken = seconds(lambda: len(list(fresh.diff(self.root, made.root))), 1)  # noqa: B023  # called at once
            note = f"{self.reads} pages read, {self.reads / count:.1f} a difference"
            self.say(f"diff with {count:,} scattered changes, each", taken / count * 1e6, "us", note)

    def read(self) -> None:
        self.say("walk everything", seconds(lambda: sum(1 for _ in self.tree.walk(self.root)), 3), "s")
        keys = [self.rng.choice(self.items)[0] for _ in range(1000)]
        taken = seconds(lambda: [self.tree.lookup(self.root, key) for key in keys], 3)
        self.say("lookup, each", taken / len(keys) * 1e6, "us")
        taken = seconds(lambda: self.tree.count_range(self.root, *sorted(self.rng.sample(keys, 2))), 100)
        self.say("totals of a random range", taken * 1e6, "us")

    def collect(self) -> None:
        stored: set[bytes] = set()
        rounds = 0

        def walk() -> None:
            nonlocal rounds
            stored.clear()
            closure = Closure(self.algorithm, self.root, stored.__contains__, CHUNK_BYTES)
            while wanted := closure.wants():
                rounds += 1
                stored.update(digest for digest, _ in closure.receive(self.objects[one] for one in wanted))
            assert closure.done

        taken = seconds(walk, 1)
        self.say("closure of everything, checked", taken, "s", f"{rounds} round trips")


def main(arguments: list[str]) -> None:
    count = int(arguments[0]) if arguments else 1_000_000
    algorithm = algorithm_named(arguments[1] if len(arguments) > 1 else "xxh3-128")
    print(f"digest {algorithm.name}, Python {sys.version.split()[0]}")
    bench = Bench(algorithm, count)
    for part in (bench.build, bench.edit, bench.compare, bench.read, bench.collect):
        part()


if __name__ == "__main__":
    main(sys.argv[1:])
