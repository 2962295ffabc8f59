"""Which file of the tree has a certain content: so that copies and renames move nothing over the network.

A push names contents that are new here; nearly always nobody on this node has them, and walking the tree to
be sure would cost more than fetching. So the beginnings of all files' digests are kept in one sorted array
with the number of the directory that each stands in: 8 bytes a file. What was found is looked up in that
directory's rows before it is believed, so what the array says may be stale; it only has to be complete
soon, not always: a content that is missed is fetched.

Kept up by comparing the root that it was made from with the present one, which costs what has changed; made
anew where the old pages are gone. Used on the volume's thread.

Rejected: an index by digest in the database (a random page to write for every file of a scan), a dictionary of
digests (200 bytes a file).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Mapping

from closeranks_proto.entries import DIGEST_AT, Kind, entry_kind, entry_size
from closeranks_proto.errors import MissingObject
from closeranks_proto.paths import parent_key

from ..disk.volume import Volume

PREFIX_BYTES = 5  # of a digest: a million files share one by accident once in a million lookups
DIRECTORY_BITS = 24
DIRECTORIES_MAX = 1 << DIRECTORY_BITS
RECENT_MAX = 20_000  # beyond it they are merged into the array
# Walking reads some 300,000 entries a second, peers give some 100 MB/s: a larger tree is learnt in slices, one
# each time that somebody asks, unless what is asked for would take longer to fetch.
ALWAYS_ENTRIES = 50_000
SLICE_ENTRIES = 20_000
BYTES_PER_ENTRY = 300


class Contents:
    """Of one volume. Empty until it is asked for the first time."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._forget()

    def _forget(self) -> None:
        self._root: bytes | None = None  # what the array knows of; None while it is being made
        self._building: list[int] = []
        self._building_root: bytes | None = None
        self._next = b""
        self._sorted = array("Q")
        self._recent: dict[int, int] = {}  # prefix -> directory number
        self._directories: list[bytes] = []
        self._numbers: dict[bytes, int] = {}

    def find(self, wanted: Mapping[bytes, int]) -> dict[bytes, bytes]:
        """Content digest -> key of a file that has it. `wanted` gives the sizes of the contents, in bytes."""
        summary = self._volume.summary
        entries = 0 if summary is None else summary.entries
        worth = max(ALWAYS_ENTRIES, sum(wanted.values()) // BYTES_PER_ENTRY)
        self._catch_up(entries if entries <= worth else SLICE_ENTRIES)
        found: dict[bytes, bytes] = {}
        seen: dict[int, dict[bytes, bytes]] = {}  # directory number -> its contents
        for digest in wanted:
            for number in self._candidates(int.from_bytes(digest[:PREFIX_BYTES], "big")):
                if number not in seen:
                    seen[number] = self._contents_of(self._directories[number])
                key = seen[number].get(digest)
                if key is not None:
                    found[digest] = key
                    break
        return found

    def _candidates(self, prefix: int) -> list[int]:
        found = [self._recent[prefix]] if prefix in self._recent else []
        low = prefix << DIRECTORY_BITS
        at = bisect_left(self._sorted, low)
        while at < len(self._sorted) and self._sorted[at] >> DIRECTORY_BITS == prefix and len(found) < 16:
            found.append(self._sorted[at] & (DIRECTORIES_MAX - 1))
            at += 1
        return found

    def _contents_of(self, directory: bytes) -> dict[bytes, bytes]:
        width = self._volume.algorithm.width
        prefix = directory and directory + b"\0"
        return {
            row.value[DIGEST_AT : DIGEST_AT + width]: prefix + row.name
            for row in self._volume.history.index.directory(directory)
            if entry_kind(row.value) is Kind.FILE
        }

    # --- keeping up ------------------------------------------------------------------------------

    def _catch_up(self, slice_entries: int) -> None:
        root = self._volume.root
        if root is None:
            return
        try:
            if self._root is None:
                self._build(root, slice_entries)
            if self._root is not None and self._root != root:
                for one in self._volume.tree.diff(self._root, root):
                    if one.theirs is not None:
                        self._learn(one.key, one.theirs)
                self._root = root
                if len(self._recent) > RECENT_MAX:
                    self._merge()
        except MissingObject:
            self._forget()  # the pages that it began from were dropped meanwhile

    def _build(self, root: bytes, slice_entries: int) -> None:
        """Learn the next slice. What changes while it is made is learnt by the comparison that follows."""
        if self._building_root is None:
            self._building_root = root
        for taken, (key, value) in enumerate(self._volume.tree.walk(self._building_root, self._next)):
            if taken > slice_entries:
                self._next = key
                return
            prefix = self._prefix_of(value)
            if prefix is not None:
                self._building.append(prefix << DIRECTORY_BITS | self._number_of(parent_key(key)))
        self._building.sort()
        self._sorted, self._building = array("Q", self._building), []
        self._root = self._building_root

    def _learn(self, key: bytes, value: bytes) -> None:
        prefix = self._prefix_of(value)
        if prefix is not None:
            self._recent[prefix] = self._number_of(parent_key(key))

    def _prefix_of(self, value: bytes) -> int | None:
        if entry_kind(value) is not Kind.FILE or not entry_size(value):
            return None
        return int.from_bytes(value[DIGEST_AT : DIGEST_AT + PREFIX_BYTES], "big")

    def _number_of(self, directory: bytes) -> int:
        number = self._numbers.get(directory)
        if number is None:
            number = self._numbers[directory] = len(self._directories) % DIRECTORIES_MAX
            self._directories.append(directory)
        return number

    def _merge(self) -> None:
        """Also forgets what is out of date, when that has become most of it: made anew at the next question."""
        summary = self._volume.summary
        if summary is not None and len(self._sorted) > 2 * summary.files + RECENT_MAX:
            self._forget()
            return
        merged = [*self._sorted, *(one << DIRECTORY_BITS | at for one, at in self._recent.items())]
        merged.sort()
        self._sorted, self._recent = array("Q", merged), {}
