"""Why a node is where it is, and the next command to type: for `status`, and for all that is known of one node."""

from __future__ import annotations

from ..core.shapes import IncidentView, NodeView, NodeVolumeView
from .words import age, plural, size, span

PHASES = {
    "converge": "about to be brought back", "objects": "learning what differs", "plan": "planning", "fetch": "fetching",
    "install": "putting files in their places", "verify": "reading everything back from disk",
    "settle": "equal to the truth; waiting whether it stays so",
}  # fmt: skip
ACCUSED_IN = ("divergence", "regression", "audit")  # incidents that make a suspect
BLOCKED = {
    "max_quarantined": "waits for its fence: as many as max_quarantined are fenced already",
    "many_suspects": "not fenced: too many differ at once (many_suspects)",
    "quorum_would_be_lost": "not fenced: without it no majority would be left (quorum_would_be_lost)",
}


def reasons(node: NodeView, incidents: list[IncidentView], now: int) -> list[str]:
    """Why this node is where it is, most telling first."""
    # What a verified node is fenced for is over: told as it was, it would be false.
    equal = node.quarantine is not None and node.quarantine.verified
    over = "equal to the truth again, read back from disk; fenced before, because " if equal else ""
    found = [
        f"{over if incident.kind in ('divergence', 'regression') else ''}{incident.summary} (incident {incident.id})"
        for incident in incidents
    ]
    told = node.quarantine is not None and any(
        node.quarantine.incident == incident.id for incident in incidents
    )
    if node.quarantine is not None and (node.quarantine.by_hand or not told):
        found.append(f"fenced{' by hand' if node.quarantine.by_hand else ''}: {node.quarantine.reason}")
    found += node.quarantine.remarks if node.quarantine is not None else ()
    for volume in node.volumes:
        if volume.problem is not None:
            if not any(volume.problem.message in one for one in found):
                found.append(f"{volume.name}: {volume.problem.message}")
        else:
            found += _differences(volume)
        if is_going_on(volume) and volume.progress:
            found.append(f"{volume.name}: {progress_text(volume.progress)}")
    if node.waiting is not None and not any(
        volume.problem is not None and volume.problem.message in node.waiting for volume in node.volumes
    ):
        found.append(node.waiting)
    told_silent = any(incident.kind == "outage" for incident in incidents)
    if node.state == "unreachable" and not node.connected and not told_silent:
        last = f"last heard {age(node.last_contact, now)} ago" if node.last_contact else "never heard of yet"
        found.append(f"no contact: {last}")
    if not node.in_service:
        found.append(out_of_service([node.node]))
    if node.blocked_by is not None:
        found.append(BLOCKED.get(node.blocked_by, f"waits, held back by {node.blocked_by}"))
    return found


def is_going_on(volume: NodeVolumeView) -> bool:
    """Whether its converge is at work: what waits for something to be mended is not about to be brought back."""
    phase = "" if volume.progress is None else str(volume.progress.get("phase"))
    return bool(phase) and not (volume.problem is not None and phase == "converge")


def out_of_service(nodes: list[str]) -> str:
    """What load balancers are told of these nodes."""
    return f"out of service: /lb/{nodes[0] if len(nodes) == 1 else 'NODE'} answers 503"


def _differences(volume: NodeVolumeView) -> list[str]:
    """What is the node's own, and in what it is only late: the first counts both, and lag is no divergence."""
    found: list[str] = []
    late = volume.lagging_paths or 0
    own = (volume.differing_paths or 0) - late
    if own > 0:
        known = volume.differing_bytes is not None and not late
        amount = f", {size(volume.differing_bytes)}" if known else ""
        found.append(f"{volume.name}: {plural(own, 'path differs', 'paths differ')} from the truth{amount}")
    if late:
        least = "at least " if volume.lag_at_least else ""
        behind = f" by {least}{span(volume.lag_s)}" if volume.lag_s is not None else ""
        found.append(f"{volume.name}: behind{behind}, {plural(late, 'path')} to catch up")
    return found


_ROOM = ("no_space", "trash_full")  # problems that a person ends by making room


