"""One node's copy of a volume, and what its agent remembers of it: everything here survives a killed process.

Files are entries by key. `rows` is what the agent has seen and committed of them, with its root and the journal of
what the coordinator has not acknowledged; all three change in one transaction. What people and programs wrote
without a sync is lost or torn when the power goes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from closeranks_proto import messages as wire
from closeranks_proto.digests import XXH3_128
from closeranks_proto.entries import Entry, Kind, decode_entry, encode_entry
from closeranks_proto.tree import Tree

Files = dict[bytes, bytes]
Values = dict[bytes, bytes | None]
WIDTH = 16
DIRECTORY = encode_entry(Entry(Kind.DIRECTORY, mode=0o755))
JOURNAL_MAX = 48  # records; beyond it one announcement takes their place
SHORT_JOURNAL = 2
ANNOUNCE_EDITS = 40  # a step of more is announced


def key_of(path: str) -> bytes:
    return path.encode().replace(b"/", b"\0")


def name_of(key: bytes) -> str:
    return key.replace(b"\0", b"/").decode()


def file_of(content: str, size: int, mode: int = 0o644) -> bytes:
    """The entry of a file; equal contents give equal entries."""
    return encode_entry(Entry(Kind.FILE, size, XXH3_128.of(content.encode()), mode))


def content_of(value: bytes | None) -> bytes:
    """The content digest of a file; nothing for others."""
    return b"" if value is None else decode_entry(value, WIDTH).digest


def is_directory(value: bytes | None) -> bool:
    return value is not None and decode_entry(value, WIDTH).kind is Kind.DIRECTORY


def above(key: bytes) -> list[bytes]:
    """The directories that a key lies in, the topmost first."""
    parts = key.split(b"\0")
    return [b"\0".join(parts[:count]) for count in range(1, len(parts))]


@dataclass(slots=True)
class Copy:
    """A volume on one node."""

    volume: str
    tree: Tree
    pages: dict[bytes, bytes]  # of every tree that anybody built, by digest: content-addressed, so shared
    disk: Files = field(default_factory=dict)
    rows: Files = field(default_factory=dict)
    root: bytes | None = None
    journal: list[wire.Commit | wire.Announce] = field(default_factory=list)
    last_seq: int = 0
    seen_at: dict[int, float] = field(default_factory=dict)  # by seq: when its first change was seen
    trash: list[tuple[bytes, bytes]] = field(default_factory=list)
    # (when, key, what was there).
    unsynced: list[tuple[float, bytes, bytes | None]] = field(default_factory=list)
    problem: str | None = None
    unreadable: set[bytes] = field(default_factory=set)
    no_room: bool = False
    no_room_for_state: bool = False
    decayed: Files = field(default_factory=dict)  # what lies there as no stat tells: a scrub finds it
    # What a scrub found decayed: (before, now).
    found: dict[bytes, tuple[bytes, bytes]] = field(default_factory=dict)
    journal_max: int = JOURNAL_MAX
    # What the announcement in the journal names: what it was left as.
    brought: Values = field(default_factory=dict)

    @property
    def first_seq(self) -> int:
        return self.journal[0].seq if self.journal else self.last_seq + 1

    def is_gone(self) -> bool:
        """Whether its root can not be looked at now; it may be otherwise a moment later."""
        return self.problem is not None

    def base_root(self) -> bytes | None:
        first = self.journal[0] if self.journal else None
        return first.base_root if isinstance(first, wire.Commit) else None

    # --- what people and programs do -----------------------------------------------------------

    def write(self, key: bytes, value: bytes | None, now: float) -> None:
        """As a program would: directories appear, what is in the way goes, a directory takes all below it along."""
        for name in above(key):
            if not is_directory(self.disk.get(name)):
                self._set(name, DIRECTORY if value is not None else None, now)
        if not is_directory(value):
            for below in [one for one in self.disk if one.startswith(key + b"\0")]:
                self._set(below, None, now)
        self._set(key, value, now)

    def _set(self, key: bytes, value: bytes | None, now: float) -> None:
        before = self.disk.get(key)
        if before == value:
            return
        self.unsynced.append((now, key, before))
        del self.unsynced[:-64]
        if value is None:
            del self.disk[key]
        else:
            self.disk[key] = value

    def lose_unsynced(self, rng: random.Random, now: float, synced_s: float = 5.0) -> list[bytes]:
        """The power goes: of what was written lately some is as before, some is torn. The keys that are torn."""
        torn: list[bytes] = []
        for at, key, before in reversed(self.unsynced):
            if now - at > synced_s:
                break
            fate = rng.random()
            if fate < 0.4:
                if before is None:
                    self.disk.pop(key, None)
                else:
                    self.disk[key] = before
            elif fate < 0.6 and content_of(self.disk.get(key)):
                self.disk[key] = file_of(f"torn {now} {key!r}", 0)
                torn.append(key)
        self.unsynced.clear()
        for key in [
            key for key in self.disk if any(not is_directory(self.disk.get(one)) for one in above(key))
        ]:
            self.disk.pop(key, None)  # what lies below a directory that never was
        return torn

    def put(self, key: bytes, value: bytes | None) -> None:
        """Exactly this value there, durable: what was written there before it can not come back by itself."""
        self.decayed.pop(key, None)
        self.unsynced = [one for one in self.unsynced if one[1] != key]
        if value is None:
            self.disk.pop(key, None)
        else:
            self.disk[key] = value

    def has_content(self, content: bytes) -> bool:
        """In the tree or in the trash: it need not be fetched."""
        return any(content_of(one) == content for one in self.disk.values()) or any(
            content_of(one) == content for _, one in self.trash
        )

    # --- what the agent remembers --------------------------------------------------------------

    def commit(self, edits: Values, cause: str, seen_at: float) -> None:
        """Rows, root and journal in one transaction."""
        changed = {key: value for key, value in edits.items() if self.rows.get(key) != value}
        if not changed and self.root is not None:
            return
        rows = {key: value for key, value in {**self.rows, **changed}.items() if value is not None}
        if self.root is None:
            edited = self.tree.build(sorted(rows.items()))
        else:
            edited = self.tree.edit(self.root, sorted(changed.items()))
        self.pages.update(edited.pages)
        for key, value in changed.items() if cause == "scrub" else ():
            if value is not None and key in self.rows:
                before, first = self.rows[key], self.found.get(key)
                self.found[key] = (before if first is None or first[1] != before else first[0], value)
        for key, value in changed.items() if cause != "scrub" else ():
            if key in self.found and self.found[key][1] != value:
                del self.found[key]
        base, self.rows, self.root = self.root, rows, edited.root
        if base is None or len(changed) > ANNOUNCE_EDITS or len(self.journal) >= self.journal_max:
            self.announce(wire.MADE_ANEW if base is None else cause, seen_at, 0)
            return
        self.last_seq += 1
        told = tuple(wire.Edit(key, value) for key, value in sorted(changed.items()))
        self.journal.append(wire.Commit(self.volume, self.last_seq, base, edited.root, told, cause, 0))
        self.seen_at[self.last_seq] = seen_at

    def announce(self, cause: str, seen_at: float, after: int) -> None:
        """One statement of the present root in place of everything.

        That its machine was put back, or knows nothing of what it told before, is told until somebody has heard it.
        """
        assert self.root is not None, "what was scanned is announced"
        untold = (one.cause for one in self.journal if one.cause in (wire.MADE_ANEW, wire.PUT_BACK))
        cause, self.brought = next(untold, cause), self._brought()
        self.journal.clear()
        self.seen_at.clear()
        self.last_seq = max(self.last_seq, after) + 1
        decayed = tuple(
            wire.Decayed(key, before)
            for key, (before, now) in sorted(self.found.items())
            if self.rows.get(key) == now
        )
        told = wire.Announce(
            self.volume,
            self.last_seq,
            self.root,
            cause,
            0,
            decayed=decayed,
            brought=tuple(sorted(self.brought)),
        )
        self.journal.append(told)
        self.seen_at[self.last_seq] = seen_at

    def _brought(self) -> Values:
        """What in the journal a converge or a push of ours has left as it is."""
        found: Values = {}
        for record in self.journal:
            if isinstance(record, wire.Announce):
                found = dict(self.brought)
                continue
            for edit in record.edits:
                found.pop(edit.key, None)
                if record.cause in ("converge", "push"):
                    found[edit.key] = edit.value
        return {key: value for key, value in found.items() if self.rows.get(key) == value}

    def acknowledge(self, seq: int) -> None:
        self.journal = [one for one in self.journal if one.seq > seq]
        self.seen_at = {one: at for one, at in self.seen_at.items() if one > seq}

    def follows(self, seq: int, root: bytes | None) -> bool:
        """Whether somebody who has `root` as of `seq` gets to the present root by the journal."""
        if not self.journal:
            return seq == self.last_seq and root == self.root
        first = self.journal[0]
        if first.seq != seq + 1:
            return False
        return isinstance(first, wire.Announce) or (root is not None and first.base_root == root)

    def went_back(self, seq: int, root: bytes | None) -> bool:
        """Whether somebody who has `root` as of `seq` was told it by a later state of this copy."""
        if self.root is None or (self.journal and isinstance(self.journal[0], wire.Announce)):
            return False
        known = {one.seq: one.root for one in self.journal}.get(seq)
        if seq == self.first_seq - 1:
            known = self.base_root() if self.journal else self.root
        return seq > self.last_seq or (root is not None and known is not None and known != root)

    def replayed(self) -> bytes | None:
        """The root that the journal leads to, from whatever it starts from."""
        root: bytes | None = None
        for one in self.journal:
            if isinstance(one, wire.Announce):
                root = one.root
                continue
            assert root is None or root == one.base_root, "the journal has a gap"
            edited = self.tree.edit(one.base_root, [(edit.key, edit.value) for edit in one.edits])
            self.pages.update(edited.pages)
            assert edited.root == one.root, "a record of the journal does not lead to its root"
            root = one.root
        return root
