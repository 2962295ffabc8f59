"""From the differences of two roots to the steps that make one the other. Pure: no file is looked at here.

Order, so that as much as possible gets done whatever is lacking:
1. removals, deepest first: they need no room, and their bytes can be copied from the trash afterwards;
2. directories, symlinks and attributes of files, parents first: they need next to no room;
3. files that only change their name (see below), then files, in key order;
4. removals of directories out of which a file moved, and attributes of existing directories, deepest first:
   a directory becomes read-only when work in it is over. A file whose content is to come under another name goes here,
   too, and only once one of these is there: where they can not be made (a name that is too long, a directory that can
   not be written), the last good bytes of the fleet would lie in trashes alone.
A directory that turns into a file or symlink is empty by then, its contents being removals.

With `moves`, a removal and a new path with the very same entry become one rename: nothing is copied, nothing
goes to the trash, for the bytes stay in the tree.

Every step carries the value and the stat signature that the plan saw: it is applied only to that. A plan
covers a window of the differences; `cut` is the last key looked at. What concerns a directory that may have
differences behind the cut waits for the next window.

Bytes are moved only for chunks that are nowhere at hand: the same place of the same file, a file with the
same content elsewhere (renames, copies), a chunk of such a file, the trash; zeros need neither.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

from closeranks_proto.content import ChunkList, chunk_count, chunk_span
from closeranks_proto.entries import SPECIAL_BITS, Entry, Kind, aspects, decode_entry, entry_kind
from closeranks_proto.errors import MissingObject
from closeranks_proto.messages import PlanStep
from closeranks_proto.paths import escape, path_of

if TYPE_CHECKING:
    from ..disk.records import StatSignature

REMEMBERED_MAX_BYTES = 256
HEIRS_MAX = 16  # of one removal that are asked for
HOLE_MIN_BYTES = 64 * 1024  # shorter runs of zeros are written like anything else


@lru_cache(4096)
def _decoded(value: bytes, width: int) -> Entry:
    return decode_entry(value, width)


def entry_of(value: bytes, width: int) -> Entry:
    """`decode_entry` of a value that is looked at several times on its way; short ones are remembered."""
    return _decoded(value, width) if len(value) <= REMEMBERED_MAX_BYTES else decode_entry(value, width)


class Verb(StrEnum):
    MAKE_DIRECTORY = "make_directory"
    LINK = "link"
    MOVE = "move"
    FETCH = "fetch"
    COPY = "copy"
    SET_ATTRIBUTES = "set_attributes"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Saw:
    """One difference, with what the index knows of the path now."""

    key: bytes
    own: bytes | None
    target: bytes | None
    seen: StatSignature | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where bytes are at hand: a path of the tree, or an item of the trash."""

    in_trash: bool
    name: bytes  # key or item id


@dataclass(frozen=True, slots=True)
class Copy:
    """`count` chunks from number `first` on are the chunks of `place` from number `there` on."""

    first: int
    count: int
    place: Place
    there: int


@dataclass(frozen=True, slots=True)
class FileNeed:
    """How to come by a file's content. Chunks in neither `fetch` nor `copies` are zeros."""

    size: int
    chunk_bytes: int
    digest: bytes
    chunks: ChunkList | None  # None for a file of one chunk: `digest` is its digest
    fetch: tuple[int, ...]
    copies: tuple[Copy, ...]

    def chunk_digest(self, index: int) -> bytes:
        return self.digest if self.chunks is None else self.chunks[index]

    def span(self, index: int) -> tuple[int, int]:
        """(offset, length) in bytes."""
        return chunk_span(self.size, self.chunk_bytes, index)

    @property
    def fetch_bytes(self) -> int:
        if self.chunks is None:
            return self.size if self.fetch else 0
        return sum(self.span(index)[1] for index in self.fetch)

    @property
    def stage_bytes(self) -> int:
        """Room that the staged file takes, without its holes."""
        if not self.copies:
            return self.fetch_bytes
        return sum(
            min(one.count * self.chunk_bytes, self.size - one.first * self.chunk_bytes) for one in self.copies
        ) + (self.fetch_bytes)


@dataclass(frozen=True, slots=True)
class Step:
    """One key's way from `own` to `target`, valid while the path is still as `seen`."""

    verb: Verb
    key: bytes
    own: bytes | None
    target: bytes | None
    seen: StatSignature | None
    need: FileNeed | None = None
    source: Saw | None = None  # of a move: the path that goes
    # Of a removal: where its content is to be, at one of these at least, before it goes.
    heirs: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class LocalContent:
    """What is at hand. `zero(length)` is the digest of that many zero bytes."""

    lists: Callable[[bytes], ChunkList | None]
    whole: Mapping[bytes, Place]
    chunk: Mapping[bytes, tuple[Place, int]]
    zero: Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Rules:
    """The volume's settings that plans depend on."""

    width: int  # of digests, bytes
    chunk_bytes: int
    special_bits: bool


@dataclass(frozen=True, slots=True)
class Plan:
    steps: tuple[Step, ...]
    withheld: tuple[Saw, ...]  # differ only in special mode bits that may not be written
    waiting: tuple[Saw, ...]  # directories that must see the next window first


