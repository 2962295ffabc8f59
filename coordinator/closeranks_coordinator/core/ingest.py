"""From what an agent streams to roots that the coordinator believes. Pure: bytes in, decisions out.

Invariant: a root is only accepted when every object beneath it is stored or stands in the same batch,
so "the store has this root" means "the store has this tree". A commit is accepted when its edits,
applied here to the root stored last, give the root that the agent claims: a few hundred bytes prove the
whole tree. Whatever does not follow is answered by asking for an announcement, whose missing objects
are then fetched by have/want; what breaks the protocol raises ProtocolError and costs the session.

A root that is already stored needs no second computation: sixteen nodes that take the same step cost
one. Rejected: accepting edits without the stored base (an agent's bug would go unseen for ever).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from closeranks_proto.closure import Closure
from closeranks_proto.content import decode_chunk_list
from closeranks_proto.digests import DigestAlgorithm
from closeranks_proto.entries import Kind, decode_entry
from closeranks_proto.errors import CodecError, MissingObject
from closeranks_proto.limits import BROUGHT_MAX, DECAYED_MAX
from closeranks_proto.messages import Announce, Commit, Edit, Hand, Resync, Want
from closeranks_proto.paths import check_key
from closeranks_proto.tree import ObjectSource, Tree


@dataclass(frozen=True, slots=True)
class Accepted:
    """`seq` leads to `root`; `objects` must be durable before it is acknowledged."""

    seq: int
    root: bytes
    cause: str
    observed_age_ms: int
    objects: dict[bytes, bytes] = field(default_factory=dict)
    hands: tuple[Hand, ...] = ()
    by: tuple[tuple[bytes, int], ...] = ()  # as RootStored has it
    base: bytes | None = None  # these two likewise
    edits: tuple[tuple[bytes, bytes | None], ...] | None = None
    decayed: tuple[tuple[bytes, bytes], ...] = ()  # likewise
    brought: tuple[bytes, ...] = ()  # likewise


@dataclass(frozen=True, slots=True)
class Known:
    """Already accepted earlier: acknowledge again."""

    seq: int


@dataclass(frozen=True, slots=True)
class Partial:
    """Objects of an announced tree that is still incomplete; they may be stored already."""

    objects: dict[bytes, bytes]


Outcome = Accepted | Known | Partial | Resync | Want


class Ingest:
    """One volume of one agent's session.

    `seq` and `root` are what was accepted last (0 and None for an agent never seen). `has` promises the
    whole subtree of a digest; `source` gives objects that are stored or queued to be.
    """

    def __init__(
        self,
        volume: str,
        seq: int,
        root: bytes | None,
        algorithm: DigestAlgorithm,
        chunk_bytes: int,
        source: ObjectSource,
        has: Callable[[bytes], bool],
        tree: Tree | None = None,
    ) -> None:
        self.volume = volume
        self.seq = seq
        self.root = root
        self._algorithm = algorithm
        self._chunk_bytes = chunk_bytes
        self._has = has
        self._source = source
        self._tree = tree or Tree(algorithm, source)
        self._announced: Announce | None = None
        self._closure: Closure | None = None
        self._request = 0
        self._first_request = 1  # of the closure under way
        self._expected = False  # an announcement waits for its turn

    @property
    def fetching(self) -> bool:
        """Whether an announced tree is on its way, or waits for its turn."""
        return self._closure is not None or self._expected

    def commit(self, commit: Commit) -> list[Outcome]:
        """Judge one commit. Raises CodecError where its edits could not come from a correct agent."""
        if commit.seq <= self.seq:
            return [Known(self.seq)]
        if self.fetching:
            return []  # in flight when we asked for the announcement; the agent sends it again
        if commit.seq != self.seq + 1 or commit.base_root != self.root:
            return [Resync(self.volume, commit.seq, "the commit does not start from the root stored last")]
        if (commit.by and len(commit.by) != len(commit.edits)) or any(
            one > len(commit.hands) for one in commit.by
        ):
            raise CodecError("a commit whose edits name hands that it does not list")
        chunk_lists = self._check_edits(commit.edits)
        if self._has(commit.root):
            self._tree.summary(commit.root)  # CodecError where the stored object is no page
            objects: dict[bytes, bytes] = {}
            edits = None
        else:
            edits = tuple((edit.key, edit.value) for edit in commit.edits)
            try:
                edited = self._tree.edit(commit.base_root, edits)
            except MissingObject:
                return [Resync(self.volume, commit.seq, "the base of the commit is not stored any more")]
            if edited.root != commit.root:
                return [
                    Resync(self.volume, commit.seq, "the edits lead to another root than the commit claims")
                ]
            objects = {**chunk_lists, **edited.pages}
        self.seq, self.root = commit.seq, commit.root
        by = tuple((edit.key, hand) for edit, hand in zip(commit.edits, commit.by, strict=False) if hand)
        return [
            Accepted(
                commit.seq, commit.root, commit.cause, commit.observed_age_ms, objects, commit.hands, by,
                commit.base_root, edits,
            )
        ]  # fmt: skip

    def is_at_hand(self, announce: Announce) -> bool:
        """Whether nothing has to be fetched for this announcement."""
        return announce.seq <= self.seq or self._has(announce.root)

    def expect(self) -> None:
        """An announcement has come whose turn has not: what came before it is passed over."""
        self._announced, self._closure, self._expected = None, None, True

    def announce(self, announce: Announce) -> list[Outcome]:
        """Take an announced root: known trees at once, others by have/want. Raises CodecError for no tree's."""
        self._expected = False
        if announce.seq <= self.seq:
            return [Known(self.seq)]
        if len(announce.root) != self._algorithm.width:
            raise CodecError(f"an announced root of {len(announce.root)} bytes")
        if len(announce.decayed) > DECAYED_MAX:
            raise CodecError(f"an announcement that names {len(announce.decayed)} decayed paths")
        if len(announce.brought) > BROUGHT_MAX:
            raise CodecError(f"an announcement that names {len(announce.brought)} paths as brought")
        for key in announce.brought:
            check_key(key)
        for one in announce.decayed:
            check_key(one.key)
            decode_entry(one.before, self._algorithm.width)
        if self._has(announce.root):
            with contextlib.suppress(MissingObject):  # found damaged just now: it will be asked for
                self._tree.summary(announce.root)
        self._announced, self._first_request = announce, self._request + 1
        self._closure = Closure(self._algorithm, announce.root, self._has, self._chunk_bytes, self._source)
        return self._advance({})

    def receive(self, request: int, objects: Iterable[bytes], missing: Iterable[bytes]) -> list[Outcome]:
        """Objects that came for our Want `request`."""
        if self._closure is None or self._announced is None or request < self._first_request:
            return []  # asked for an announcement that a newer one has replaced
        if any(True for _ in missing):
            seq = self._announced.seq
            self._announced = self._closure = None
            return [Resync(self.volume, seq, "the announced tree has changed while it was fetched")]
        return self._advance(dict(self._closure.receive(objects)))

    def _advance(self, ready: dict[bytes, bytes]) -> list[Outcome]:
        assert self._closure is not None
        assert self._announced is not None
        if self._closure.done:
            announced = self._announced
            self._announced = self._closure = None
            self.seq, self.root = announced.seq, announced.root
            return [
                Accepted(
                    announced.seq,
                    announced.root,
                    announced.cause,
                    announced.observed_age_ms,
                    ready,
                    announced.hands,
                    decayed=tuple((one.key, one.before) for one in announced.decayed),
                    brought=announced.brought,
                )
            ]
        outcomes: list[Outcome] = [Partial(ready)] if ready else []
        wanted = self._closure.wants()
        if wanted:
            self._request += 1
            outcomes.append(Want(self.volume, self._request, wanted))
        return outcomes

    def _check_edits(self, edits: tuple[Edit, ...]) -> dict[bytes, bytes]:
        """Every edit is well formed and brings its chunk list; the chunk lists by content digest."""
        chunk_lists: dict[bytes, bytes] = {}
        last = b""
        for edit in edits:
            if check_key(edit.key) <= last:
                raise CodecError("the edits of a commit are not in the tree's order")
            last = edit.key
            if edit.value is None:
                continue
            entry = decode_entry(edit.value, self._algorithm.width)
            if entry.kind is not Kind.FILE or entry.size <= self._chunk_bytes:
                if edit.chunks is not None:
                    raise CodecError("a chunk list for an entry that has none")
                continue
            if edit.chunks is None:
                if not self._has(entry.digest):
                    raise CodecError("a file of several chunks without its chunk list")
                continue
            chunks = decode_chunk_list(edit.chunks)
            if (
                self._algorithm.of(edit.chunks) != entry.digest
                or chunks.size != entry.size
                or chunks.chunk_bytes != self._chunk_bytes
                or chunks.width != self._algorithm.width
            ):
                raise CodecError("a chunk list that does not belong to its entry")
            chunk_lists[entry.digest] = edit.chunks
        return chunk_lists