def _make_room(node: str, volume: NodeVolumeView) -> str:
    """What ends a want of room. A trash has a bound of its own: a larger disk alone may not be enough."""
    problem = volume.problem
    need = "" if problem is None or problem.needed_bytes is None else f" {size(problem.needed_bytes)}"
    if problem is not None and problem.code == "trash_full":
        return (
            f"raise trash_max_bytes of {volume.name} in coordinator.toml, so that the trash has room "
            f"for{need or ' more'}, and reload the coordinator; or remove on {node} by hand what is named above, if "
            "nobody wants it any more; it goes on by itself then"
        )
    return (
        f"on {node}: make room:{need or ' some'} free on the file system of {volume.name}; if a runaway has filled it, "
        "remove what it wrote; it goes on by itself then"
    )


def room_there(node: str) -> str:
    """What ends a hold for a disk where nobody has anything to decide."""
    return f"on {node}: free some room on the disk that is named there, and stop what fills it; it ends by itself then"


def next_steps(node: NodeView, incidents: list[IncidentView]) -> list[str]:
    """The next command to type, or why there is none."""
    look = [f"closeranks incident {incidents[0].id}"] if incidents else []
    name = node.node
    short = next((one for one in node.volumes if one.problem is not None and one.problem.code in _ROOM), None)
    match node.state:
        case "suspect" if node.blocked_by == "many_suspects":
            return [*look, "closeranks incidents   (why nothing is fenced while so many differ)"]
        case "suspect":
            return [
                *look,
                f"closeranks diff {_suspected(node, incidents)} {name}",
                f"closeranks resync {name}   (fences it, then converges)",
            ]
        case "quarantined":
            quarantine = node.quarantine
            if quarantine is not None and quarantine.verified:
                return [*look, f"closeranks release {name}   (its root is verified)"]
            if quarantine is not None and not quarantine.by_hand and quarantine.release == "automatic":
                return [*look, "nothing: it is about to be resynced and released by itself"]
            return [*look, f"closeranks resync {name} --wait   then: closeranks release {name}"]
        case "resyncing" | "verifying" | "joining" | "lagging" if short is not None:
            return [*look, _make_room(name, short)]
        case "joining" if not node.connected:
            return [f"on {name}: start the agent; the coordinator waits for it"]
        case "resyncing" | "verifying" | "joining" | "lagging" if node.waiting is not None:
            return [*look, f"on {name}: put right what is said above; it goes on by itself then"]
        case "resyncing" | "verifying" | "joining":
            return [*look, f"nothing: it goes on by itself; follow it with: closeranks nodes {name}"]
        case "lagging" if node.cares:
            return [
                *look,
                f"wait; if it does not catch up, put right what is said of it: closeranks nodes {name}",
            ]
        case "lagging":
            return [*look, f"wait; if it does not catch up: closeranks resync {name}"]
        case "unreachable" if node.connected:
            return [f"on {name}: mount or repair what holds the volume; it goes on by itself then"]
        case "unreachable":
            return [
                f"on {name}: is the agent running? closeranks doctor --config AGENT.TOML says what is wrong"
            ]
        case "held" if node.wants_room:
            return [*look, room_there(name)]
        case "held":
            hold = node.holds[0] if node.holds else "ID"
            return [
                *look,
                f"closeranks allow {hold}    (it is wanted; for a while this guard does not hold it again)",
                f"closeranks reject {hold}   (brings {name} back to the truth)",
            ]
        case _:
            return look


def _suspected(node: NodeView, incidents: list[IncidentView]) -> str:
    """The volume to look at: that of its incident, else where it has a difference of its own, else where it has any."""
    accused = [one.volume for one in incidents if one.volume is not None and one.kind in ACCUSED_IN]
    own = [one.name for one in node.volumes if (one.differing_paths or 0) > (one.lagging_paths or 0)]
    differing = [one.name for one in node.volumes if one.differing_paths]
    return next(iter([*accused, *own, *differing, *(one.name for one in node.volumes)]), "VOLUME")


def progress_text(progress: dict[str, int | str]) -> str:
    """One line of how far a converge or verification is."""
    phase = str(progress.get("phase", "working"))
    parts = [PHASES.get(phase, phase)]
    done, total = progress.get("steps_done"), progress.get("steps_total")
    if isinstance(done, int) and isinstance(total, int) and total:
        parts.append(f"{done} of {total} steps")
    moved, remaining = progress.get("bytes_moved"), progress.get("bytes_remaining")
    if isinstance(moved, int) and isinstance(remaining, int) and (moved or remaining):
        parts.append(f"{size(moved)} moved, {size(remaining)} to go")
    return ", ".join(parts)
