"""The three-way merge of one writer's changes into the truth: path by path, never by time. Pure.

The base of a path is what the writer held of the truth, *ours* its present value, *theirs* the truth's. Where
the truth is still the base, ours becomes the truth. Where only attributes or only contents were changed on
either side, both changes are taken. Where the contents came out equal, attributes are settled one by one, what came
first stands, and nothing is kept: two copies of the same bytes help nobody, and trees that were copied to each node
by itself differ in every time. Otherwise it is a clash: what came first stands, and ours is kept beside
it under a conflict name, so that no accepted write is ever lost. Absence is a value like any other.

Invariant: the result is a tree that a disk can hold. Three rules keep it so:
- a new entry brings the directories that it lies in back, and nothing else of what was deleted with them;
- a directory that the truth still needs (something came below it meanwhile) is not removed, and not replaced;
- what lies below something that is no directory in the truth goes, with its whole subtree, under the conflict
  name of that.

A writer's root may be in the middle of a long change: what it has removed above something that it still holds
is put off until the rest has come. Rejected: a version vector a path (the order of arrival at one coordinator
already is one order), and merging the contents of files (nobody would want it of a photo).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from closeranks_proto.entries import decode_entry
from closeranks_proto.limits import MAX_NAME_BYTES, MAX_PATH_BYTES
from closeranks_proto.lines import timestamp
from closeranks_proto.paths import parent_key, subtree_range
from closeranks_proto.tree import Tree

from .judge import Analysis
from .stepping import PART_KEYS, key_parts, whole
from .truth import Values
from .values import Value, above_of, combine, has_same_body, is_directory, is_file, settle

EXTENSION_MAX_BYTES = 32  # a longer one is part of the name


@dataclass(frozen=True, slots=True)
class Clash:
    """One path that two writers changed. `kept` None: there was nothing to keep of ours."""

    key: bytes
    ours: Value
    theirs: Value
    kept: bytes | None


@dataclass(slots=True)
class Merged:
    """`changes` make the new truth; `held` is what the writer is to be seen to have held there (see `judge`)."""

    changes: dict[bytes, Value] = field(default_factory=dict)
    held: dict[bytes, Value] = field(default_factory=dict)
    clashes: list[Clash] = field(default_factory=list)


def _never(_key: bytes) -> bool:
    return False


def merging(
    tree: Tree,
    analysis: Analysis,
    own: Mapping[bytes, Values],
    node: str,
    wall_ms: int,
    is_lost: Callable[[bytes], bool] = _never,
) -> Generator[None, None, Merged]:
    """Merge a writer's own changes (key to (ours, theirs)) into the truth that its analysis was made against; in parts.

    `is_lost` tells of a path whether no node has the content of the truth's version any more: then ours stands, also
    where ours is that it is gone.
    """
    work = _Merge(tree, analysis, own, node, wall_ms, is_lost)
    keys = sorted(own)
    yield
    yield from work.find_needed(keys)
    for part in key_parts(keys):
        work.find_homeless(part)
        yield
    for part in key_parts(keys):
        for key in part:
            work.add(key)
        yield
    for part in key_parts(keys[::-1]):
        for key in part:
            work.remove(key)
        yield
    contested: list[bytes] = []
    for part in key_parts(keys):
        contested += work.contested(part)
        yield
    for part in key_parts(contested):
        for key in part:
            work.contest(key)
        yield
    return work.done


def merge(
    tree: Tree, analysis: Analysis, own: Mapping[bytes, Values], node: str, wall_ms: int,
    is_lost: Callable[[bytes], bool] = _never,
) -> Merged:  # fmt: skip
    """The same at once."""
    return whole(merging(tree, analysis, own, node, wall_ms, is_lost))


class _Merge:
    """One merge under way. `done.changes` laid over the truth is always the tree so far."""

    def __init__(
        self, tree: Tree, analysis: Analysis, own: Mapping[bytes, Values], node: str, wall_ms: int,
        is_lost: Callable[[bytes], bool],
    ) -> None:  # fmt: skip
        self.tree = tree
        self.analysis = analysis
        self.own = own
        self.node = node
        self.wall_ms = wall_ms
        self.is_lost = is_lost
        self.done = Merged()
        self.needed: set[bytes] = set()  # directories of the truth in which something stays
        self.put_off: set[bytes] = set()  # those in which the writer itself still holds something
        self._looked: dict[bytes, Value] = {}  # what both trees have alike
        self._moved: dict[bytes, bytes] = {}  # roots of subtrees, to their conflict names

    # --- questions -----------------------------------------------------------------------------

    def now(self, key: bytes) -> Value:
        """The value in the truth as it is so far."""
        if key in self.done.changes:
            return self.done.changes[key]
        values = self.analysis.raw.get(key)
        return self._alike(key) if values is None else values[1]

    def ours(self, key: bytes) -> Value:
        """The writer's value."""
        values = self.analysis.raw.get(key)
        return self._alike(key) if values is None else values[0]

    def _alike(self, key: bytes) -> Value:
        if key not in self._looked:
            self._looked[key] = self.tree.lookup(self.analysis.truth, key)
        return self._looked[key]

    def is_ahead(self, key: bytes) -> bool:
        """Whether the truth is still what the writer's change began from."""
        return key not in self.analysis.behind

    def find_needed(self, keys: Sequence[bytes]) -> Iterator[None]:
        """Directories of the truth that the writer no longer has, and in which something stays, or is still there."""
        walked: bytes | None = None
        for part in key_parts(keys):
            for key in part:
                ours, theirs = self.own[key]
                if not is_directory(theirs) or is_directory(ours):
                    continue
                if walked is not None and key.startswith(walked):
                    continue  # below one that was walked
                walked = key + b"\0"
                yield from self._find_needed_in(key)
            yield

    def _find_needed_in(self, key: bytes) -> Iterator[None]:
        for count, (below, _) in enumerate(self.tree.walk(self.analysis.truth, *subtree_range(key)), 1):
            if count % PART_KEYS == 0:
                yield
            values = self.analysis.raw.get(below)
            if values is None or values[0] is not None:
                marks = self.put_off
            elif below not in self.own or not (self.is_ahead(below) or self._is_nowhere(below, values[1])):
                marks = self.needed
            else:
                continue
            for above in above_of(below):
                if len(above) < len(key) or above in marks:
                    break
                marks.add(above)

    def find_homeless(self, keys: Sequence[bytes]) -> None:
        """Entries whose directories the writer has already removed: they are on their way out."""
        known: dict[bytes, bool] = {}
        for key in keys:
            parent = parent_key(key)
            if self.own[key][1] is not None and not any(
                above in self.analysis.raw for above in above_of(key)
            ):
                continue  # where the truth has it, both have its directories
            if parent not in known:
                known[parent] = all(is_directory(self.ours(above)) for above in above_of(key))
            if not known[parent] and self.own[key][0] is not None:
                self.put_off.add(key)

    # --- what only the writer changed ----------------------------------------------------------

    def add(self, key: bytes) -> None:
        """A change that nothing stands against becomes the truth."""
        ours = self.own[key][0]
        if ours is None or not self.is_ahead(key) or key in self.put_off:
            return
        if key in self.needed and not is_directory(ours):
            return  # contested: something came below it meanwhile
        missing: list[bytes] = []
        for above in above_of(key):
            found = self.now(above)
            if found is None:
                missing.append(above)
            elif not is_directory(found):
                return
            else:
                break
        for above in missing:
            self.done.changes[above] = self.ours(above)
        self.done.changes[key] = ours

    def remove(self, key: bytes) -> None:
        """A removal that nothing stands against, deepest first."""
        ours = self.own[key][0]
        if ours is not None or not self.is_ahead(key) or key in self.put_off:
            return
        if key in self.needed:
            self.done.held[key] = None
        else:
            self.done.changes[key] = None

    # --- what others changed, too --------------------------------------------------------------

    def contested(self, keys: Sequence[bytes]) -> list[bytes]:
        """Keys that neither became the truth nor were put off, parents first."""
        done = self.done
        return [
            key
            for key in keys
            if key not in self.put_off
            and key not in done.held
            and not (key in done.changes and done.changes[key] == self.own[key][0])
        ]

    def contest(self, key: bytes) -> None:
        ours, theirs = self.own[key][0], self.now(key)
        for above in above_of(key):
            if above in self._moved:
                self._follow(key, above, ours)
                return
        if self.is_ahead(key):
            self.add(key)  # what stood in its way may have gone
            if key in self.done.changes:
                return
        self.done.held[key] = ours
        if ours == theirs:
            return
        if ours is None:
            if self._is_nowhere(key, theirs):
                self.done.changes[key] = None
            elif not is_directory(theirs):
                self.done.clashes.append(Clash(key, None, theirs, None))
            return
        block = self._block(key)
        if block is not None:
            self._move(block, self.ours(block))
            self._follow(key, block, ours)
            return
        base = self.analysis.behind[key][0] if key in self.analysis.behind else theirs
        both = combine(base, ours, theirs, self.tree.algorithm.width)
        if both is not None:
            if both != theirs:
                self.done.changes[key] = both
        elif self._is_nowhere(key, theirs):
            self.done.changes[key] = ours
        elif theirs is None and is_directory(ours):
            return
        elif theirs is not None and has_same_body(ours, theirs, self.tree.algorithm.width):
            self._settle(key, base, ours, theirs)
        else:
            self._move(key, ours)

    def _is_nowhere(self, key: bytes, theirs: Value) -> bool:
        """Whether nobody could give the truth's version: held against a writer, it would keep all behind for ever."""
        return is_file(theirs) and self.is_lost(key)

    def _settle(self, key: bytes, base: Value, ours: bytes, theirs: bytes) -> None:
        """Only attributes clash: what came first stands in each, and what only we changed is taken."""
        settled, clashing = settle(base, ours, theirs, self.tree.algorithm.width)
        if settled != theirs:
            self.done.changes[key] = settled
        if clashing - {"mtime_ns"}:  # nobody could say which of two times is right
            self.done.clashes.append(Clash(key, ours, theirs, None))

    def _block(self, key: bytes) -> bytes | None:
        """The topmost thing above that is no directory in the truth."""
        found = None
        for above in above_of(key):
            value = self.now(above)
            if value is not None and not is_directory(value):
                found = above
        return found

    def _move(self, key: bytes, ours: Value) -> None:
        """Keep ours beside what stands. What lies below a directory follows by itself."""
        assert ours is not None, "there is something to keep"
        kept = self._free_name(key, ours)
        self.done.changes[kept] = ours
        if is_directory(ours):
            self._moved[key] = kept
        self.done.clashes.append(Clash(key, ours, self.now(key), kept))

    def _follow(self, key: bytes, moved: bytes, ours: Value) -> None:
        """Keep what lies below something moved in the same place below its new name."""
        self.done.held[key] = ours
        if ours is None:
            return
        kept = self._moved[moved] + key[len(moved) :]
        if len(kept) > MAX_PATH_BYTES:
            if not is_directory(ours):
                self._move(key, ours)
            return
        for above in above_of(key):
            if len(above) <= len(moved):
                break
            self.done.changes.setdefault(self._moved[moved] + above[len(moved) :], self.ours(above))
        self.done.changes[kept] = ours

    def _free_name(self, key: bytes, ours: bytes) -> bytes:
        """A conflict name in the nearest directory that exists and can hold it."""
        digest = self._digest(ours)
        directory = parent_key(key)
        name = key[len(directory) + 1 if directory else 0 :]
        while directory and not is_directory(self.now(directory)):
            directory = parent_key(directory)
        for number in range(1, 1 << 30):
            wanted = conflict_name(name, self.node, self.wall_ms, digest, number)
            while directory and len(directory) + 1 + len(wanted) > MAX_PATH_BYTES:
                directory = parent_key(directory)
            kept = directory + b"\0" + wanted if directory else wanted
            if self.now(kept) is None and self.ours(kept) is None:
                return kept
        raise AssertionError("a directory can not hold so many names")

    def _digest(self, value: bytes) -> str:
        entry = decode_entry(value, self.tree.algorithm.width)
        return (entry.digest or self.tree.algorithm.of(value)).hex()


