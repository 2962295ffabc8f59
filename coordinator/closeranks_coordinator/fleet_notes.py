"""What is worth saying of a fleet's configuration that is valid: what it means, and what will surprise somebody.

Said to whoever checks the file, who is no developer: what follows from it, not how it is read.
"""

from __future__ import annotations

from .core.model import FleetConfig, VolumeConfig
from .core.truth import fence_bound, quorum_of
from .guard_config import notes as guard_notes
from .guard_config import warnings as guard_warnings

ON_DIVERGENCE = {
    "alert": "a suspect stays as it is, nothing on its disk changes, and a person is told",
    "quarantine": "the node is fenced until a person calls resync and release",
    "resync": "the node is fenced, converged to the truth, verified and released by itself",
}


def warnings(fleet: FleetConfig) -> list[str]:
    """What will surprise somebody."""
    found: list[str] = []
    for volume in fleet.volumes:
        count = len(volume.nodes)
        if volume.policy == "quorum" and count < 3:
            found.append(
                f'volume "{volume.name}": {nodes_words(count)}: a quorum is {quorum_of(count)}, so every '
                "difference stays undetermined and nobody can be named; it takes three nodes to name one"
            )
        if volume.policy == "quorum" and volume.settle_s < 1 and count >= 3:
            found.append(
                f'volume "{volume.name}": settle_s = {volume.settle_s:g}: a node that receives '
                "a change first can be accused before the others have it"
            )
        if volume.trash_keep_s < 3600:
            found.append(
                f'volume "{volume.name}": trash_keep_s = {volume.trash_keep_s:g}: what a resync set aside '
                "is gone within the hour; keep it as long as you need to notice a mistake"
            )
        found += guard_warnings(volume)
    unused = [node for node in fleet.nodes if not any(node in volume.nodes for volume in fleet.volumes)]
    if unused:
        found.append(f"fleet.nodes: {some_names(tuple(unused))} in no volume; nothing of them is compared")
    return found


def notes(fleet: FleetConfig) -> list[str]:
    """What it means."""
    found: list[str] = []
    for volume in fleet.volumes:
        label = f'volume "{volume.name}"'
        found.append(
            f"{label}: on_divergence = {volume.on_divergence}: {ON_DIVERGENCE[volume.on_divergence]}"
        )
        found += guard_notes(volume)
        found += _replication_notes(label, volume)
        if volume.policy != "quorum":
            continue
        count = len(volume.nodes)
        found.append(
            f"{label}: settle_s = {volume.settle_s:g} must exceed the time in which your own replication "
            f"brings a change to {quorum_of(count)} of the {count} nodes; if it takes longer, "
            "the first to have it looks like a rogue"
        )
        if volume.settle_s < volume.scan_interval_s:
            found.append(
                f"{label}: settle_s = {volume.settle_s:g} is shorter than scan_interval_s = "
                f"{volume.scan_interval_s:g}: a difference is judged after every voter's next scan, "
                f"so naming takes up to about {2 * volume.scan_interval_s:g} s"
            )
        if count >= 4 and count % 2 == 0:
            found.append(
                f"{label}: {count} nodes is an even number: a split {count // 2} to {count // 2} "
                f"accuses nobody; {count - 1} nodes bear as many losses ({fence_bound(count)})"
            )
    if fleet.digest == "xxh3-128":
        found.append('digest = "xxh3-128" finds accidents and is no evidence against a forger; "blake3" is')
    return found


def _replication_notes(label: str, volume: VolumeConfig) -> list[str]:
    """What it means that closeranks carries the writes."""
    if not volume.replicated:
        return []
    others = len(volume.nodes) - len(volume.writers)
    carried = (
        f"{label}: closeranks itself carries writes to all {nodes_words(len(volume.nodes))}; turn any other copying of "
        "this tree (rsync, lsyncd, Syncthing) off, or each takes the other's work for changes"
    )
    if volume.policy == "any-writer":
        return [
            carried,
            f"{label}: every node may write; where two change one path before they hear of each other, the first to "
            "arrive stands, and the other version is kept beside it under a conflict name",
        ]
    named = some_names(volume.writers)
    found = [
        carried,
        f"{label}: what {named} hold{'s' if len(volume.writers) == 1 else ''} is the truth, deletions included; "
        + (
            f"a change on one of the {nodes_words(others, 'other ')} is divergence after settle_s = {volume.settle_s:g}"
            if others
            else "every node is a writer, as with any-writer"
        ),
    ]
    if len(volume.writers) > 1:
        found.append(
            f"{label}: where two writers change one path before they hear of each other, the first to arrive stands, "
            "and the other version is kept beside it under a conflict name"
        )
    return found


def nodes_words(count: int, kind: str = "") -> str:
    """So many nodes, in words."""
    return f"{count} {kind}node{'' if count == 1 else 's'}"


def some_names(names: tuple[str, ...], most: int = 8) -> str:
    """The first of them, and how many more."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
