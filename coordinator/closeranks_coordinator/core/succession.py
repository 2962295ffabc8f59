"""A first truth that follows another one, as when `ignore` was changed: what of its writers' trees is only late. Pure.

Other settings make another tree, so a truth is founded from what the writers have then. Their union alone would bring
back whatever was deleted while one of them was behind, and make a conflict of each file that it had as it once was,
or that somebody wrote while the others were still scanning. So what each writer held of the old truth (its *base*) is
kept until the new one is founded, and its tree is taken there as if it had been brought up to date before:

- what it has as it held it is no version of its own: it follows those who changed that path, else the old truth;
- what it has otherwise is its own change. Of the old truth it follows that; of something older it clashes with that;
- what it lacks is its own removal, unless that is so much that it looks like another disk.

Entries of different settings are compared by what both of them tell. Where contents are cut into other chunks (files
longer than `whole_bytes`) that is their length: what is as long as it was is as it was held. So presence goes by the
old truth, and where contents of one length differ in the end they clash, and both are kept.

Only paths in which the trees, or a base and the old truth, differ are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from closeranks_proto.paths import parent_key, subtree_range
from closeranks_proto.tree import Edited, Tree

from .values import Value, is_alike, is_directory, tells_content


@dataclass(frozen=True, slots=True)
class Heir:
    """One writer: its tree now, the tree that it held of the old truth, and how many removals are believed.

    `is_anew`: told by another agent or index, so it may be out of a backup: nobody follows what it has otherwise.
    """

    root: bytes
    base: bytes
    removals_max: int
    is_anew: bool = False


@dataclass(slots=True)
class _Path:
    """One path in all trees."""

    was_truth: Value
    now: dict[str, Value]
    own: set[str] = field(default_factory=set)  # who has changed it
    ahead: set[str] = field(default_factory=set)  # those of them who changed what was the truth
    held: set[str] = field(default_factory=set)  # who held what was the truth


def up_to_date(
    tree: Tree,
    heirs: Mapping[str, Heir],
    truth: bytes,
    keep: Callable[[dict[bytes, bytes]], None],
    whole_bytes: int | None = None,
) -> dict[str, bytes]:
    """Each writer's root as it would be, were it late in nothing of the old truth. `keep` makes new pages readable."""
    edits: dict[str, dict[bytes, Value]] = {name: {} for name in heirs}
    for key, path in _looked_at(tree, heirs, truth, whole_bytes).items():
        for name, value in _followed(path, tree.algorithm.width, whole_bytes).items():
            edits[name][key] = value
    found: dict[str, bytes] = {}
    for name, heir in heirs.items():
        changes = _possible(tree, heir.root, edits[name])
        edited = tree.edit(heir.root, sorted(changes.items()))
        keep(edited.pages)
        found[name] = edited.root
    return found


def base_by_new_settings(
    tree: Tree, root: bytes, base: bytes, truth: bytes, whole_bytes: int | None = None
) -> Edited:
    """What a writer that comes after the founding held of the old truth, for its tree by the new settings (`root`).

    Held against the new truth, what it has as it held it is late, and the rest is its own change: as if nothing had
    happened to the settings while it was away.
    """
    held: list[tuple[bytes, Value]] = []
    width = tree.algorithm.width
    for one in tree.diff(root, truth):
        was = tree.lookup(base, one.key)
        # Of another content that may be its own, and as long by chance, only an absence makes it late.
        is_known = one.theirs is None or tells_content(one.ours, whole_bytes)
        if is_known and is_alike(one.ours, was, width, whole_bytes):
            held.append((one.key, one.ours))
        elif not is_known or not is_alike(was, one.theirs, width, whole_bytes):
            held.append((one.key, was))
    return tree.edit(truth, held)


def unknown_to(
    tree: Tree, heirs: Mapping[str, Heir], truth: bytes, whole_bytes: int | None = None
) -> dict[bytes, bool]:
    """Paths of the old truth that none of these held as it was, and whether one of them changed an elder version."""
    if not heirs:
        return {key: False for key, _ in tree.walk(truth)}
    return {
        key: bool(path.own)
        for key, path in _looked_at(tree, heirs, truth, whole_bytes).items()
        if path.was_truth is not None and not path.held
    }


