"""What guards count of each node: its pending changes, each once, and what its agent says it is writing.

A *meter* belongs to one node's volume, a *gauge* to one disk of a node. Both are forgotten at a restart, all
but the learned usual: what is pending then is counted anew from the first question on, so nothing that was
being observed slips through; what was merged in the minutes before is forgotten.

Two measures of writing are kept apart and the larger one counts, since both see the same bytes: what the
agent's watcher saw (also before a commit), and what commits say. A changed large file counts with the chunks
that differ, never with its whole size.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from closeranks_proto import messages as wire
from closeranks_proto.entries import content_mark, entry_kind, entry_size

from .rules import GuardRules
from .runs import Run
from .sprees import Spree
from .stepping import PART_KEYS, key_parts, whole
from .truth import Values
from .windows import LEFT, MADE, USUAL_BUCKET_S, Rolling, Shares, Usual, kind_in, what_is
from .writers import HandRecord

QUIET_S = 1.0  # a burst is over when nothing was written for so long
REPORT_FRESH_S = 1.5  # a report tells of the second before it
REPORTS_S = 1.0  # what was reported within that is the pace of this moment
REPORTS_MAX = 64  # an agent sends 20 a second at most
RUSH_S = 0.1  # the least that two paces of a rush are taken over
RUSH_FRESH_S = 0.5  # after so long without a report a rush is over
DISK_QUIET_S = 30.0  # after so long without a report a disk's burst is over
COUNTED_MAX = 4096  # paths; 0.6 MB of a node's volume that is written to
COUNTED_S = 3600.0  # a path that changes again within that is no other path
BLOCK_BYTES, INODE_BYTES = 4096, 256  # of ext4 and its like
# value, the truth's, bytes that were written, how contents moved with it (`Shares.rewrite`), whether it was news that
# this path is altered, and that it is retyped
Change = tuple[bytes | None, bytes | None, int, int, tuple[bool, bool]]
SizeOf = Callable[[bytes, bytes | None, bytes | None], int]  # key, before, after: bytes that were written


@dataclass(slots=True)
class Bucket:
    """The five minutes under way: what was seen being written, and what was committed."""

    number: int = 0
    seen: list[int] = field(default_factory=lambda: [0, 0])
    committed: list[int] = field(default_factory=lambda: [0, 0])


@dataclass(slots=True)
class Changing:
    """Paths that are other than they were, each once in a window of the shares. `spree`: whether they wait."""

    spree: Spree
    count: int = 0  # in all
    waiting: int = 0  # of them not let through yet
    since: float = -1e9  # when the first of those came
    at: float = -1e9  # when the last one came

    def add(self, is_one: bool, was_one: bool, now: float) -> None:
        """`was_one`: it was taken back for that. One path that is written on and on is no further one."""
        if is_one:
            if not was_one:
                self.since, self.at = self.since if self.waiting else now, now
            self.count, self.waiting = self.count + 1, self.waiting + 1

    def take_back(self, was_one: bool) -> None:
        self.count, self.waiting = self.count - was_one, self.waiting - was_one

    def forget(self) -> None:
        """What waits still is counted once more."""
        self.count, self.waiting = self.count - self.waiting, 0


@dataclass(frozen=True, slots=True)
class Report:
    """What an agent saw being written in the last `window_s`; `since_s`: after the report before."""

    at: float
    window_s: float
    since_s: float
    files: int
    bytes: int


@dataclass(slots=True)
class Meter:
    """One node's volume. Pairs of counters are (files, bytes); `committed` has those of the files that went, too.

    `pending`: changes that were counted and not let through yet; `passed`: those that were let through last.
    `observing`: since when a burst is held back; `cleared`: the pace that was let through. The same for paths
    that went, moved ones left out: `losing` since when, `lost_at` when the last one went, `lost_before` how
    many had gone when changes were last let through, `cleared_losses` a second, `over_loss` since when they are too
    many.
    """

    usual: Usual
    seen: Rolling
    committed: Rolling
    shares: Shares
    merged: Rolling  # changes that were let through, in the window of the shares
    pending: dict[bytes, Change] = field(default_factory=dict)
    passed: dict[bytes, Values] = field(default_factory=dict)
    excused_at: float = -1e9  # when it was last brought up to date by us, or was behind
    # Paths, and when each was counted.
    counted: OrderedDict[bytes, float] = field(default_factory=OrderedDict)
    waiting_bytes: int = 0  # of what is pending
    waiting_room: int = 0  # by how much its files grow
    grown: int = 0  # the same of all that was ever counted
    gone: int = 0  # paths of what is pending that are removals
    # What was counted last: identity of `analysis`, and how many changes.
    basis: tuple[int, int] | None = None
    analysis: object = None  # kept, so that its identity is nobody else's
    observing: float | None = None
    observed: tuple[int, int] = (0, 0)  # totals when it began
    glancing: float | None = None  # since when more than a handful waits, which is no burst so far
    ordinary: bool = False  # it has gone on without becoming one
    cleared: tuple[float, float] = (0.0, 0.0)
    changed_at: float = 0.0
    losing: float | None = None
    lost_at: float = 0.0
    lost: int = 0
    lost_before: int = 0
    cleared_losses: float = 0.0
    going: Spree = field(default_factory=lambda: Spree(free=0))  # of paths that went
    over_loss: float | None = None
    passed_at: float = 0.0
    over_since: float | None = None  # since when it has written more than its limit
    reports: deque[Report] = field(default_factory=lambda: deque(maxlen=REPORTS_MAX))
    unseen: int = 0  # paths that changed and are not committed, as the agent said last
    growing: int = 0  # bytes that were seen since the last commit, while there are such paths
    seen_total: list[int] = field(default_factory=lambda: [0, 0])
    committed_total: list[int] = field(default_factory=lambda: [0, 0])
    bucket: Bucket = field(default_factory=Bucket)
    run: Run = field(default_factory=Run)
    altering: Changing = field(default_factory=lambda: Changing(Spree()))
    # Who makes links of files waits.
    retyping: Changing = field(default_factory=lambda: Changing(Spree(free=0)))

    @classmethod
    def new(cls, usual: Usual, rules: GuardRules) -> Meter:
        return cls(
            usual, Rolling(rules.rate_window_s, 2), Rolling(rules.rate_window_s, 3), Shares(rules.share_window_s),
            Rolling(rules.share_window_s, 1),
        )  # fmt: skip

    def fit(self, rules: GuardRules) -> None:
        """Windows that the configuration has changed begin anew."""
        if self.seen.window_s != rules.rate_window_s:
            self.seen, self.committed = Rolling(rules.rate_window_s, 2), Rolling(rules.rate_window_s, 3)
        if self.shares.window_s != rules.share_window_s:
            self.shares = Shares(rules.share_window_s)
            self.merged = Rolling(rules.share_window_s, 1)

    # --- counting ------------------------------------------------------------------------------

    def count(self, own: Mapping[bytes, Values], entries: int, now: float, size_of: SizeOf) -> None:
        """`counting` at once."""
        whole(self.counting(own, entries, now, size_of))

    def counting(
        self, own: Mapping[bytes, Values], entries: int, now: float, size_of: SizeOf,
        moved: Collection[bytes] | None = None,
    ) -> Generator[None, None, None]:  # fmt: skip
        """Take the present pending changes: those that are news are counted, those that are gone are undone; in parts.

        `moved`: of all others nothing is otherwise than when it was counted last.
        """
        self.shares.reach(now, entries)
        gone_from = self.pending if moved is None else [key for key in moved if key in self.pending]
        for part in key_parts([key for key in gone_from if key not in own]):
            for key in part:
                self._undo(key, self.pending.pop(key), now)
            yield from _pause(part)
        total = 0
        changed: list[bytes] = []
        news: list[tuple[bytes, bytes | None, bytes | None, int, tuple[bool, bool]]] = []
        for part in key_parts(list(own) if moved is None else [key for key in moved if key in own]):
            for key in part:
                value, truth = own[key]
                passed, known = self.passed.get(key), self.pending.get(key)
                if (passed is not None and passed[0] == value) or (
                    known is not None and known[:2] == (value, truth)
                ):
                    continue
                before, was = truth, (False, False)
                if known is not None:
                    self._undo(key, self.pending.pop(key), now)
                    before, was = known[0], known[4]
                if known is not None and known[0] == value:
                    news.append((key, value, truth, known[2], was))
                    continue
                size = size_of(key, before, value)
                news.append((key, value, truth, size, was))
                changed.append(key)
                total += size
            yield from _pause(part)
        # What went comes first: whatever has its content now was moved, whichever name is the smaller one.
        for ordered in key_parts(sorted(news, key=lambda one: one[1] is not None)):
            for one in ordered:
                self._do(*one, now)
            yield from _pause(ordered)
        lost = self.shares.lost(now)
        if lost > self.lost:
            self.lost_at = now
        self.lost, self.lost_before = lost, min(self.lost_before, lost)
        if changed:
            others = [key for key in changed if self._is_another(key, now)]
            files, gone = len(others), sum(own[key][0] is None for key in others)
            self._stir(now)
            self.growing = 0
            self.committed.add(now, files, total, gone)
            self._total(self.committed_total, self.bucket.committed, files, total)

    def _is_another(self, key: bytes, now: float) -> bool:
        """Whether a path that changed is one more: one file that is written 83 times is one file."""
        at = self.counted.pop(key, None)
        is_new = at is None or now - at > COUNTED_S
        self.counted[key] = now if at is None or is_new else at
        if len(self.counted) > COUNTED_MAX:
            self.counted.popitem(last=False)
        return is_new

    def see(self, activity: wire.VolumeActivity, window_ms: int, now: float) -> None:
        """What the agent saw being written in the last moment, committed or not."""
        since = now - self.reported_at
        self.seen.add(now, activity.files, activity.bytes)
        self._total(self.seen_total, self.bucket.seen, activity.files, activity.bytes)
        while len(self.reports) > 1 and self.reports[0].at <= now - REPORTS_S:
            self.reports.popleft()
        self.reports.append(Report(now, window_ms / 1000, since, activity.files, activity.bytes))
        self.unseen = activity.pending
        self.growing = self.growing + activity.bytes if activity.pending else 0
        if activity.pending and (activity.files or activity.bytes):
            self._stir(now)

    def _stir(self, now: float) -> None:
        """Something was written. After a rest it is something else than before, whatever that was like."""
        if now - self.changed_at > QUIET_S:
            self.ordinary = False
        self.changed_at = now

    def let_through(self, own: Mapping[bytes, Values], now: float) -> None:
        """What was pending becomes the truth."""
        news = [values for key, values in own.items() if self.passed.get(key) != values]
        self.merged.add(now, len(news))
        self.shares.grow(now, sum((truth is None) - (value is None) for value, truth in news))
        self.lost_before, self.losing, self.passed_at = self.lost, None, now
        self.passed, self.pending = dict(own), {}
        self.altering.waiting = self.retyping.waiting = 0
        self.waiting_bytes = self.waiting_room = self.gone = 0

    def settle(self, now: float) -> None:
        """Nothing of the node's own is left: it is the truth, or was undone. The same again is another change."""
        for key in list(self.pending):
            self._undo(key, self.pending.pop(key), now)
        self.passed, self.basis, self.analysis, self.over_loss = {}, None, None, None

    def forget(self) -> None:
        """What was counted so far was decided about: guards begin anew. What waits still is counted once more."""
        self.pending = {}
        self.grown -= self.waiting_room
        self.altering.forget()
        self.going = Spree(free=0)
        self.retyping.forget()
        self.waiting_bytes = self.waiting_room = self.gone = 0
        self.basis, self.analysis = None, None
        self.seen.clear()
        self.committed.clear()
        self.shares.clear()
        self.merged.clear()
        self.counted.clear()
        self.observing = self.over_loss = None

    def learn(self, now_ms: int) -> bool:
        """Put full five minutes into the usual; whether there was something to learn."""
        number = now_ms // 1000 // USUAL_BUCKET_S
        full = self.bucket
        if number <= full.number:
            return False
        self.bucket = Bucket(number)
        files, size = (max(pair) for pair in zip(full.seen, full.committed, strict=True))
        if not full.number or not (files or size):
            return False
        self.usual.learn(full.number, files, size)
        return True

    # --- figures -------------------------------------------------------------------------------

    def written(self, now: float) -> tuple[int, int]:
        """Files and bytes in the window.

        A name that went was not written: a directory that gets another name is each of its files once, and what is
        deleted is for its own guard.
        """
        paths, gone = self._told(now)
        return paths - gone, max(self.seen.sums(now)[1], self.committed.sums(now)[1])

    def _told(self, now: float) -> tuple[int, int]:
        """Paths in the window, and how many of them went.

        What the agent saw and has not committed yet is taken to be of the same kind, as far as no more of it went than
        went already: one removal says nothing of a flood behind it.
        """
        files, _, gone = self.committed.sums(now)
        paths = max(self.seen.sums(now)[0], files)
        return paths, min(paths * gone // files, 2 * gone) if files else 0

    def totals(self) -> tuple[int, int]:
        return (
            max(self.seen_total[0], self.committed_total[0]),
            max(self.seen_total[1], self.committed_total[1]),
        )

    def pace(self, now: float) -> tuple[float, float]:
        """Files/s and bytes/s of this moment."""
        committed, files_s, bytes_s = self.committed.peak(now), 0.0, 0.0
        if now - self.reported_at <= REPORT_FRESH_S:
            latest = [one for one in self.reports if one.at > self.reported_at - REPORTS_S]
            seconds = max(REPORTS_S, sum(one.window_s for one in latest))
            files_s = sum(one.files for one in latest) / seconds
            bytes_s = sum(one.bytes for one in latest) / seconds
        return max(files_s, float(committed[0])), max(bytes_s, float(committed[1]))

    def lasting(self, now: float) -> tuple[float, float]:
        """The lesser pace of the last two seconds: what a scan finds in one moment says nothing of what follows."""
        seconds = zip(self.seen.wholes(now), self.committed.wholes(now), strict=True)
        paths, gone = self._told(now)
        written = 1 - gone / paths if paths else 1.0
        paces = [(max(seen[0], done[0]) * written, max(seen[1], done[1])) for seen, done in seconds]
        return min(float(one[0]) for one in paces), min(float(one[1]) for one in paces)

    def rush_bytes_s(self, now: float) -> float:
        """What is written this very moment: the lesser of the last two paces. One step is no pace."""
        if now - self.reported_at > RUSH_FRESH_S:
            return 0.0
        paces: list[float] = []
        span_s, size = 0.0, 0
        for one in reversed(self.reports):
            span_s, size = span_s + one.since_s, size + one.bytes
            if span_s >= RUSH_S:
                paces.append(size / span_s)
                span_s, size = 0.0, 0
            if len(paces) == 2:
                return min(paces)
        return 0.0

    @property
    def reported_at(self) -> float:
        """When the agent said something last."""
        return self.reports[-1].at if self.reports else -1e9

    def since(self, now: float) -> float:
        """When the oldest of what the window has was written."""
        found = [at for at in (self.seen.since(now), self.committed.since(now)) if at is not None]
        return min(found, default=now)

    # --- one path ------------------------------------------------------------------------------

    def _do(
        self,
        key: bytes,
        value: bytes | None,
        truth: bytes | None,
        size: int,
        was: tuple[bool, bool],
        now: float,
    ) -> None:
        """`was`: of which sprees what this one follows was one, and was undone for it."""
        how, shares, altered, retyped = 0, self.shares, False, False
        if value is not None and truth is not None:
            how = shares.rewrite(now, content_mark(truth), content_mark(value))
            if how != MADE or not shares.is_made(key):  # who has just made a file goes on writing it
                altered = shares.alter(now, key)
            if entry_kind(value) is not entry_kind(truth):
                retyped = shares.retype(now, key)
        elif value is not None:
            shares.gain(now, content_mark(value))
            former, is_now = shares.former(key), what_is(value)
            if not former:
                shares.make(now, key)
            elif former != is_now:
                altered = shares.alter(now, key)
                retyped = kind_in(former) is not kind_in(is_now) and shares.retype(now, key)
        elif truth is not None:
            shares.lose(now, content_mark(truth))
            shares.vanish(key)
            how = LEFT if shares.leave(now, key, truth) else how
        change = value, truth, size, how, (altered, retyped)
        for changing, is_one, was_one in zip((self.altering, self.retyping), change[4], was, strict=True):
            changing.add(is_one, was_one, now)
        self.pending[key] = change
        self.waiting_bytes += size
        self.gone += value is None
        self._grow(_room(value) - _room(truth))

    def _undo(self, key: bytes, change: Change, now: float) -> None:
        value, truth, size, how, news = change
        for changing, was_one in zip((self.altering, self.retyping), change[4], strict=True):
            changing.take_back(was_one)
        self.waiting_bytes -= size
        self.gone -= value is None
        self._grow(_room(truth) - _room(value))
        if value is not None and truth is not None:
            self.shares.take_back(now, content_mark(truth), content_mark(value), how)
            self.shares.restore(key, *news)
        elif value is not None:
            self.shares.lose(now, content_mark(value))
            self.shares.restore(key, *news)
        elif truth is not None:
            self.shares.gain(now, content_mark(truth))
            if how == LEFT:
                self.shares.stay(key)

    def _grow(self, size: int) -> None:
        self.waiting_room += size
        self.grown += size

    @staticmethod
    def _total(total: list[int], bucket: list[int], files: int, size: int) -> None:
        for place, amount in enumerate((files, size)):
            total[place] += amount
            bucket[place] += amount


def _pause(part: Sequence[object]) -> Iterator[None]:
    """Behind a part that was full: what is little is counted without one."""
    if len(part) == PART_KEYS:
        yield


def _room(value: bytes | None) -> int:
    """What an entry takes of a disk: its content in whole blocks, and an inode."""
    return 0 if value is None else -(-entry_size(value) // BLOCK_BYTES) * BLOCK_BYTES + INODE_BYTES


@dataclass(frozen=True, slots=True)
class Moment:
    """One look at a disk: its room, and what the node's volumes there and we ourselves had written in all."""

    at: float
    free: int
    written: int
    brought: int


@dataclass(slots=True)
class Gauge:
    """One filesystem of a node. `start_free`: its free room when the burst under way began."""

    state: wire.DiskState
    at: float
    began: float
    start_free: int
    brought: int = 0  # bytes that converges and pushes had put there when it began
    brought_last: int = 0  # the same at the last report
    told: bool = False  # that it fills by what we bring
    alarms: int = 0  # reports in a row that foresee a full disk
    past: deque[Moment] = field(default_factory=deque)  # of the last half hour, oldest first

    @property
    def filled(self) -> int:
        return max(0, self.start_free - self.state.free_bytes)

    @property
    def explained(self) -> int:
        """What of it closeranks itself has brought."""
        return min(self.filled, self.brought_last - self.brought)

    @property
    def foreign(self) -> int:
        """What of it somebody else has written."""
        return self.filled - self.explained


@dataclass(slots=True)
class Brake:
    """All that guards remember between steps; `usuals` and the holds themselves are records.

    `calm`: since when the cause of a hold has been gone; `told`: when it was brought up to date last; `burst`:
    what its meter and the hold had counted when it began, and when that was; `allowed`: when an allowance ends.
    Reports of a second are small: who writes on must not stay behind who wrote most in the second of the hold.
    """

    meters: dict[tuple[str, str], Meter] = field(default_factory=dict)
    gauges: dict[str, dict[str, Gauge]] = field(default_factory=dict)  # by node, then by the path of the disk
    hands: dict[str, list[HandRecord]] = field(default_factory=dict)
    # By node: the (files, bytes) of each volume that was written to, in the report that these hands came with.
    reported: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    unsettled: dict[tuple[str, str], None] = field(default_factory=dict)  # meters that were asked about
    learned: int = 0  # minute in which the usuals were looked after last
    calm: dict[str, float] = field(default_factory=dict)
    told: dict[str, float] = field(default_factory=dict)
    burst: dict[str, tuple[tuple[int, int], tuple[int, int], float]] = field(default_factory=dict)
    allowed: dict[str, float] = field(default_factory=dict)
    # Of a hold: whose it is, with all that came after.
    since: dict[str, list[HandRecord]] = field(default_factory=dict)

    def disks(self, node: str) -> Mapping[str, Gauge]:
        """Of this node, by path."""
        return self.gauges.get(node, _NO_DISKS)


_NO_DISKS: Mapping[str, Gauge] = MappingProxyType({})
