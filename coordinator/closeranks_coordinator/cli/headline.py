"""The first lines of `closeranks status`: whether all is well, and what is said of what is not.

The word before the colon is what a person is woken by, so it accuses only where somebody is accused. A node that is
late or joining is not in rank, and the exit code says so; but it is brought up to date by itself.
"""

from __future__ import annotations

from ..core.shapes import FleetView, IncidentView, NodeView, VolumeView
from ..core.words import join
from .screen import BAD, CARE, GOOD, Screen
from .words import plural

NODES_NAMED = 5
ON_THE_WAY = ("joining", "lagging", "resyncing", "verifying")
ACCUSING = ("divergence", "regression", "recurrence", "audit", "runaway", "duplicate_node", "outage")


def all_in_rank(fleet: FleetView) -> bool:
    """Stricter than the answer's own word: an error is not a pass, and silence is not agreement."""
    return (
        fleet.in_rank
        and fleet.coverage.compared >= fleet.coverage.expected
        and all(node.state == "in_rank" for node in fleet.nodes)
        and not any(volume.undetermined or volume.truth_root is None for volume in fleet.volumes)
    )


def is_unpinned(volume: VolumeView) -> bool:
    """There nobody votes, and nobody is compared."""
    return volume.policy == "baseline" and volume.truth_root is None


def print_headline(screen: Screen, fleet: FleetView, incidents: list[IncidentView]) -> None:
    """One line, and what else must be known before anything below is believed."""
    screen.folded(*_headline(fleet, incidents))
    if fleet.problem is not None:
        screen.folded(
            f"The coordinator can store nothing, and shows what it knew before: {fleet.problem}", BAD
        )
    coverage = fleet.coverage
    if coverage.compared < coverage.expected:
        missing = [node.node for node in fleet.nodes if any(not held.compared for held in node.volumes)]
        who = f": not {join(missing, NODES_NAMED)}" if missing else "; the rest has not reported"
        screen.folded(f"Compared {coverage.compared} of {plural(coverage.expected, 'node')}{who}.", CARE)


def _headline(fleet: FleetView, incidents: list[IncidentView]) -> tuple[str, str]:
    total = plural(len(fleet.nodes), "node")
    if all_in_rank(fleet):
        stormy = [node.node for node in fleet.nodes if any(held.storm for held in node.volumes)]
        if stormy:
            return (
                f"All {total} in rank, but for what is being written on {join(stormy, NODES_NAMED)} at this moment: "
                "it is so much that it is compared when it is over.",
                CARE,
            )
        return f"All {total} in rank.", GOOD
    outside = [node for node in fleet.nodes if node.state != "in_rank"]
    if outside and all(_is_new(node) for node in fleet.nodes):
        return f"STARTING: none of {total} is in rank yet; their trees are being read and compared.", CARE
    accused = {one.node for one in incidents if one.kind in ACCUSING}
    verb = "is" if len(outside) == 1 else "are"
    if any(node.node in accused or not _is_on_the_way(node) for node in outside):
        return f"OUT OF RANK: {len(outside)} of {total} {verb} not in rank.", BAD
    if any(volume.undetermined and not is_unpinned(volume) for volume in fleet.volumes):
        return "UNDETERMINED: the nodes differ and no quorum says who is right; nobody is accused.", BAD
    if outside and all(node.state == "joining" for node in outside):
        return f"JOINING: {len(outside)} of {total} {verb} not in rank yet; nobody is accused.", CARE
    if outside:
        return f"BEHIND: {len(outside)} of {total} {verb} being brought up to date; nobody is accused.", CARE
    if any(is_unpinned(volume) for volume in fleet.volumes):
        return (
            "NOT PROVEN: no node is out of rank, but a volume has no baseline pinned to be compared with.",
            CARE,
        )
    return "NOT PROVEN: no node is out of rank, but not everything could be compared.", CARE


def _is_new(node: NodeView) -> bool:
    """Whether it has yet to join, or was never heard of: where all are so, the fleet starts."""
    return node.state == "joining" or (node.state == "unreachable" and node.last_contact is None)


def _is_on_the_way(node: NodeView) -> bool:
    """Whether it is not in rank for nothing but being late or new."""
    return node.state in ON_THE_WAY and node.quarantine is None
