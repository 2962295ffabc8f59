"""Who is behind and who diverges: the analysis of one node's root against the truth.

For every node the judge keeps a *held* root: the newest entries of the truth that the node is known to
have held. An entry that differs from the truth is **lag** when the node still has what it held before
the truth moved on, or has got as far as a later truth; anything else it brought itself: **divergence**,
or **regression** where it went back to a truth that it had left behind. So a node that slept for months
is judged by what it had when it left, without any history. A node that has never been in rank has no
held root, and all that differs is lag: it is joining.

An analysis is made from the one before it: a step of a few entries costs a few entries and flat copies,
however much else differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from closeranks_proto.entries import SPECIAL_BITS, decode_entry

from .history import TruthHistory
from .layers import changed
from .truth import Differ, Values

Keys = AbstractSet[bytes]
Differing = Mapping[bytes, Values]
Touched = tuple[bytes, ...] | None
Made = Callable[[bytes, Values], bool]
Held = Mapping[bytes, bytes | None]  # no entry's value is empty


@dataclass(frozen=True, slots=True)
class Passed:
    """What the truth did where a node went a way of its own, since the node was looked at last.

    `met`: what the node has there, and the truth came by at and left: from there on the node is late.
    `returned`: the truth went on and came back to what the node has held. The node held the elder of two values that
    are alike, and lacks what was between them. No value tells the two apart, so the first of what was between takes
    the place of what it has held: what came after is late, what was before is a regression, over a restart too.
    """

    met: Held = field(default_factory=dict)
    returned: Held = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.met or self.returned)


NOTHING_PASSED = Passed()


def nothing_made(_key: bytes, _step: Values) -> bool:
    """No step of the node was our doing."""
    return False


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Analysis:
    """How a node's root differs from the truth. `differing` is everything but withheld bits.

    `held` is the node's new held root and `pages` what must be stored for it. Nodes that stand alike share
    one analysis.
    """

    root: bytes
    truth: bytes
    held: bytes | None
    withheld: tuple[bytes, ...]
    raw: Differing  # key to (node's, truth's)
    behind: Differing  # key to (held, truth's)
    differing: Differing
    lagging: Keys
    regressed: Keys
    pages: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def divergent(self) -> int:
        return len(self.differing) - len(self.lagging)

    def is_own(self, key: bytes) -> bool:
        """Whether this path differs by the node's own doing."""
        return key in self.differing and key not in self.lagging

    def held_value(self, key: bytes) -> bytes | None:
        """What this node has held on a path in which it differs."""
        late = self.behind.get(key)
        return self.differing[key][1] if late is None else late[0]

    def own_keys(self) -> Iterable[bytes]:
        if not self.divergent:
            return ()
        lagging = self.lagging
        return (key for key in self.differing if key not in lagging)


@dataclass(frozen=True, slots=True)
class Stand:
    """What an analysis is made of. `by_us`: a converge made this root.

    A converge may put an earlier truth over a newer one while the truth moves on: that is lag, and never
    held against the node.
    """

    root: bytes
    truth: bytes
    held: bytes | None
    withheld: tuple[bytes, ...]
    by_us: bool = False


