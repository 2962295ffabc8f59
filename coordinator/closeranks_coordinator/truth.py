"""What the truth of a volume is: counted path by path, never by time.

A strict majority of *all* nodes assigned to the volume makes an entry the truth; absence is an entry like
any other. Silent and fenced nodes stay in the denominator. Where no entry has the majority, the path is
undetermined: the truth keeps what it had there, and nobody is accused.

Rejected: newest wins (the rogue wrote last), and a majority of those who happen to be reachable (two
halves of a torn fleet would each have a truth).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from closeranks_proto.tree import Tree

# Memoised differences: so many pairs of roots, and so many keys in all of them together.
MEMO_MAX_PAIRS = 256
MEMO_MAX_KEYS = 500_000

Values = tuple[bytes | None, bytes | None]


@dataclass(frozen=True, slots=True)
class Decision:
    """`root` None: there is no truth yet. `pages` are new and must be stored before the root is used."""

    root: bytes | None
    undetermined: frozenset[bytes] = frozenset()
    pages: dict[bytes, bytes] = field(default_factory=dict)


class Differ:
    """Differences of two roots, memoised: key to (ours, theirs), in the tree's order."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._memo: OrderedDict[tuple[bytes, bytes], dict[bytes, Values]] = OrderedDict()
        self._keys = 0

    def diff(self, ours: bytes, theirs: bytes) -> Mapping[bytes, Values]:
        """All keys whose values differ. Raises MissingObject where a page is not stored."""
        if ours == theirs:
            return {}
        pair = (ours, theirs)
        found = self._memo.get(pair)
        if found is None:
            found = {one.key: (one.ours, one.theirs) for one in self.tree.diff(ours, theirs)}
            self._memo[pair] = found
            self._keys += len(found) + 1
            self._shrink()
        else:
            self._memo.move_to_end(pair)
        return found

    def _shrink(self) -> None:
        while len(self._memo) > 1 and (len(self._memo) > MEMO_MAX_PAIRS or self._keys > MEMO_MAX_KEYS):
            _, dropped = self._memo.popitem(last=False)
            self._keys -= len(dropped) + 1


def quorum_of(nodes: int) -> int:
    """How many of `nodes` are more than half."""
    return nodes // 2 + 1


def decide_quorum(differ: Differ, votes: Mapping[str, bytes], need: int, current: bytes | None) -> Decision:
    """The truth by majority. `votes`: root of each voter; `current`: the truth so far, None to found one."""
    groups: dict[bytes, int] = {}
    for node in sorted(votes):
        groups[votes[node]] = groups.get(votes[node], 0) + 1
    for root, size in groups.items():
        if size >= need:
            return Decision(root)
    if current is None:
        if sum(groups.values()) < need:
            return Decision(None)
        reference = max(groups, key=lambda root: (groups[root], root))
    else:
        reference = current
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
    diffs = [(differ.diff(reference, root), size) for root, size in groups.items()]
    voters = sum(groups.values())
    against: dict[bytes, dict[bytes | None, int]] = {}
    for diff, size in diffs:
        for key, (_, value) in diff.items():
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
