"""What the truth of a volume is: counted path by path, never by time.

A strict majority of *all* nodes assigned to the volume makes an entry the truth; absence is an entry like
any other. Silent and fenced nodes stay in the denominator. Where no entry has the majority, the path is
undetermined: the truth keeps what it had there, and nobody is accused.

Rejected: newest wins (the rogue wrote last), and a majority of those who happen to be reachable (two
halves of a torn fleet would each have a truth).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from closeranks_proto.tree import Tree

from .layers import changed

# Memoised differences: so many pairs of roots, and so many keys in all of them together. A key that no
# page in memory shares takes about 350 bytes: 70 MB, reached only while a tenth of a million paths differ.
MEMO_MAX_PAIRS = 256
MEMO_MAX_KEYS = 200_000
PASSED_SHARE = 4  # a difference so many times as large as the step from it is not asked for again
SLICE_KEYS = 2000  # 3 ms
FOLLOW_MIN_KEYS = 2000  # a step of so many keys is always followed, never computed anew

Values = tuple[bytes | None, bytes | None]
Pair = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Decision:
    """`root` None: there is no truth yet. `pages` are new and must be stored before the root is used."""

    root: bytes | None
    undetermined: frozenset[bytes] = frozenset()
    pages: dict[bytes, bytes] = field(default_factory=dict)


class Differ:
    """Differences of two roots, memoised: key to (ours, theirs). Mappings are shared: never change one."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._memo: OrderedDict[Pair, Mapping[bytes, Values]] = OrderedDict()
        self._keys = 0

    def diff(self, ours: bytes, theirs: bytes) -> Mapping[bytes, Values]:
        """All keys whose values differ. Raises MissingObject where a page is not stored."""
        if ours == theirs:
            return {}
        found = self._known((ours, theirs))
        if found is None:
            # A node's step to what becomes the truth is the truth's step too.
            mirrored = self._known((theirs, ours))
            if mirrored is not None:
                found = {key: (mine, other) for key, (other, mine) in mirrored.items()}
            else:
                found = {one.key: (one.ours, one.theirs) for one in self.tree.diff(ours, theirs)}
            self._keep((ours, theirs), found)
        return found

    def follow(
        self, known: Mapping[bytes, Values], before: Pair, after: Pair
    ) -> tuple[Mapping[bytes, Values], tuple[bytes, ...] | None]:
        """(`diff(*after)`, the keys that may have changed since), made from `known`, which is `diff(*before)`.

        Costs the step from one pair to the other, and a flat copy of a small difference (`layers`). The keys are None
        where the step is too large to be worth following.
        """
        limit = FOLLOW_MIN_KEYS + len(known) // 2
        ours, theirs = (self._within(old, new, limit) for old, new in zip(before, after, strict=True))
        if ours is None or theirs is None:
            return self.diff(*after), None
        touched = tuple(dict.fromkeys((*ours, *theirs)))
        if after[0] == after[1]:
            return {}, touched
        found = self._known(after)
        if found is None:
            steps = [(key, _step(known.get(key), ours.get(key), theirs.get(key))) for key in touched]
            found = changed(known, [(key, one if one[0] != one[1] else None) for key, one in steps])
            if len(known) > PASSED_SHARE * len(touched):
                self._drop(before)
            self._keep(after, found)
        return found, touched

    def learn(self, ours: bytes, theirs: bytes, found: Mapping[bytes, Values]) -> None:
        """These are all the keys in which the two differ: whoever made one of the other knows them."""
        if ours != theirs and self._known((ours, theirs)) is None:
            self._keep((ours, theirs), found)

    def foresee(self, ours: bytes, theirs: bytes) -> Iterator[None]:
        """`diff` in slices of SLICE_KEYS, for whoever can not stand still for all of it; then it is known.

        Raises MissingObject where a page is not stored (any more).
        """
        if ours == theirs or (ours, theirs) in self._memo or (theirs, ours) in self._memo:
            return
        found: dict[bytes, Values] = {}
        for one in self.tree.diff(ours, theirs):
            found[one.key] = (one.ours, one.theirs)
            if len(found) % SLICE_KEYS == 0:
                yield
        if len(found) >= SLICE_KEYS:
            self._keep((ours, theirs), found)

    def _within(self, ours: bytes, theirs: bytes, limit: int) -> Mapping[bytes, Values] | None:
        """`diff`, or None where more than `limit` keys differ."""
        if ours == theirs:
            return {}
        found = self._known((ours, theirs))
        if found is None:
            first = islice(self.tree.diff(ours, theirs), limit + 1)
            found = {one.key: (one.ours, one.theirs) for one in first}
            if len(found) <= limit:
                self._keep((ours, theirs), found)
        return found if len(found) <= limit else None

    def _known(self, pair: Pair) -> Mapping[bytes, Values] | None:
        found = self._memo.get(pair)
        if found is not None:
            self._memo.move_to_end(pair)
        return found

    def _drop(self, pair: Pair) -> None:
        dropped = self._memo.pop(pair, None)
        if dropped is not None:
            self._keys -= len(dropped) + 1

    def _keep(self, pair: Pair, found: Mapping[bytes, Values]) -> None:
        self._drop(pair)
        self._memo[pair] = found
        self._keys += len(found) + 1
        while len(self._memo) > 1 and (len(self._memo) > MEMO_MAX_PAIRS or self._keys > MEMO_MAX_KEYS):
            self._drop(next(iter(self._memo)))