class Judge:
    """Makes analyses, and remembers those in use: many nodes that take one step cost one analysis."""

    def __init__(self, differ: Differ, width: int) -> None:
        self._differ = differ
        self._width = width
        self._known: WeakValueDictionary[tuple[int, int, Stand, bool, bool], Analysis] = WeakValueDictionary()
        # Of one round: nodes that stood alike and take the same step, with what the truth did meanwhile. `passed` is
        # told apart by its identity, and kept with its answer.
        self._round: dict[tuple[Analysis, Stand, bool, bool, int, int], tuple[Analysis, Touched, Passed]] = {}

    def begin_round(self) -> None:
        """All nodes are about to be looked at, of one volume: what they have in common is found out once."""
        self._round = {}

    def analyse(
        self, history: TruthHistory, stand: Stand, before: Analysis | None = None, made: Made = nothing_made,
        ours: bool = False, replays: bool = False, passed: Passed = NOTHING_PASSED,
    ) -> tuple[Analysis, Touched]:  # fmt: skip
        """Sort what differs into lag, regression and divergence, and move `held` along with the node.

        `made` tells of (key, (held, value)) whether that step of the node was our own doing, however long ago the
        truth had this value. `ours`: the whole step may be; such an analysis is shared with its like only. `replays`:
        this node is no writer: the truth's steps come to it, one after the other. `passed`: what the truth did since
        the analysis before, where the node went a way of its own.
        The keys are those of which something may be otherwise than in the analysis before, None: any.
        """
        if before is None or made is not nothing_made:
            return self._analysed(history, stand, before, made, ours, replays, passed)
        alike = (before, stand, ours, replays, id(passed), _order_of(history))
        known = self._round.get(alike)
        if known is None:
            found, touched = self._analysed(history, stand, before, made, ours, replays, passed)
            self._round[alike] = found, touched, passed
            return found, touched
        return known[:2]

    def _analysed(
        self, history: TruthHistory, stand: Stand, before: Analysis | None, made: Made, ours: bool, replays: bool,
        passed: Passed,
    ) -> tuple[Analysis, Touched]:  # fmt: skip
        if before is not None and (before.withheld != stand.withheld or before.held != stand.held):
            before = None
        raw, behind, touched = _differences(self._differ, stand, before)
        one = (id(history), _order_of(history), stand, ours, replays)
        if before is not None and touched is not None:
            caught_up = _caught_up_before(before, raw, touched)
            if caught_up:
                passed = Passed({**passed.met, **caught_up}, passed.returned)
            if passed:
                touched = tuple(dict.fromkeys((*touched, *passed.met, *passed.returned)))
        found = None if stand.by_us or passed else self._known.get(one)
        if found is None:
            found = self._sort(history, stand, before, raw, behind, touched, made, replays, passed)
            if not passed:
                self._known[one] = found
        return found, touched

    def _sort(
        self, history: TruthHistory, stand: Stand, before: Analysis | None, raw: Differing, behind: Differing,
        touched: Touched, made: Made, replays: bool, passed: Passed,
    ) -> Analysis:  # fmt: skip
        differing = _without_withheld(raw, stand.withheld, self._width)
        root, truth, held = stand.root, stand.truth, stand.held
        if held is None or not differing:
            now = held if held is None else truth
            return Analysis(
                root, truth, now, stand.withheld, raw, {}, differing, differing.keys(), frozenset()
            )
        if held == root and differing is raw:
            # It has what it held, and nothing of its own: nobody need look at each of 200,000 paths for that.
            return Analysis(
                root, truth, held, stand.withheld, raw, raw, differing, differing.keys(), frozenset()
            )
        ours: Differing = {}
        if stand.by_us and before is not None:
            ours = self._differ.diff(before.root, root)
        known = before if touched is not None else None
        was_late = known is not None and not known.divergent  # in all that differed: nobody need list it
        sorting = _Sorting(
            history, differing, behind, ours,
            set() if known is None or was_late else set(known.lagging),
            set() if known is None else set(known.regressed),
            made, frozenset(stand.withheld), self._width, passed, replays,
        )  # fmt: skip
        keys: Iterable[bytes] = touched or ()
        if touched is None and not (behind or ours or stand.withheld or passed) and made is nothing_made:
            keys = history.among(differing)  # all else the truth never had: it is the node's own
        elif touched is None:
            keys = (*differing, *(key for key in behind if key not in differing))
        for key in keys:
            sorting.place(key)
        lagging: Keys = sorting.lagging
        if was_late:
            others = {key for key in keys if key in differing and key not in lagging}
            lagging = differing.keys() - others if others else differing.keys()
        pages: dict[bytes, bytes] = {}
        if differing is raw and len(lagging) == len(differing):
            held, behind = root, raw  # nothing of its own: what it has is what it has held
        elif sorting.moved:
            edited = self._differ.tree.edit(held, sorted(sorting.moved.items()))
            held, pages, behind = edited.root, edited.pages, _caught_up(behind, differing, sorting.moved)
        return Analysis(
            root,
            truth,
            held,
            stand.withheld,
            raw,
            behind,
            differing,
            lagging,
            sorting.regressed,
            pages,
        )


