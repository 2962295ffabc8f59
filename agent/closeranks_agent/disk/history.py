"""A volume's root and how it came there: index rows, tree and journal, moved together.

Invariant: rows, root and journal change in one transaction, and what this object says is what the database
says; a transaction that failed changed neither. The one exception is *stowing*: a first scan and a mass
change write their rows as they go, without a root, and mark the index unfinished; the root of all rows is
built and announced at the end. A process that dies in between finds the mark and does not read again what
was stowed.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Final

from closeranks_proto.digests import DigestAlgorithm
from closeranks_proto.errors import CodecError
from closeranks_proto.limits import JOURNAL_MAX_BYTES, MIB, SNAPSHOT_EDITS
from closeranks_proto.messages import MADE_ANEW, Announce, Commit, Decayed, Edit, Hand, VolumeSettings
from closeranks_proto.tree import Edited, Summary, Tree

from .attributed import HandOf, attribute
from .brought import ValueOf
from .database import Damaged
from .decay import Decay
from .growth import Growth
from .index import Index
from .journal import Journal, cut, edit_bytes
from .objects import Objects
from .private import Identity
from .rows import Delta
from .saying import Saying
from .witness import Witness

log = logging.getLogger("closeranks.history")

CACHE_PAGES: Final = 96  # decoded, about 12 KB each
EDIT_MAX_BYTES: Final = 4 * MIB  # an edit beyond it (chunk list of a huge file) is announced, never framed


class History:
    """Writing methods run on the volume's thread; reading ones and `acknowledge`, `announce` anywhere."""

    def __init__(
        self,
        path: Path,
        volume: str,
        settings: VolumeSettings,
        algorithm: DigestAlgorithm,
        damaged: bool = False,
    ) -> None:
        self.index = _open_index(path, damaged)
        self._decay = Decay(self.index)
        self.journal = Journal(self.index, volume, decayed_in=self._decayed_in, values_of=self._values_of)
        self.objects = Objects()
        self.root: bytes | None = None
        self.summary: Summary | None = None
        self.unfinished = bool(self.index.meta("unfinished"))  # rows were stowed, their root not built
        self._growth: Growth | None = None  # of a first scan that is under way
        self.rederive = False  # what is known was made under other settings: look at everything again
        self._volume = volume
        outlived = self.index.meta("outlived")
        # The last step that the files know of and an index that was put back does not; None: they are of one time.
        # Nothing may be told until a scan has compared the two, and then the present root, not how it came there.
        self.outlived = outlived if isinstance(outlived, int) else None
        self._heard = bool(self.index.meta("heard"))  # a number of ours was acknowledged
        self.saying = Saying(volume, self.journal.last_seq)
        try:
            self.fit(settings, algorithm)
            self._load()
            self.saying.say()
        except BaseException:
            self.close()
            raise

    def fit(self, settings: VolumeSettings, algorithm: DigestAlgorithm) -> None:
        """Go by these settings: forget digests that are of no use under them, mark the rest to be derived again."""
        self._made_under: dict[str, object] = {
            "digest": algorithm.name,
            "chunk_bytes": settings.chunk_bytes,
            "track": sorted(settings.track),
            "ignore": list(settings.ignore),
        }
        self._algorithm, self._chunk_bytes = algorithm, settings.chunk_bytes
        made = self.index.meta("made_under")
        if isinstance(made, dict) and any(
            made[name] != self._made_under[name] for name in ("digest", "chunk_bytes")
        ):
            log.info("%s: digest or chunk length changed; everything is read again", self._volume)
            self.forget()
            made = None
        if made is None:
            self.remember("made_under", self._made_under)
        self.rederive = made is not None and made != self._made_under
        self.tree = Tree(algorithm, self.objects.source, CACHE_PAGES)

    def rederiving(self) -> None:
        """A scan begins; until it has ended, rows of old and new settings stand side by side."""
        self._growth = None  # of one that failed
        if self.rederive:
            self.remember("made_under", self._made_under | {"track": None, "ignore": None})

    def rederived(self) -> None:
        """Everything was looked at under the present settings."""
        if self.rederive:
            self.remember("made_under", self._made_under)
            self.rederive = False

    def close(self) -> None:
        self.index.database.close()

    # --- start ---------------------------------------------------------------------------------

    def _load(self) -> None:
        """Build the tree from the rows, and announce it where the journal does not lead to it."""
        stored = self.index.meta("root")
        if stored is None:
            return
        edited = Growth(self.index, self.tree).finish()
        self.objects.add(edited.pages)
        self.root, self.summary = edited.root, edited.summary
        expected = bytes.fromhex(str(stored))
        announced = self.journal.announced_roots()
        if edited.root == expected and not self.unfinished and announced in ([], [edited.root]):
            return
        if edited.root != expected and not self.unfinished:
            log.error(
                "%s: the rows of the index do not give the root that was recorded (%s instead of %s); every "
                "directory is compared again", self._volume, edited.root.hex(), expected.hex(),
            )  # fmt: skip
        with self._transaction():
            if edited.root != expected and not self.unfinished:
                self.index.drop_listings()
            self.journal.announce(edited.root, "scan", time.monotonic())
            self._set_root(edited.root)
            self.index.set_meta("unfinished", False)
        self.unfinished = False

    # --- writing -------------------------------------------------------------------------------

    def commit(
        self,
        delta: Delta,
        edits: Mapping[bytes, Edit],
        cause: str,
        seen_mono: float,
        hand_of: HandOf | None = None,
        sizes: Mapping[bytes, int] | None = None,
    ) -> None:
        """Rows and the steps that the edits make, cut into commits; too many become one announcement."""
        base = self.root
        assert base is not None
        ordered = [edits[key] for key in sorted(edits)]
        announce = len(ordered) > SNAPSHOT_EDITS or any(edit_bytes(edit) > EDIT_MAX_BYTES for edit in ordered)
        steps: list[tuple[bytes, bytes, Sequence[Edit]]] = []
        summary = self.summary
        for run in [ordered] if announce else cut(ordered):
            edited = self.tree.edit(base, [(edit.key, edit.value) for edit in run])
            self.objects.add(edited.pages)
            if edited.root != base:
                steps.append((base, edited.root, run))
                base, summary = edited.root, edited.summary
        with self.index.database.lock:
            with self._transaction(durable=bool(steps)):
                self.index.write(delta, self._chunk_bytes, self._algorithm.width)
                if steps and cause == "scrub":
                    self._note_decay(ordered)
                elif steps:
                    self._decay.follow(edits, partial(self.tree.lookup, base))
                if steps and announce:
                    self.journal.announce(
                        base, cause, seen_mono, hands=attribute(ordered, hand_of, sizes).hands
                    )
                else:
                    for before, after, run in steps:
                        self.journal.commit(
                            before, after, run, cause, seen_mono, attribute(run, hand_of, sizes)
                        )
                if steps:
                    self._set_root(base)
            self.root, self.summary = base, summary
        self.saying.say()
        self._tidy()

    def _note_decay(self, edits: Sequence[Edit]) -> None:
        """What a scrub has found is not this node's own doing, also where that is told later and at once with more."""
        root = self.root
        assert root is not None, "a scrub compares with what is known"
        found: dict[bytes, tuple[bytes, bytes]] = {}
        for edit in edits:
            before = self.tree.lookup(root, edit.key)
            if before is not None and edit.value is not None:
                found[edit.key] = (before, edit.value)
        self._decay.note(found, lambda key: self.tree.lookup(root, key))

    def _decayed_in(self, root: bytes) -> tuple[Decayed, ...]:
        return self._decay.among(self._values_of(root))

    def _values_of(self, root: bytes) -> ValueOf:
        return lambda key: self.tree.lookup(root, key)

    def stow(self, delta: Delta) -> None:
        """Rows only; `found` must follow."""
        self.index.database.gather(True)
        if self._growth is not None:
            self._growth.writing(delta)
        elif self.root is None and not self.unfinished and self.index.is_empty():
            self._growth = Growth(self.index, self.tree)
        with self._transaction(durable=False):
            self.index.write(delta, self._chunk_bytes, self._algorithm.width)
            if not self.unfinished:
                self.index.set_meta("unfinished", True)
                if self.root is None:  # all that will be known is read from now on: see scrub.progress
                    self.index.set_meta("scrub", {"verified_ms": int(time.time() * 1000)})
        self.unfinished = True

    def grow(self, frontier: bytes) -> None:
        """Every path before this key is stowed for good: its part of the tree can be built."""
        if self._growth is not None:
            self._growth.grow(frontier)

    def _built(self) -> Edited:
        """The tree of all rows."""
        growth, self._growth = self._growth, None
        if growth is not None and not growth.stunted:
            return growth.finish()
        return Growth(self.index, self.tree).finish()

    def rest(self) -> None:
        """Nothing more is stowed for now, whether or not a root was found: the log needs no room for masses."""
        self._growth = None
        self.index.database.gather(False)  # the next transaction, which will be a small one, empties it

    def found(self, cause: str, seen_mono: float, force: bool = False, hands: Sequence[Hand] = ()) -> None:
        """The root of all rows, announced where it is another than before or `force` says so.

        The first root of an index that somebody removed tells so: who made the volume's directory anew, by our own
        advice, has written nothing. With nobody who was told of another root before, it means nothing.
        """
        if self.root is None and self.index.meta("made_anew"):
            cause = MADE_ANEW
        edited = self._built()
        self.objects.add(edited.pages)
        with self.index.database.lock:
            with self._transaction():
                if force or edited.root != self.root:
                    self._decay.follow_all(partial(self.tree.lookup, edited.root))
                    self.journal.announce(edited.root, cause, seen_mono, hands=hands)
                    self._set_root(edited.root)
                self.index.set_meta("unfinished", False)
                self.index.set_meta("made_anew", False)
            self.root, self.summary = edited.root, edited.summary
            self.unfinished = False
        self.saying.say()
        self.rest()
        self._tidy()

    def forget(self) -> None:
        """Drop rows, root and journal; numbers go on. What is on disk must be read anew."""
        with self.index.database.lock:
            with self._transaction():
                self.index.drop_entries()
                self.index.set_meta("root", None)
                self.index.set_meta("scrub", None)
                self.index.set_meta("unfinished", False)
                self.journal.acknowledge(self.journal.last_seq)
            self.root = self.summary = None
            self.unfinished = False
        self.objects.clear()

    def announce(self, after_seq: int, cause: str) -> None:
        """One announcement of the present root instead of everything that was not acknowledged.

        It may be told when `saying` says so.
        """
        with self.index.database.lock:
            if self.root is None:
                return  # the first scan announces at its end
            with self._transaction():
                self.journal.announce(self.root, cause, time.monotonic(), after_seq)
                self.index.set_meta("outlived", None)
            self.outlived = None

    def acknowledge(self, seq: int) -> None:
        """Forget records up to `seq`. Power loss may bring them back: they are sent again then."""
        if seq < self.journal.first_seq:
            return
        with self._transaction(durable=False):
            self.journal.acknowledge(seq)
            if not self._heard:
                self.index.set_meta("heard", True)
            if self.journal.empty and not self.objects.pinned:
                self.index.drop_orphans()
        self._heard = True

    def remember(self, name: str, value: object) -> None:
        """One fact beside the rows."""
        with self._transaction():
            self.index.set_meta(name, value)

    def note(self, name: str, value: object) -> None:
        """The same from any thread, for what power loss may take back."""
        with self.index.database.transaction(durable=False):
            self.index.set_meta(name, value)

    def index_made_from(self, identity: Identity) -> None:
        """From now on the index belongs to this root."""
        found = asdict(identity)
        if self.index.meta("identity") != found:
            self.remember("identity", found)

    def witness(self, private: bytes) -> None:
        """Hold our numbers against what the private directory says of them, once. Raises StateUnavailable."""
        if self.saying.is_witnessed:
            return
        try:
            self._compare(private)
        except OSError as error:
            self.saying.not_kept(error)

    def _compare(self, private: bytes) -> None:
        index_id = self.index.meta("index_id")
        if not isinstance(index_id, str):
            index_id = secrets.token_hex(16)
            self.remember("index_id", index_id)
        witness = Witness(private, index_id)
        told = witness.read()
        if told is not None and told > self.journal.last_seq:
            log.warning(
                "%s: the state directory was put back to an earlier state, and the files were not (step %d, and %d): "
                "what differs from it is looked for, and is this node's own", self._volume, self.journal.last_seq, told,
            )  # fmt: skip
            with self._transaction():
                self.journal.skip(told)
                self.index.set_meta("outlived", told)
            self.outlived = told
        self.saying.begin(witness)

    # --- reading -------------------------------------------------------------------------------

    def pending(self, after_seq: int, limit: int) -> list[Commit | Announce]:
        """The next steps that may be told behind `after_seq`, ready to send."""
        return self.journal.pending(after_seq, limit, self.saying.said)

    def fresh(self, after_seq: int, limit: int) -> list[Commit]:
        """The same of what was committed a moment ago, without asking the database; [] where that is not enough."""
        return self.journal.fresh(after_seq, min(limit, self.saying.said - after_seq))

    def base_root(self) -> bytes | None:
        with self.index.database.lock:
            return self.root if self.journal.empty else self.journal.base_root()

    def follows(self, seq: int, root: bytes | None) -> bool:
        with self.index.database.lock:
            if self.outlived is not None:
                return False
            if self.journal.empty:
                return seq == self.journal.last_seq and root is not None and root == self.root
            if seq >= self.journal.first_seq:  # acknowledged, but a disk that fails could not forget it yet
                return root is not None and root == self.journal.root_at(seq)
            base = self.journal.base_root()
            if base is None:
                return seq < self.journal.first_seq
            return seq == self.journal.first_seq - 1 and root == base

    def went_back(self, seq: int, root: bytes | None) -> bool:
        """Whether somebody who has `root` as of `seq` was told it by a later state of ours: an older one was put back.

        A number that has left us stands for one root for ever. The numbers of an index that was made anew begin again,
        and mean nothing before one of them was acknowledged. Where the files are newer than the index, what they have
        come to was told, or is our own, up to the last step that they know of.
        """
        with self.index.database.lock:
            if self.outlived is not None:
                return seq > self.outlived
            begins = not self.journal.empty and self.journal.base_root() is None
            if self.root is None or (begins and not self._heard):
                return False
            known = self.base_root() if seq == self.journal.first_seq - 1 else self.journal.root_at(seq)
            return seq > self.journal.last_seq or (root is not None and known is not None and known != root)

    def _set_root(self, root: bytes) -> None:
        self.index.set_meta("root", root.hex())

    @contextmanager
    def _transaction(self, durable: bool = True) -> Iterator[None]:
        with self.index.database.lock:
            try:
                with self.index.database.transaction(durable):
                    yield
                self.journal.durable()
            except BaseException:
                self.journal.reload()
                self._decay.reload()
                raise
            self.saying.durable(self.journal.last_seq)

    def _tidy(self) -> None:
        """Drop pages and chunk lists that nobody can want any more, where they have become many."""
        roots = [] if self.root is None else [self.root]
        try:
            self.objects.sweep(self.tree, roots + self.journal.announced_roots())
        except CodecError:
            log.exception("%s: pages in memory are damaged", self._volume)
            raise
        if self.index.orphan_bytes() > JOURNAL_MAX_BYTES:
            with self._transaction(durable=False):
                self.index.drop_orphans()


def _open_index(path: Path, damaged: bool) -> Index:
    """The index at `path`; a damaged one is set aside, for all it holds can be read from the volume."""
    try:
        if not damaged:
            index = Index(path)
            if index.meta("made_under") is None:  # there was none
                with index.database.transaction():
                    index.set_meta("made_anew", True)
            return index
    except Damaged as error:
        log.error("%s; it is set aside and the volume is read anew", error)
    aside = path.with_name(f"{path.name}.damaged")  # one is enough for whoever wants to look
    path.replace(aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return Index(path)