def _step(known: Values | None, ours: Values | None, theirs: Values | None) -> Values:
    """Both values of a key after a step of one side or both. What did not differ before was equal."""
    assert ours is not None or theirs is not None, "a key without a step is not asked for"
    if ours is not None:
        mine_before, mine = ours
    else:
        mine_before = mine = theirs[0] if known is None and theirs is not None else (known or (None, None))[0]
    if theirs is not None:
        # Most of what a node lacks it never had: then the truth's own step says it, one for all that lack it.
        return theirs if mine == theirs[0] else (mine, theirs[1])
    return mine, mine_before if known is None else known[1]


def quorum_of(nodes: int) -> int:
    """How many of `nodes` are more than half."""
    return nodes // 2 + 1


def fence_bound(nodes: int) -> int:
    """How many of a quorum volume's nodes may be fenced while the others still make a quorum."""
    return nodes - quorum_of(nodes)


def decide_quorum(differ: Differ, votes: Mapping[str, bytes], need: int, current: bytes | None) -> Decision:
    """The truth by majority. `votes`: root of each voter; `current`: the truth so far, None to found one."""
    groups: dict[bytes, int] = {}
    for node in sorted(votes):
        groups[votes[node]] = groups.get(votes[node], 0) + 1
    for root, size in groups.items():
        if size >= need:
            return Decision(root)
    if current is None:
        if len(votes) < need:
            return Decision(None)
        reference = max(groups, key=lambda root: (groups[root], root))
    else:
        reference = current
    against = len(votes) - groups.get(reference, 0)
    if against < need and against <= len(votes) - need:
        return Decision(reference)  # too few to outvote it anywhere, or to cost it its majority
    changes, undetermined = _tally(differ, groups, need, reference)
    if current is None:
        known = differ.tree
        changes.update({key: None for key in undetermined if known.lookup(reference, key) is not None})
    if not changes:
        return Decision(reference, undetermined)
    edited = differ.tree.edit(reference, sorted(changes.items()))
    return Decision(edited.root, undetermined, edited.pages)


def _tally(
    differ: Differ, groups: Mapping[bytes, int], need: int, reference: bytes
) -> tuple[dict[bytes, bytes | None], frozenset[bytes]]:
    """(entries on which a majority disagrees with the reference, keys on which there is no majority)."""
    voters = sum(groups.values())
    others = [root for root in groups if root != reference]
    if len(others) == 1 and groups[others[0]] < need:  # one new tree, not everywhere: all its keys are alike
        unclear = voters - groups[others[0]] < need
        return {}, frozenset(differ.diff(others[0], reference)) if unclear else frozenset()
    against: dict[bytes, dict[bytes | None, int]] = {}
    for root, size in groups.items():
        for key, (value, _) in differ.diff(root, reference).items():
            counts = against.setdefault(key, {})
            counts[value] = counts.get(value, 0) + size
    changes: dict[bytes, bytes | None] = {}
    undetermined: list[bytes] = []
    for key, counts in against.items():
        value, size = max(counts.items(), key=lambda item: (item[1], item[0] or b""))
        if size >= need:
            changes[key] = value
        elif voters - sum(counts.values()) < need:
            undetermined.append(key)
    return changes, frozenset(undetermined)
