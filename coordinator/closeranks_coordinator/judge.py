"""Who is behind, who diverges, and since when: verdicts about one node and one volume.

For every node the judge keeps a *held* root: the newest entries of the truth that the node is known to
have held. An entry that differs from the truth is **lag** when the node still has what it held before
the truth moved on, or has got as far as a later truth; anything else it brought itself: **divergence**,
or **regression** where it went back to a truth that it had left behind. So a node that slept for months
is judged by what it had when it left, without any history.

A difference has a clock of its own, from the moment it was first seen. It is confirmed when it has
lasted `settle_s` and every other voter has scanned since. Clocks are kept in buckets of keys that began
together: what a commit brought is one bucket, however many paths it touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from closeranks_proto.entries import SPECIAL_BITS, decode_entry

from .history import TruthHistory
from .truth import Differ, Values


@dataclass(frozen=True, slots=True)
class Analysis:
    """How a node's root differs from the truth. `differing` is everything but withheld bits.

    `held` is the node's new held root and `pages` what must be stored for it.
    """

    differing: Mapping[bytes, Values]  # key to (node's, truth's)
    lagging: frozenset[bytes]
    regressed: frozenset[bytes]
    held: bytes
    pages: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def divergent(self) -> int:
        return len(self.differing) - len(self.lagging)


def analyse(
    differ: Differ,
    history: TruthHistory,
    root: bytes,
    truth: bytes,
    held: bytes,
    withheld: frozenset[bytes],
    width: int,
) -> Analysis:
    """Sort what differs into lag, regression and divergence, and move `held` along with the node."""
    if root == truth:
        return Analysis({}, frozenset(), frozenset(), truth)
    differing = differ.diff(root, truth)
    if withheld:
        differing = {
            key: values
            for key, values in differing.items()
            if key not in withheld or not same_but_special_bits(values, width)
        }
    behind = differ.diff(held, truth)
    lagging: list[bytes] = []
    regressed: list[bytes] = []
    moved: dict[bytes, bytes | None] = {
        key: value for key, (_, value) in behind.items() if key not in differing
    }
    for key, (value, _) in differing.items():
        order = history.latest_order(key, value)
        if key not in behind:
            if order is not None:
                regressed.append(key)
            continue
        before = behind[key][0]
        if value == before:
            lagging.append(key)
        elif order is not None and order > (history.latest_order(key, before) or 0):
            lagging.append(key)
            moved[key] = value
        elif order is not None:
            regressed.append(key)
    pages: dict[bytes, bytes] = {}
    if moved:
        edited = differ.tree.edit(held, sorted(moved.items()))
        held, pages = edited.root, edited.pages
    return Analysis(differing, frozenset(lagging), frozenset(regressed), held, pages)


def same_but_special_bits(values: Values, width: int) -> bool:
    """Whether two values differ in nothing but set-uid, set-gid and sticky."""
    if values[0] is None or values[1] is None:
        return False
    ours, theirs = decode_entry(values[0], width), decode_entry(values[1], width)
    if ours.mode is None or theirs.mode is None or ours.mode & ~SPECIAL_BITS != theirs.mode & ~SPECIAL_BITS:
        return False
    return (ours.kind, ours.size, ours.digest, ours.target, ours.owner, ours.mtime_ns, ours.xattrs) == (
        theirs.kind, theirs.size, theirs.digest, theirs.target, theirs.owner, theirs.mtime_ns, theirs.xattrs,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Confirmation:
    """How many of the watched keys are confirmed, and when that may change by time alone."""

    confirmed: int
    unconfirmed: int
    since: float | None  # first_seen of the oldest confirmed key
    next_at: float | None


class Clocks:
    """First-seen times of one node's divergent keys on one volume."""

    def __init__(self) -> None:
        self._of: dict[bytes, tuple[float, float]] = {}  # key to (first seen, restarted)
        self._buckets: dict[tuple[float, float], int] = {}

    def __len__(self) -> int:
        return len(self._of)

    def __contains__(self, key: bytes) -> bool:
        return key in self._of

    def watch(self, keys: Iterable[bytes], now: float) -> None:
        """Exactly these keys differ now: new ones start, healed ones end, the others run on."""
        wanted = dict.fromkeys(keys)
        for key in [key for key in self._of if key not in wanted]:
            self._leave(self._of.pop(key))
        fresh = [key for key in wanted if key not in self._of]
        if fresh:
            clock = (now, now)
            self._of.update(dict.fromkeys(fresh, clock))
            self._buckets[clock] = self._buckets.get(clock, 0) + len(fresh)

    def restart(self, key: bytes, now: float) -> None:
        """Another node holds the same new entry: perhaps the fleet is on its way there."""
        clock = self._of.get(key)
        if clock is not None and clock[1] != now:
            self._leave(clock)
            self._of[key] = (clock[0], now)
            self._buckets[(clock[0], now)] = self._buckets.get((clock[0], now), 0) + 1

    def first_seen(self) -> float | None:
        """Since when anything differs."""
        return min((first for first, _ in self._buckets), default=None)

    def confirm(
        self, now: float, settle_s: float, settle_max_s: float, scanned: float | None
    ) -> Confirmation:
        """Judge all keys. `scanned`: the oldest start of the other voters' last scans, None: one has none."""
        confirmed, since, next_at = 0, None, None
        for (first, start), count in self._buckets.items():
            due = min(start + settle_s, first + max(settle_s, settle_max_s))
            if now < due:
                next_at = due if next_at is None else min(next_at, due)
            elif scanned is not None and scanned > first:
                confirmed += count
                since = first if since is None else min(since, first)
        return Confirmation(confirmed, len(self._of) - confirmed, since, next_at)

    def is_confirmed(
        self, key: bytes, now: float, settle_s: float, settle_max_s: float, scanned: float | None
    ) -> bool:
        """`confirm` for one key."""
        clock = self._of.get(key)
        if clock is None or scanned is None or scanned <= clock[0]:
            return False
        return now >= min(clock[1] + settle_s, clock[0] + max(settle_s, settle_max_s))

    def _leave(self, clock: tuple[float, float]) -> None:
        self._buckets[clock] -= 1
        if not self._buckets[clock]:
            del self._buckets[clock]
