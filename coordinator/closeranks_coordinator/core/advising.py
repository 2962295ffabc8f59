"""How things stand with an incident at this moment, for whoever looks: its advice, and the figures of what is held.

Read from the same records that decide, whenever somebody asks; nothing of it is kept.
"""

from __future__ import annotations

import msgspec

from . import advice, holds, kept
from .advice import Standing
from .incidents import Incident
from .nodes import Node
from .shapes import IncidentView
from .world import World


def view(world: World, incident: Incident) -> IncidentView:
    """An incident as people and programs see it now."""
    found = incident.view()
    if not incident.is_open:
        return found
    paths = found.path_count
    if incident.kind == "runaway":
        paths = max(
            (kept.waiting(world, hold)[0] for hold in world.live_holds if hold.incident == incident.id),
            default=paths,
        )
    return msgspec.structs.replace(
        found, advice=_present(world, incident) or incident.advice, path_count=paths
    )


def standing(world: World, node: Node) -> Standing:
    """How a node stands with its fence."""
    record = node.record
    fence = record.fence
    trouble = ""
    if record.recovery is not None and node.recovery is not None:
        problems = [one.message for one in node.recovery.problem.values()]
        trouble = problems[0] if problems else node.recovery.noted
    return Standing(
        fenced=fence is not None,
        by_hand=fence is not None and fence.by_hand,
        automatic=fence is not None and fence.release == "automatic",
        verified=fence is not None and fence.verified,
        recovering=record.recovery is not None,
        blocked_by=node.blocked_by if record.phase == "suspect" else None,
        max_quarantined=world.config.max_quarantined,
        trouble=trouble,
    )


def _present(world: World, incident: Incident) -> str | None:
    """None where what was said at the beginning still stands."""
    node = world.nodes.get(incident.node or "")
    volume = world.volumes.get(incident.volume or "")
    match incident.kind:
        case "divergence" | "regression" if node is not None and volume is not None:
            policy, at = volume.config.on_divergence, standing(world, node)
            return advice.difference(incident.id, incident.kind, node.name, volume.name, policy, at)
        case "audit" if node is not None and volume is not None:
            return advice.audit(node.name, volume.name, volume.config.on_divergence, standing(world, node))
        case "runaway" if node is not None:
            return _runaway(world, incident, node)
        case "recurrence" if node is not None and "failed_in" not in incident.evidence:
            return advice.recurrence(node.name, standing(world, node))
        case "undetermined" if volume is not None and volume.config.policy != "baseline":
            return advice.undetermined(volume.name, len(volume.voters), len(volume.config.nodes), volume.need)
        case "many_suspects":
            suspects = [one.name for one in world.nodes.values() if one.record.phase == "suspect"]
            return advice.many_suspects(incident.volume, suspects, world.config.max_quarantined)
        case _:
            return None


def _runaway(world: World, incident: Incident, node: Node) -> str | None:
    mine = [hold for hold in world.live_holds if hold.incident == incident.id]
    held = [hold for hold in mine if hold.state == "held"]
    if not held:
        return advice.rejected(node.name, incident.id, standing(world, node)) if mine else None
    return holds.advise(world, node, held, incident)
