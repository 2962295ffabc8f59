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

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from closeranks_proto.entries import SPECIAL_BITS, decode_entry

from .history import TruthHistory
from .truth import Differ, Values

Keys = AbstractSet[bytes]


@dataclass(frozen=True, slots=True)
class Analysis:
    """How a node's root differs from the truth. `differing` is everything but withheld bits.

    `held` is the node's new held root and `pages` what must be stored for it. `touched` are the keys of
    which something may be otherwise than in the analysis before, None: any.
    """

    root: bytes
    truth: bytes
    held: bytes | None
    withheld: tuple[bytes, ...]
    raw: Mapping[bytes, Values]  # key to (node's, truth's)
    behind: Mapping[bytes, Values]  # key to (held, truth's)
    differing: Mapping[bytes, Values]
    lagging: Keys
    regressed: Keys
    touched: tuple[bytes, ...] | None
    pages: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def divergent(self) -> int:
        return len(self.differing) - len(self.lagging)

    def is_own(self, key: bytes) -> bool:
        """Whether this path differs by the node's own doing."""
        return key in self.differing and key not in self.lagging

    def own_keys(self) -> Iterable[bytes]:
        lagging = self.lagging
        return (key for key in self.differing if key not in lagging)


def analyse(
    differ: Differ,
    history: TruthHistory,
    root: bytes,
    truth: bytes,
    held: bytes | None,
    withheld: tuple[bytes, ...],
    width: int,
    before: Analysis | None = None,
) -> Analysis:
    """Sort what differs into lag, regression and divergence, and move `held` along with the node."""
    if before is not None and (before.withheld != withheld or before.held != held):
        before = None
    raw, behind, touched = _differences(differ, root, truth, held, before)
    differing = _without_withheld(raw, withheld, width)
    if held is None:
        return Analysis(root, truth, None, withheld, raw, {}, differing, differing.keys(), frozenset(), touched)
    lagging = set(before.lagging) if before is not None and touched is not None else set()
    regressed = set(before.regressed) if before is not None and touched is not None else set()
    moved: dict[bytes, bytes | None] = {}
    for key in tuple(dict.fromkeys((*differing, *behind))) if touched is None else touched:
        lagging.discard(key)
        regressed.discard(key)
        if key not in differing:
            if key in behind:
                moved[key] = behind[key][1]
            continue
        value = differing[key][0]
        order = history.latest_order(key, value)
        if key not in behind:
            if order is not None:
                regressed.add(key)
            continue
        held_value = behind[key][0]
        if value == held_value:
            lagging.add(key)
        elif order is not None and order > (history.latest_order(key, held_value) or 0):
            lagging.add(key)
            moved[key] = value
        elif order is not None:
            regressed.add(key)
    pages: dict[bytes, bytes] = {}
    if moved:
        edited = differ.tree.edit(held, sorted(moved.items()))
        held, pages, behind = edited.root, edited.pages, _caught_up(behind, moved)
    return Analysis(root, truth, held, withheld, raw, behind, differing, lagging, regressed, touched, pages)


def _differences(
    differ: Differ, root: bytes, truth: bytes, held: bytes | None, before: Analysis | None
) -> tuple[Mapping[bytes, Values], Mapping[bytes, Values], tuple[bytes, ...] | None]:
    """(node against truth, held against truth, the keys in which either has changed; None: any)."""
    if before is None:
        return differ.diff(root, truth), {} if held is None else differ.diff(held, truth), None
    raw, steps = differ.follow(before.raw, (before.root, before.truth), (root, truth))
    if held is None:
        return raw, {}, steps
    behind, late = differ.follow(before.behind, (held, before.truth), (held, truth))
    if steps is None or late is None:
        return raw, behind, None
    return raw, behind, tuple(dict.fromkeys((*steps, *late)))


def _without_withheld(
    raw: Mapping[bytes, Values], withheld: tuple[bytes, ...], width: int
) -> Mapping[bytes, Values]:
    excused = {key for key in withheld if key in raw and same_but_special_bits(raw[key], width)}
    return {key: values for key, values in raw.items() if key not in excused} if excused else raw


def _caught_up(behind: Mapping[bytes, Values], moved: Mapping[bytes, bytes | None]) -> Mapping[bytes, Values]:
    left = dict(behind)
    for key, value in moved.items():
        truth = left[key][1]
        if value == truth:
            del left[key]
        else:
            left[key] = (value, truth)
    return left


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
