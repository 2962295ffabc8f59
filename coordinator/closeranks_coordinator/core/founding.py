"""The first truth of a replicated volume: the union of its writers' trees. Pure.

Nobody has deleted anything yet, so what a node lacks is no vote: every path that any writer has stands. Where
writers differ the value that most of them hold stands, ties go to the first node by name, and the others'
versions are kept beside it like those of any conflict (see `merging`), unless only their attributes differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from closeranks_proto.tree import Tree

from .judge import Analysis
from .merging import Clash, merge
from .truth import Values
from .values import Value, is_directory


@dataclass(slots=True)
class Union:
    """The first truth, its new pages, and what clashed: (clash, whose it was, whose stands)."""

    root: bytes
    pages: dict[bytes, bytes] = field(default_factory=dict)
    clashes: list[tuple[Clash, str, str]] = field(default_factory=list)


def unite(
    tree: Tree,
    roots: Mapping[str, bytes],
    wall_ms: int,
    keep: Callable[[dict[bytes, bytes]], None],
) -> Union:
    """The union of these nodes' trees. Where they differ the value that most hold stands, then the first node's.

    `keep` makes new pages readable. What a node lacks is no vote: nobody has deleted anything yet.
    """
    groups: dict[bytes, list[str]] = {}
    for node in sorted(roots):
        groups.setdefault(roots[node], []).append(node)
    ranked = sorted(groups, key=lambda root: (-len(groups[root]), groups[root][0]))
    first = ranked[0]
    against = {
        root: {one.key: (one.ours, one.theirs) for one in tree.diff(root, first)} for root in ranked[1:]
    }
    best = _prevailing(against, groups, first)
    made = Union(first)
    made.root = _edited(tree, first, best, made, keep)
    for root in ranked:
        _unite_one(tree, root, groups, made, wall_ms, keep)
    return made


def _prevailing(
    against: Mapping[bytes, Mapping[bytes, Values]], groups: Mapping[bytes, list[str]], first: bytes
) -> dict[bytes, Value]:
    """Leaves of the first tree that more nodes hold otherwise."""
    best: dict[bytes, Value] = {}
    for key in sorted({key for found in against.values() for key, values in found.items() if all(values)}):
        mine = next(found[key][1] for found in against.values() if key in found)
        votes: dict[bytes, list[str]] = {}
        for root, nodes in groups.items():
            found = against.get(root, {})
            value = found[key][0] if key in found else mine
            if value is not None and not is_directory(value):
                votes.setdefault(value, []).extend(nodes)
        if not is_directory(mine) and votes:
            best[key] = min(votes, key=lambda value: (-len(votes[value]), min(votes[value])))
    return best


def _unite_one(
    tree: Tree,
    root: bytes,
    groups: Mapping[bytes, list[str]],
    made: Union,
    wall_ms: int,
    keep: Callable[[dict[bytes, bytes]], None],
) -> None:
    """Merge one tree into the union: whatever it has and the union has otherwise clashes."""
    if root == made.root:
        return
    node = groups[root][0]
    raw = {one.key: (one.ours, one.theirs) for one in tree.diff(root, made.root)}
    own = {key: values for key, values in raw.items() if values[0] is not None}
    behind: dict[bytes, Values] = {
        key: (None, theirs) for key, (_, theirs) in raw.items() if theirs is not None
    }
    analysis = Analysis(
        root, made.root, made.root, (), raw, behind, raw, frozenset(raw) - own.keys(), frozenset()
    )
    merged = merge(tree, analysis, own, node, wall_ms)
    for clash in merged.clashes:
        if clash.kept is None:
            continue  # only attributes: nothing that anybody wrote is lost
        winner = next(
            (
                name
                for other, names in groups.items()
                if other != root and tree.lookup(other, clash.key) == clash.theirs
                for name in names[:1]
            ),
            node,
        )
        made.clashes.append((clash, node, winner))
    made.root = _edited(tree, made.root, merged.changes, made, keep)


def _edited(
    tree: Tree,
    root: bytes,
    changes: Mapping[bytes, Value],
    made: Union,
    keep: Callable[[dict[bytes, bytes]], None],
) -> bytes:
    if not changes:
        return root
    edited = tree.edit(root, sorted(changes.items()))
    made.pages.update(edited.pages)
    keep(edited.pages)
    return edited.root