# --- names ----------------------------------------------------------------------------------------


def conflict_name(name: bytes, node: str, wall_ms: int, digest: str, number: int = 1) -> bytes:
    """`photo.jpg` as `photo.conflict-node-03-20261122-190500-a1b2c3.jpg`, of at most MAX_NAME_BYTES.

    The time is the coordinator's and only shown. `number` tells apart what would have one name.
    """
    dot = name.rfind(b".")
    stem, extension = (name[:dot], name[dot:]) if dot > 0 else (name, b"")
    if len(extension) > EXTENSION_MAX_BYTES:
        stem, extension = name, b""
    told = timestamp(wall_ms)
    when = f"{told[0:4]}{told[5:7]}{told[8:10]}-{told[11:13]}{told[14:16]}{told[17:19]}"
    again = "" if number == 1 else f"-{number}"
    middle = f".conflict-{node}-{when}-{digest[:6]}{again}".encode()
    return _cut(stem, MAX_NAME_BYTES - len(middle) - len(extension)) + middle + extension


def _cut(stem: bytes, room: int) -> bytes:
    """At most `room` bytes, and no half of a character where it was whole ones."""
    if len(stem) <= room:
        return stem
    cut = stem[:room]
    try:
        stem.decode()
    except UnicodeDecodeError:
        return cut
    return cut.decode(errors="ignore").encode()
