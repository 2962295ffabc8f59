"""How many bytes differ, kept up to date at the price of what changes.

The sum is made when somebody first asks, and from then on only the paths that have changed since are
taken out and put in again: a node with a hundred thousand differing paths is polled like any other. Of nodes that
stand alike one is added up.
"""

from __future__ import annotations

from closeranks_proto.entries import Kind, entry_kind, entry_size

from .diffs import row
from .nodes import SizeOf, View, Volume
from .truth import Values
from .world import World

_CONTENT_AT = 4  # size and digest of a file's value stand behind its head


def differing_bytes(world: World, volume: Volume, view: View) -> int | None:
    """Bytes of the differing chunks, those of paths that nobody can judge left out; None while unknown."""
    analysis = view.analysis
    if analysis is None:
        return None
    if view.size is None:
        view.size = SizeOf(0, dict.fromkeys(analysis.differing))
    size = view.size
    known = world.sizes.get(analysis)
    if known is None:
        for key, before in size.changed.items():
            now = analysis.differing.get(key)
            size.total += _bytes_of(world, volume, key, now) - _bytes_of(world, volume, key, before)
        known = world.sizes[analysis] = size.total
    if size.late:
        for key in size.changed:
            size.late.pop(key, None)
    size.total, size.changed = known, {}
    if not view.unclear:
        return size.total
    unclear = [key for key in volume.undetermined if key in analysis.differing]
    return size.total - sum(_bytes_of(world, volume, key, analysis.differing[key]) for key in unclear)


def own_bytes(world: World, volume: Volume, view: View) -> int | None:
    """The same of those that differ by the node's own doing; None while unknown."""
    total, analysis = differing_bytes(world, volume, view), view.analysis
    if total is None or analysis is None or view.size is None:
        return None
    late, lagging = view.size.late, analysis.lagging
    for key in late.keys() - lagging:
        del late[key]
    for key in lagging - late.keys():
        late[key] = _bytes_of(world, volume, key, analysis.differing[key])
    unclear = (key for key in volume.undetermined if key in lagging) if view.lag_unclear else ()
    return total - sum(late.values()) + sum(late[key] for key in unclear)


def _bytes_of(world: World, volume: Volume, key: bytes, values: Values | None) -> int:
    """As the rows of a difference count; chunk lists are only read for files of more than one chunk."""
    if values is None:
        return 0
    ours, theirs = values
    largest = max(entry_size(value) for value in values if value is not None)
    if largest > volume.config.chunk_bytes:
        return row(key, ours, theirs, world.object, world.algorithm.width, volume.config.chunk_bytes).bytes
    if ours is None or theirs is None or not (_is_file(ours) and _is_file(theirs)):
        return largest
    content = slice(_CONTENT_AT, _CONTENT_AT + 8 + world.algorithm.width)
    return 0 if ours[content] == theirs[content] else largest


def _is_file(value: bytes) -> bool:
    return entry_kind(value) is Kind.FILE
