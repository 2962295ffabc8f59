"""All measurements by name. A module is loaded when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from .measured import Measured


@dataclass(frozen=True, slots=True)
class Bench:
    """What a measurement is given: an empty directory, which is removed afterwards, and how long it may take."""

    base: Path
    quick: bool = False

    def either(self, full: int, quick: int) -> int:
        """A size or a count of rounds."""
        return quick if self.quick else full


Measurement = Callable[[Bench], list[Measured]]


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a measurement is (`module`, mostly its `measure`), what it measures, and whether it is quick enough."""

    module: str
    text: str
    quick: bool = False
    measured_by: str = "measure"

    def load(self) -> Measurement:
        return cast(Measurement, getattr(importlib.import_module(self.module), self.measured_by))


REGISTRY = {
    "hash-small": Entry(
        "hotpath.small",
        "first scan of 200,000 small files beside xxhsum and rsync",
        True,
    ),
    "hash-rclone": Entry("hotpath.others", "the same files beside rclone", True, measured_by="rclone"),
    "hash-hashdeep": Entry("hotpath.others", "the same beside hashdeep", True, measured_by="hashdeep"),
    "hash-syncthing": Entry(
        "hotpath.others", "the same beside Syncthing's first scan", True, measured_by="syncthing"
    ),
    "hash-long": Entry("hotpath.long", "long files beside xxhsum, b3sum and reading alone", True),
    "hash-huge": Entry("hotpath.huge", "300 GB of long files, and sparse: rate and memory", True),
    "hash-cold": Entry("hotpath.cold", "long files from the disk, beside its best rate", True),
    "transfer": Entry(
        "bounds.transfer", "bytes that a resync moves, against the bytes of the chunks that differ", True
    ),
    "converge": Entry(
        "bounds.converge",
        "an empty node is made equal to one peer, synced and proved; beside rsync -a --fsync from its daemon",
        True,
    ),
    "swarm": Entry(
        "bounds.swarm", "one full node, fifteen empty ones: who gives how much, until all are in rank"
    ),
    "named": Entry("bounds.named", "write on a node -> that node named, sixteen agents"),
    "wire": Entry(
        "bounds.wire",
        "one agent of 100,000 entries: reconnect, one change, at rest; memory and processor time",
    ),
    "memory": Entry(
        "bounds.memory",
        "sixteen nodes of 100,000 entries: the coordinator's memory, objects stored",
    ),
    "latency": Entry(
        "replication.latency", "write on a writer -> readable on fifteen replicas, sixteen agents"
    ),
    "beside": Entry(
        "replication.beside", "the same with three nodes, beside Syncthing and lsyncd + rsync, interleaved"
    ),
    "named-watched": Entry(
        "replication.named", "write by a rogue -> node named, with watchers, settle_s = 0.5"
    ),
    "runaway": Entry(
        "replication.runaway",
        "a writer at full disk speed: until held, written by then, replicas that got it",
    ),
    "sustained": Entry(
        "replication.sustained", "2,000 files/s for a minute to three replicas: lag, lost, memory"
    ),
    "sustained-long": Entry(
        "replication.sustained", "the same for 150 s: does memory follow time?", measured_by="long"
    ),
    "sustained-late": Entry(
        "replication.sustained", "the same with replicas too slow for it", measured_by="late"
    ),
    "sustained-rsync": Entry(
        "replication.sustained", "the same load and rsync in a loop", measured_by="rsync"
    ),
    "sustained-syncthing": Entry(
        "replication.sustained", "the same load and Syncthing", measured_by="syncthing"
    ),
    "rest-fanotify": Entry(
        "replication.rest",
        "an agent that watches 200,000 files and has nothing to do",
        measured_by="fanotify",
    ),
    "rest-inotify": Entry("replication.rest", "the same by inotify", measured_by="inotify"),
    "overhead-files": Entry(
        "replication.overhead",
        "what watching adds to the time of tar unpacking small files",
        measured_by="files",
    ),
    "overhead-many": Entry(
        "replication.overhead", "the same of more files than a few seconds take", measured_by="many"
    ),
    "overhead-large": Entry(
        "replication.overhead", "the same of a long file written over and over", measured_by="large"
    ),
    "overhead-database": Entry(
        "replication.overhead", "the same of a database in WAL mode", measured_by="database"
    ),
    "overhead-database-long": Entry(
        "replication.overhead",
        "the same of one that writes three times as long: how it is watched is found in the first half second",
        measured_by="lasting",
    ),
    "overhead-beside": Entry(
        "replication.overhead",
        "the same of a database beside the volume, on its filesystem",
        measured_by="beside",
    ),
    "overhead-events": Entry(
        "replication.events", "what the kernel takes of tar's own time for each kind of event"
    ),
    "tree": Entry(
        "scale.tree", "the tree of a million entries: build, edits, memory, beside a dictionary", True
    ),
    "differences": Entry(
        "scale.wire", "bytes to find 100 differences between two trees of ten million entries", True
    ),
    "commits": Entry(
        "scale.commits", "16 nodes in sync: edits/s, and a rogue's verdict at 20,000 of them", True
    ),
    "million": Entry(
        "scale.memory", "16 x 1,000,000 entries: the coordinator's memory and database; churn, collected"
    ),
    "behind": Entry(
        "scale.behind", "three replicas 200,000 files behind: what the core keeps, what a step costs", True
    ),
    "rolling": Entry(
        "scale.rolling",
        "100,000 changed files roll over sixteen nodes: the longest that the core blocks the loop",
        True,
    ),
    "fleets": Entry(
        "scale.fleets", "100 and 1,000 nodes over real sessions: storm, rest, one change, the API", True
    ),
    "rescan": Entry(
        "index.rescan", "200,000 files, nothing changed or 0.1%: beside rsync -an and find", True
    ),
    "index": Entry(
        "index.million",
        "a million files: memory of the first scan, the index on disk, the start; wide and deep trees",
    ),
}