def _order_of(history: TruthHistory) -> int:
    """A truth that came back has another past: what stood so under the first one is told apart."""
    return history.roots[-1][0] if history.roots else 0


@dataclass(slots=True)
class _Sorting:
    """One sorting under way. `moved` are the held entries that follow the node."""

    history: TruthHistory
    differing: Differing
    behind: Differing
    ours: Differing
    lagging: set[bytes]
    regressed: set[bytes]
    made: Made
    withheld: Keys
    width: int
    passed: Passed
    replays: bool = False
    moved: dict[bytes, bytes | None] = field(default_factory=dict)

    def held_order(self, key: bytes, value: bytes | None) -> int | None:
        """When the truth was what the node held. A truth that comes twice (deleted, and deleted again) is ambiguous.

        A node that is no writer and is behind may be at the first of them, and go on to what followed it: that is lag.
        A writer that is behind and goes to an elder version writes.
        """
        return (self.history.earliest_order if self.replays else self.history.latest_order)(key, value)

    def place(self, key: bytes) -> None:
        self.lagging.discard(key)
        self.regressed.discard(key)
        values = self.differing.get(key)
        late = self.behind.get(key)
        if values is None:
            if late is not None:
                self.moved[key] = late[1]
            return
        if late is None and key in self.passed.returned:
            late = (self.passed.returned[key], values[1])
            self.moved[key] = late[0]
        value, held_value = values[0], values[1] if late is None else late[0]
        if value == held_value or (
            key in self.withheld and same_but_special_bits((value, held_value), self.width)
        ):
            self.lagging.add(key)
            return
        if self.passed.met.get(key, b"") == value or self.made(key, (held_value, value)):
            self.lagging.add(key)
            self.moved[key] = value
            return
        order = self.history.latest_order(key, value)
        if order is None:
            return
        further = late is not None and order > (self.held_order(key, held_value) or 0)
        if further or key in self.ours:
            self.lagging.add(key)
            self.moved[key] = value
        else:
            self.regressed.add(key)


def _differences(
    differ: Differ, stand: Stand, before: Analysis | None
) -> tuple[Differing, Differing, Touched]:
    """(node against truth, held against truth, the keys in which either has changed; None: any)."""
    root, truth, held = stand.root, stand.truth, stand.held
    if before is None:
        return differ.diff(root, truth), {} if held is None else differ.diff(held, truth), None
    raw, steps = differ.follow(before.raw, (before.root, before.truth), (root, truth))
    if held is None:
        return raw, {}, steps
    behind, late = differ.follow(before.behind, (held, before.truth), (held, truth))
    if steps is None or late is None:
        return raw, behind, None
    return raw, behind, tuple(dict.fromkeys((*steps, *late)))


def _caught_up_before(before: Analysis, raw: Differing, touched: tuple[bytes, ...]) -> Held:
    """What a node lacked when it was looked at last and has got since, while the truth went on from there."""
    behind = before.behind
    return {
        key: raw[key][0] for key in touched if key in behind and key in raw and raw[key][0] == behind[key][1]
    }


def excused_of(raw: Differing, withheld: Iterable[bytes], width: int) -> set[bytes]:
    """Of the paths withheld, those that differ in nothing but special mode bits still."""
    return {key for key in withheld if key in raw and same_but_special_bits(raw[key], width)}


def _without_withheld(raw: Differing, withheld: tuple[bytes, ...], width: int) -> Differing:
    excused = excused_of(raw, withheld, width)
    return {key: values for key, values in raw.items() if key not in excused} if excused else raw


def _caught_up(behind: Differing, differing: Differing, moved: Mapping[bytes, bytes | None]) -> Differing:
    changes: list[tuple[bytes, Values | None]] = []
    for key, value in moved.items():
        truth = differing[key][1] if key in differing else behind[key][1]
        changes.append((key, None if value == truth else (value, truth)))
    return changed(behind, changes)


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