def plan(
    saws: Iterable[Saw], local: LocalContent, rules: Rules, cut: bytes | None = None, moves: bool = False
) -> Plan:
    """The ordered steps for these differences. Raises MissingObject where a chunk list is not at hand."""
    saws = sorted(saws, key=lambda one: one.key)
    sources = _moves(saws) if moves else {}
    moved = {source.key for source in sources.values()}
    left = {key[:at] for key in moved for at in range(len(key)) if key[at] == 0}
    renames: list[Step] = []
    late: list[Step] = []
    removals: list[Step] = []
    roomless: list[Step] = []
    files: list[Step] = []
    directories: list[Step] = []
    withheld: list[Saw] = []
    waiting: list[Saw] = []
    for saw in saws:
        if saw.key in moved:
            continue
        if saw.key in sources:
            renames.append(Step(Verb.MOVE, saw.key, None, saw.target, None, None, sources[saw.key]))
            continue
        own = None if saw.own is None else entry_of(saw.own, rules.width)
        target = None if saw.target is None else entry_of(saw.target, rules.width)
        if own is not None and target is not None and is_withheld(own, target, rules.special_bits):
            withheld.append(saw)
        elif _must_wait(saw.key, own, target, cut):
            waiting.append(saw)
        elif target is None:
            removal = Step(Verb.REMOVE, saw.key, saw.own, None, saw.seen)
            (late if saw.key in left else removals).append(removal)
        elif own is not None and _same_content(own, target):
            step = Step(Verb.SET_ATTRIBUTES, saw.key, saw.own, saw.target, saw.seen)
            (directories if own.kind is Kind.DIRECTORY else roomless).append(step)
        elif target.kind is Kind.FILE:
            need = need_of(saw.key, own, target, local, rules)
            verb = Verb.FETCH if need.fetch else Verb.COPY
            files.append(Step(verb, saw.key, saw.own, saw.target, saw.seen, need))
        else:
            verb = Verb.MAKE_DIRECTORY if target.kind is Kind.DIRECTORY else Verb.LINK
            roomless.append(Step(verb, saw.key, saw.own, saw.target, saw.seen))
    heirs = _heirs(removals, (*roomless, *files), rules.width)
    if heirs:
        above = {key[:at] for key in heirs for at in range(len(key)) if key[at] == 0}
        late += [
            replace(one, heirs=heirs.get(one.key, ()))
            for one in removals
            if one.key in heirs or one.key in above
        ]
        late.sort(key=lambda one: one.key)
        removals = [one for one in removals if one.key not in heirs and one.key not in above]
    for downwards in (removals, late, directories):
        downwards.reverse()
    steps = (*removals, *roomless, *renames, *files, *late, *directories)
    return Plan(steps, tuple(withheld), tuple(waiting))


def sources_of(steps: Iterable[Step]) -> set[bytes]:
    """The keys and items of the trash that these steps copy from."""
    return {copy.place.name for step in steps if step.need is not None for copy in step.need.copies}


def _moves(saws: Sequence[Saw]) -> dict[bytes, Saw]:
    """New file -> the path that goes and had the same entry. A path goes to one new name only."""
    going: dict[bytes, list[Saw]] = {}
    for saw in reversed(saws):
        if saw.target is None and saw.own is not None and entry_kind(saw.own) is Kind.FILE:
            going.setdefault(saw.own, []).append(saw)
    found: dict[bytes, Saw] = {}
    for saw in saws:
        if saw.own is None and saw.target is not None and going.get(saw.target):
            found[saw.key] = going[saw.target].pop()
    return found


def _heirs(removals: Sequence[Step], others: Sequence[Step], width: int) -> dict[bytes, tuple[bytes, ...]]:
    """Removed file -> new files that get its content. Left out where its name, or its directory's, is needed for them.

    That is where a directory becomes something else, and where the filesystem may take a new name for one that goes.
    """
    coming: dict[bytes, list[bytes]] = {}
    turned: set[bytes] = set()  # directories that become something else: empty by then
    for step in others:
        was_directory = step.own is not None and entry_kind(step.own) is Kind.DIRECTORY
        if was_directory and step.verb is not Verb.SET_ATTRIBUTES:
            turned.add(step.key)
        if (
            step.need is not None
            and step.target is not None
            and (target := entry_of(step.target, width)).size
        ):
            coming.setdefault(target.digest, []).append(step.key)
    found: dict[bytes, tuple[bytes, ...]] = {}
    twins = {_folded(step.key) for step in others if step.own is None} if coming else set()
    for step in removals if coming else ():
        own = None if step.own is None else entry_of(step.own, width)
        heirs = coming.get(own.digest, ()) if own is not None and own.kind is Kind.FILE and own.size else ()
        if not heirs:
            continue
        above = [step.key[:at] for at in range(len(step.key)) if step.key[at] == 0]
        if not turned.isdisjoint(above) or any(_folded(one) in twins for one in (*above, step.key)):
            continue
        found[step.key] = tuple(heirs[:HEIRS_MAX])
    return found