def base_beside(
    tree: Tree, base: bytes, truth: bytes, founded: bytes, unknown: Mapping[bytes, bool]
) -> Edited:
    """What a writer that was not heard for the founding is to have held, where those who were did not know the truth.

    Where it held that, it goes on from what they have, and clashes with what one of them has changed.
    """
    width = tree.algorithm.width
    own, was = tree.lookup_many(base, unknown), tree.lookup_many(truth, unknown)
    theirs = tree.lookup_many(founded, unknown)
    held = [
        (key, None if is_clash else theirs.get(key))
        for key, is_clash in sorted(unknown.items())
        if is_alike(own.get(key), was[key], width)
    ]
    return tree.edit(base, held)


def _looked_at(
    tree: Tree, heirs: Mapping[str, Heir], truth: bytes, whole_bytes: int | None
) -> dict[bytes, _Path]:
    """The paths in question, with who has changed them."""
    roots, bases = {heir.root: None for heir in heirs.values()}, {heir.base: None for heir in heirs.values()}
    first, *others = roots
    keys = {one.key for root in others for one in tree.diff(root, first)}
    keys |= {one.key for base in bases for one in tree.diff(base, truth)}
    width, paths = tree.algorithm.width, dict[bytes, _Path]()
    values = {root: tree.lookup_many(root, keys) for root in {**roots, **bases, truth: None}}
    removed: dict[str, list[bytes]] = {name: [] for name in heirs}
    for key in sorted(keys):
        path = paths[key] = _Path(values[truth].get(key), {})
        for name, heir in heirs.items():
            now, base = values[heir.root].get(key), values[heir.base].get(key)
            path.now[name] = now
            has_held = not heir.is_anew and is_alike(base, path.was_truth, width)
            if has_held:
                path.held.add(name)
            if is_alike(now, base, width, whole_bytes):
                continue
            path.own.add(name)
            if has_held:
                path.ahead.add(name)
            if now is None:
                removed[name].append(key)
    for name, keys_removed in removed.items():
        if len(keys_removed) > heirs[name].removals_max:
            for key in keys_removed:
                paths[key].own.discard(name)
                paths[key].ahead.discard(name)
    return paths


def _followed(path: _Path, width: int, whole_bytes: int | None) -> dict[str, Value]:
    """What those who have not changed the path take over: nothing where others clash, so that it is nobody's vote."""
    rest = [name for name in path.now if name not in path.own]
    value: Value = None
    if path.ahead:
        versions = {one for name in path.ahead if (one := path.now[name]) is not None}
        if len(versions) == 1 and path.own == path.ahead:
            (value,) = versions
    elif path.was_truth is not None:
        holders = [
            name
            for name in rest
            if (name in path.held or tells_content(path.now[name], whole_bytes))
            and is_alike(path.now[name], path.was_truth, width, whole_bytes)
        ]
        if not holders:
            return {}  # nobody can say how it looks by the new settings
        is_clear = (
            tells_content(path.was_truth, whole_bytes) or len({path.now[name] for name in holders}) == 1
        )
        value = path.now[holders[0]] if is_clear and not path.own else None
        rest = [name for name in rest if name not in holders]
    return {name: value for name in rest if path.now[name] != value}


def _possible(tree: Tree, root: bytes, wanted: Mapping[bytes, Value]) -> dict[bytes, Value]:
    """Those of the edits that leave a tree which a disk can hold."""
    changes: dict[bytes, Value] = {}
    for key in sorted(wanted, reverse=True):
        stays = is_directory(tree.lookup(root, key)) and not is_directory(wanted[key])
        if not (stays and _has_below(tree, root, key, changes)):
            changes[key] = wanted[key]
    for key in sorted(changes):
        parent = parent_key(key)
        above = changes[parent] if parent in changes else tree.lookup(root, parent) if parent else b""
        if changes[key] is not None and parent and not is_directory(above):
            del changes[key]
    return changes


def _has_below(tree: Tree, root: bytes, key: bytes, changes: Mapping[bytes, Value]) -> bool:
    return any(changes.get(below, b"") is not None for below, _ in tree.walk(root, *subtree_range(key)))
