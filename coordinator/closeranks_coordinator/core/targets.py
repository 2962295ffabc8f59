"""The root to bring a node to: the truth, with the node's own entries where it may keep them.

Kept are paths that nobody can judge, and, on a node that is only behind, its own new entries: they may
be on their way to a majority. What is kept must still make a tree that a disk can hold: whatever lies
below something keeps its directories, and nothing is put below what is no directory.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from closeranks_proto.entries import Kind, entry_kind
from closeranks_proto.tree import Edited, Tree

from .judge import Analysis
from .records import Purpose


def target_of(
    tree: Tree, analysis: Analysis, purpose: Purpose, undetermined: AbstractSet[bytes]
) -> Edited | None:
    """The tree to converge to; None: the truth itself."""
    kept = _kept(analysis, purpose, undetermined)
    if not kept:
        return None
    raw = analysis.raw
    kept.update(dict.fromkeys(_directories_of(analysis, kept)))
    for key, (_, truth) in raw.items():
        if key not in kept and truth is not None and _is_blocked(analysis, kept, key):
            kept[key] = None
    return tree.edit(analysis.truth, sorted((key, raw[key][0]) for key in kept))


def _kept(analysis: Analysis, purpose: Purpose, undetermined: AbstractSet[bytes]) -> dict[bytes, None]:
    raw, lagging = analysis.raw, analysis.lagging
    if purpose == "lag":
        return {key: None for key in raw if key not in lagging or key in undetermined}
    if not undetermined:
        return {}
    return {key: None for key in raw if key in undetermined}


def _directories_of(analysis: Analysis, kept: dict[bytes, None]) -> list[bytes]:
    """Directories that the truth no longer has, but something kept lies in."""
    return [
        above
        for key in kept
        if analysis.raw[key][0] is not None
        for above in _above(key)
        if above in analysis.raw and not _is_directory(analysis.raw[above][1])
    ]


def _is_blocked(analysis: Analysis, kept: dict[bytes, None], key: bytes) -> bool:
    """Whether this would have to lie below something kept that is no directory."""
    return any(above in kept and not _is_directory(analysis.raw[above][0]) for above in _above(key))


def _above(key: bytes) -> Iterator[bytes]:
    """The keys of the directories that a path lies in."""
    end = key.rfind(b"\0")
    while end > 0:
        yield key[:end]
        end = key.rfind(b"\0", 0, end)


def _is_directory(value: bytes | None) -> bool:
    return value is not None and entry_kind(value) is Kind.DIRECTORY