@lru_cache(maxsize=4096)  # many files go of one directory
def _folded(key: bytes) -> str:
    """What a filesystem that knows neither case nor forms of letters takes for the same name."""
    return unicodedata.normalize("NFKD", key.decode("utf-8", "surrogateescape")).casefold()


def mode_to_write(target: int, present: int, special_bits: bool) -> int:
    """The mode that may be written: special bits only if allowed, or where they are already there."""
    if special_bits:
        return target
    return target & ~SPECIAL_BITS | target & present & SPECIAL_BITS


def is_withheld(own: Entry, target: Entry, special_bits: bool) -> bool:
    """Whether the two differ in nothing but special mode bits of the target that may not be written."""
    if aspects(own, target) != ("mode",) or own.mode is None or target.mode is None:
        return False
    return mode_to_write(target.mode, own.mode, special_bits) == own.mode


def _same_content(own: Entry, target: Entry) -> bool:
    return not {"kind", "content", "target"} & set(aspects(own, target))


def _must_wait(key: bytes, own: Entry | None, target: Entry | None, cut: bytes | None) -> bool:
    if (
        cut is None
        or own is None
        or own.kind is not Kind.DIRECTORY
        or not (cut + b"\0").startswith(key + b"\0")
    ):
        return False
    # Its contents go on behind the cut: it can neither go nor be closed yet. (Unchanged ones never come here.)
    return target is None or target.kind is not Kind.DIRECTORY or _same_content(own, target)


def need_of(key: bytes, own: Entry | None, target: Entry, local: LocalContent, rules: Rules) -> FileNeed:
    """Where each chunk of the target's content comes from."""
    chunks = _chunks(target, local, rules)
    if not target.size:
        return FileNeed(0, rules.chunk_bytes, target.digest, None, (), ())
    before = _own_digests(own, local, rules)
    whole = local.whole.get(target.digest)
    fetch: list[int] = []
    copies: list[Copy] = []
    for index in range(chunk_count(target.size, rules.chunk_bytes)):
        digest = target.digest if chunks is None else chunks[index]
        length = chunk_span(target.size, rules.chunk_bytes, index)[1]
        if length >= HOLE_MIN_BYTES and digest == local.zero(length):
            continue
        if before is not None and index < len(before) and before[index] == digest:
            _extend(copies, index, Place(False, key), index)
        elif whole is not None:
            _extend(copies, index, whole, index)
        elif digest in local.chunk:
            _extend(copies, index, *local.chunk[digest])
        else:
            fetch.append(index)
    return FileNeed(target.size, rules.chunk_bytes, target.digest, chunks, tuple(fetch), tuple(copies))


def _extend(copies: list[Copy], index: int, place: Place, there: int) -> None:
    if copies:
        last = copies[-1]
        follows = last.first + last.count == index and last.there + last.count == there
        if follows and last.place == place:
            copies[-1] = Copy(last.first, last.count + 1, place, last.there)
            return
    copies.append(Copy(index, 1, place, there))


def _chunks(entry: Entry, local: LocalContent, rules: Rules) -> ChunkList | None:
    if entry.size <= rules.chunk_bytes:
        return None
    chunks = local.lists(entry.digest)
    if chunks is None:
        raise MissingObject(entry.digest)
    return chunks


def _own_digests(own: Entry | None, local: LocalContent, rules: Rules) -> Sequence[bytes] | None:
    if own is None or own.kind is not Kind.FILE:
        return None
    if own.size <= rules.chunk_bytes:
        return [own.digest]
    chunks = local.lists(own.digest)
    return None if chunks is None else list(chunks)


def step_for_people(step: Step, width: int) -> PlanStep:
    """The step as the dry run shows it."""
    need = step.need
    fetch_bytes = need.fetch_bytes if need else 0
    return PlanStep(str(step.verb), step.key, fetch_bytes, len(need.fetch) if need else 0, _note(step, width))


def _note(step: Step, width: int) -> str:
    own = None if step.own is None else entry_of(step.own, width)
    target = None if step.target is None else entry_of(step.target, width)
    if target is None:
        return f"{own.kind.name.lower()} goes to the trash" if own else ""
    parts: list[str] = []
    if own is not None and step.verb is Verb.SET_ATTRIBUTES:
        parts.append(", ".join(_change(name, own, target) for name in aspects(own, target)))
    elif own is None:
        parts.append("new")
    else:
        parts.append(f"replaces a {own.kind.name.lower()}, which goes to the trash")
    if step.need and step.need.copies:
        places = {one.place for one in step.need.copies if one.place != Place(False, step.key)}
        shown = sorted("the trash" if one.in_trash else escape(path_of(one.name)) for one in places)
        if shown:
            parts.append("content from " + ", ".join(shown[:3]))
    return "; ".join(parts)


def _change(name: str, own: Entry, target: Entry) -> str:
    if name == "mode" and own.mode is not None and target.mode is not None:
        return f"mode {own.mode:04o} to {target.mode:04o}"
    if name == "owner" and own.owner is not None and target.owner is not None:
        return f"owner {own.owner[0]}:{own.owner[1]} to {target.owner[0]}:{target.owner[1]}"
    return name
