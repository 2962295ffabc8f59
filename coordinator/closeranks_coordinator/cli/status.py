"""`closeranks status`: who is out of rank, why, since when, and what to type next.

The verdict comes first and fits the first lines; the tables behind it are for those who want to look.
The exit code says the same: 0 only if everything that was expected was compared and equal.
"""

from __future__ import annotations

import argparse

import msgspec

from closeranks_proto.lines import shortened

from ..core.shapes import FleetView, IncidentView, NodeView, NodeVolumeView, VolumeView
from ..core.words import join
from .client import Api, NotAsked, Refused
from .screen import BAD, CARE, FAINT, GOOD, STRONG, Cell, Screen
from .session import FOUND, OK, asking, now_ms, open_api
from .words import NONE, age, allowance, count, plural, short_root, size, span

STATE_STYLES = {
    "in_rank": GOOD, "joining": CARE, "lagging": CARE, "suspect": BAD, "quarantined": BAD, "resyncing": CARE,
    "verifying": CARE, "unreachable": BAD, "held": CARE,
}  # fmt: skip
_URGENCY = (
    "quarantined",
    "suspect",
    "unreachable",
    "held",
    "resyncing",
    "verifying",
    "lagging",
    "joining",
    "in_rank",
)

CARES_SHOWN = 5
NODES_NAMED = 5
PHASES = {
    "converge": "about to be brought back", "objects": "learning what differs", "plan": "planning", "fetch": "fetching",
    "install": "putting files in their places", "verify": "reading everything back from disk",
    "settle": "equal to the truth; waiting whether it stays so",
}  # fmt: skip
NO_REASON = ("conflict",)  # incidents for which no node leaves the ranks
UNREAD = ("unreadable", "too_large")
PATH_WIDTH = 120


class IncidentPage(msgspec.Struct):
    items: list[IncidentView]
    next_cursor: str | None = None


def add_status(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "The fleet at a glance. Exit: 0 all in rank, 1 something is out of rank (divergence, lag, undetermined, "
        "unreachable, incomplete coverage), 2 could not ask."
    )
    asking(parser)
    parser.set_defaults(run=status, refused=2)


def status(args: argparse.Namespace, screen: Screen) -> int:
    api = open_api(args, screen)
    body = api.get("/api/v1/fleet")
    fleet = api.decode(body, FleetView)
    now = now_ms(api)
    if args.json:
        screen.raw_json(body)
    else:
        open_incidents = [] if all_in_rank(fleet) else _open_incidents(api, screen)
        _print_verdict(screen, fleet)
        _print_outsiders(screen, fleet, open_incidents, now)
        _print_volume_troubles(screen, fleet, open_incidents, now)
        _print_cares(screen, fleet)
        for one in fleet.allowed:
            screen.line(allowance(one), CARE)
        screen.line()
        _print_volumes(screen, fleet)
        screen.line()
        _print_nodes(screen, fleet, now)
    return OK if all_in_rank(fleet) else FOUND


def all_in_rank(fleet: FleetView) -> bool:
    """Stricter than the answer's own word: an error is not a pass, and silence is not agreement."""
    return (
        fleet.in_rank
        and fleet.coverage.compared >= fleet.coverage.expected
        and all(node.state == "in_rank" for node in fleet.nodes)
        and not any(volume.undetermined or volume.truth_root is None for volume in fleet.volumes)
    )


def _open_incidents(api: Api, screen: Screen) -> list[IncidentView]:
    """Their summaries say why. A fleet view without them is still worth showing."""
    try:
        page = api.decode(api.get("/api/v1/incidents", {"state": "open", "limit": "200"}), IncidentPage)
    except (NotAsked, Refused) as error:
        screen.say(f"warning: the incidents could not be read: {error}")
        return []
    return page.items


def _print_verdict(screen: Screen, fleet: FleetView) -> None:
    total = len(fleet.nodes)
    if all_in_rank(fleet):
        screen.line(f"All {plural(total, 'node')} in rank.", GOOD)
        return
    outside = [node for node in fleet.nodes if node.state != "in_rank"]
    if outside:
        verb = "is" if len(outside) == 1 else "are"
        screen.line(f"OUT OF RANK: {len(outside)} of {plural(total, 'node')} {verb} not in rank.", BAD)
    elif any(volume.undetermined for volume in fleet.volumes):
        screen.line("UNDETERMINED: the nodes differ and no quorum says who is right; nobody is accused.", BAD)
    else:
        screen.line("NOT PROVEN: no node is out of rank, but not everything could be compared.", CARE)
    if fleet.problem is not None:
        screen.line(f"The coordinator can store nothing, and shows what it knew before: {fleet.problem}", BAD)
    coverage = fleet.coverage
    if coverage.compared < coverage.expected:
        screen.line(
            f"Compared {coverage.compared} of {coverage.expected} expected trees; the rest has not reported.",
            CARE,
        )


def _print_outsiders(screen: Screen, fleet: FleetView, incidents: list[IncidentView], now: int) -> None:
    outside = [node for node in fleet.nodes if node.state != "in_rank"]
    outside.sort(key=lambda node: (_URGENCY.index(node.state), node.node))
    for node in outside[:20]:
        own = [one for one in incidents if one.node == node.node and one.kind not in NO_REASON]
        since = f" for {age(node.since, now)}" if node.since else ""
        screen.line()
        screen.line(f"{node.node}  {node.state.upper()}{since}", STATE_STYLES.get(node.state, STRONG))
        for reason in reasons(node, own, now):
            screen.line(f"  why   {reason}")
        for step in next_steps(node, own):
            screen.line(f"  next  {step}")
    if len(outside) > 20:
        screen.line(f"and {len(outside) - 20} more: see the table below")


def reasons(node: NodeView, incidents: list[IncidentView], now: int) -> list[str]:
    """Why this node is where it is, most telling first."""
    found = [f"{incident.summary} (incident {incident.id})" for incident in incidents]
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
        elif volume.differing_paths:
            amount = f", {size(volume.differing_bytes)}" if volume.differing_bytes is not None else ""
            differ = plural(volume.differing_paths, "path differs", "paths differ")
            found.append(f"{volume.name}: {differ} from the truth{amount}")
        elif volume.lagging_paths:
            behind = f" by {span(volume.lag_s)}" if volume.lag_s is not None else ""
            found.append(f"{volume.name}: behind{behind}, {plural(volume.lagging_paths, 'path')} to catch up")
        if volume.progress:
            found.append(f"{volume.name}: {progress_text(volume.progress)}")
    if node.waiting is not None and not any(
        volume.problem is not None and volume.problem.message in node.waiting for volume in node.volumes
    ):
        found.append(node.waiting)
    told_silent = any(incident.kind == "outage" for incident in incidents)
    if node.state == "unreachable" and not node.connected and not told_silent:
        last = f"last heard {age(node.last_contact, now)} ago" if node.last_contact else "never heard of yet"
        found.append(f"no contact: {last}")
    if node.blocked_by is not None:
        found.append(f"waits, held back by {node.blocked_by}")
    return found


_ROOM = ("no_space", "trash_full")  # problems that a person ends by making room


def _make_room(node: str, volume: NodeVolumeView) -> str:
    """What ends a want of room. A trash has a bound of its own: a larger disk alone may not be enough."""
    problem = volume.problem
    need = "" if problem is None or problem.needed_bytes is None else f" {size(problem.needed_bytes)}"
    if problem is not None and problem.code == "trash_full":
        return (
            f"raise trash_max_bytes of {volume.name} in coordinator.toml, so that there is room for{need or ' some'} "
            f"more; or remove on {node} by hand what a runaway has written there; it goes on by itself then"
        )
    return (
        f"on {node}: make room:{need or ' some'} free on the file system of {volume.name}; if a runaway has filled it, "
        "remove what it wrote; it goes on by itself then"
    )


def next_steps(node: NodeView, incidents: list[IncidentView]) -> list[str]:
    """The next command to type, or why there is none."""
    look = [f"closeranks incident {incidents[0].id}"] if incidents else []
    name = node.node
    short = next((one for one in node.volumes if one.problem is not None and one.problem.code in _ROOM), None)
    match node.state:
        case "suspect" if node.blocked_by == "many_suspects":
            return [*look, "closeranks incidents   (why nothing is fenced while so many differ)"]
        case "suspect":
            differing = [volume.name for volume in node.volumes if volume.differing_paths]
            volume = differing[0] if differing else node.volumes[0].name if node.volumes else "VOLUME"
            return [
                *look,
                f"closeranks diff {volume} {name}",
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
        case "resyncing" | "verifying" | "joining" if node.waiting is not None:
            return [*look, f"on {name}: put right what is said above; it goes on by itself then"]
        case "resyncing" | "verifying" | "joining":
            return [*look, f"nothing: it goes on by itself; follow it with: closeranks nodes {name}"]
        case "lagging":
            return [*look, f"wait; if it does not catch up: closeranks resync {name}"]
        case "unreachable" if node.connected:
            return [f"on {name}: mount or repair what holds the volume; it goes on by itself then"]
        case "unreachable":
            return [
                f"on {name}: is the agent running? closeranks doctor --config AGENT.TOML says what is wrong"
            ]
        case "held":
            hold = node.holds[0] if node.holds else "ID"
            return [
                *look,
                f"closeranks allow {hold}    (it is wanted; for a while this guard does not hold it again)",
                f"closeranks reject {hold}   (brings {name} back to the truth)",
            ]
        case _:
            return look


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


def _print_volume_troubles(screen: Screen, fleet: FleetView, incidents: list[IncidentView], now: int) -> None:
    for volume in fleet.volumes:
        unpinned = volume.policy == "baseline" and volume.truth_root is None  # there nobody votes
        if volume.undetermined and not unpinned:
            own = [i for i in incidents if i.volume == volume.name and i.kind == "undetermined"]
            since = f" for {age(own[0].opened_at, now)}" if own else ""
            screen.line()
            screen.line(f"volume {volume.name}  UNDETERMINED{since}", BAD)
            screen.line(
                f"  why   no entry of {plural(volume.undetermined, 'path')} is held by {volume.quorum} of "
                f"{len(volume.nodes)} nodes, so nobody is accused; a person must say what is right"
            )
            look = f"closeranks incident {own[0].id}" if own else "closeranks incidents"
            screen.line(f"  next  {look}")
            if len(volume.nodes) >= 2:
                first, second = volume.nodes[:2]
                screen.line(f"  next  closeranks diff {volume.name} {first} --against {second}")
        elif volume.truth_root is None:
            screen.line()
            screen.line(f"volume {volume.name}  NO TRUTH YET", CARE)
            screen.line(f"  why   {_no_truth(volume)}")
    for incident in incidents:
        if incident.node is None and incident.kind != "undetermined":
            screen.line()
            screen.line(f"{incident.kind}  for {age(incident.opened_at, now)}: {incident.summary}", BAD)
            screen.line(f"  next  closeranks incident {incident.id}")


def _no_truth(volume: VolumeView) -> str:
    if volume.policy == "baseline":
        return f"policy baseline and none is pinned; next: closeranks baseline pin {volume.name} NAME"
    if volume.policy in ("writers", "any-writer"):
        whose = "a writer's" if volume.policy == "writers" else "most nodes'"
        return f"the first truth is made of the writers' trees; {whose} first scan is awaited"
    return f"{volume.voters} of {len(volume.nodes)} nodes can vote; {volume.quorum} that agree make the first truth"


def _print_cares(screen: Screen, fleet: FleetView) -> None:
    """What nobody is out of rank for, and somebody should look at."""
    found = _unread(fleet)
    for volume in fleet.volumes:
        if volume.conflicts:
            open_ones = plural(volume.conflicts, "conflict")
            found.append(
                (f"{volume.name}: {open_ones} of writers open", f"closeranks conflicts {volume.name}")
            )
        found += _withheld(fleet, volume.name)
    found += _in_the_air(fleet)
    found += _unwatched(fleet)
    for text, step in found[:CARES_SHOWN]:
        screen.line()
        screen.line(text, CARE)
        screen.line(f"  next  {step}")
    if len(found) > CARES_SHOWN:
        screen.line(f"and {len(found) - CARES_SHOWN} more like these: closeranks nodes NODE")


def _in_the_air(fleet: FleetView) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for node in fleet.nodes:
        for held in node.volumes:
            if node.state == "in_rank" and held.differing_paths:
                differ = plural(held.differing_paths, "path differs", "paths differ")
                text = f"{node.node} {held.name}: {differ}, not for long enough to be judged or accepted"
                found.append((text, f"closeranks diff {held.name} {node.node}"))
    return found


def _unwatched(fleet: FleetView) -> list[tuple[str, str]]:
    """One line for all nodes that are not watched for the same reason."""
    nodes: dict[tuple[str, str], list[str]] = {}
    for node in fleet.nodes:
        for held in node.volumes:
            if held.watch == "rescan" and held.watch_detail and held.problem is None:
                nodes.setdefault((held.name, held.watch_detail), []).append(node.node)
    return [
        (
            f"{join(names, NODES_NAMED)} {volume}: not watched, only scanned: {detail}",
            f"closeranks doctor --config AGENT.TOML   (on {names[0]})",
        )
        for (volume, detail), names in nodes.items()
    ]


def _unread(fleet: FleetView) -> list[tuple[str, str]]:
    """Errors: what keeps a fleet from being proven although no node is out of rank."""
    found: list[tuple[str, str]] = []
    for node in fleet.nodes:
        for volume in node.volumes:
            errors = [one for one in volume.unreadable_paths if one.get("why") in UNREAD]
            if errors:
                first = shortened(errors[0].get("path", "?"), PATH_WIDTH)
                why = errors[0].get("detail") or errors[0]["why"]
                more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
                text = f"{node.node} {volume.name}: not known to be equal, could not be read: {first} ({why}){more}"
                step = f"closeranks nodes {node.node}   (lists them; once the cause is mended it goes on by itself)"
                found.append((text, step))
    return found


def _withheld(fleet: FleetView, volume: str) -> list[tuple[str, str]]:
    """Special bits that are not written: nobody is out of rank for them, and programs may miss them."""
    every = [(node.node, held) for node in fleet.nodes for held in node.volumes if held.name == volume]
    counts = {name: held.withheld for name, held in every if held.withheld}
    if not counts:
        return []
    first = next(iter(counts))
    where = first if len(counts) == 1 else f"{len(counts)} nodes"
    paths = plural(max(counts.values()), "path")
    text = (
        f"{volume}: set-uid, set-gid or sticky bits of {paths} are not written on {where}; special_bits = true of "
        "this volume in coordinator.toml has them written"
    )
    return [(text, f"closeranks diff {volume} {first}   (names them)")]


def _print_volumes(screen: Screen, fleet: FleetView) -> None:
    headers = ("VOLUME", "POLICY", "IN RANK", "VOTERS", "UNDETERMINED", "LAG", "FILES", "SIZE", "TRUTH")
    rows = [_volume_row(volume, _lag_s(fleet, volume)) for volume in fleet.volumes]
    screen.table(headers, rows, ("TRUTH", "FILES", "VOTERS"))


def _lag_s(fleet: FleetView, volume: VolumeView) -> float | None:
    """How far the last node is behind; None while nobody knows."""
    held = [one for node in fleet.nodes for one in node.volumes if one.name == volume.name]
    return max((one.lag_s for one in held if one.lag_s is not None), default=None)


def _volume_row(volume: VolumeView, lag_s: float | None) -> list[Cell]:
    all_in = volume.in_rank_nodes == len(volume.nodes)
    policy = volume.policy if volume.baseline is None else f"{volume.policy} ({volume.baseline})"
    return [
        Cell(volume.name),
        Cell(policy),
        Cell(f"{volume.in_rank_nodes}/{len(volume.nodes)}", GOOD if all_in else BAD, right=True),
        Cell(
            _voters(volume),
            right=True,
        ),
        Cell(str(volume.undetermined), BAD if volume.undetermined else "", right=True),
        Cell(NONE if lag_s is None else span(lag_s), CARE if lag_s else "", right=True),
        Cell(count(volume.files), right=True),
        Cell(size(volume.bytes), right=True),
        Cell(short_root(volume.truth_root), FAINT),
    ]


def _voters(volume: VolumeView) -> str:
    if volume.policy == "quorum":
        return f"{volume.voters}, quorum {volume.quorum}"
    if volume.policy == "writers":
        return plural(len(volume.writers), "writer")
    return "all write" if volume.policy == "any-writer" else str(volume.voters)


def _print_nodes(screen: Screen, fleet: FleetView, now: int) -> None:
    headers = ("NODE", "STATE", "FOR", "VOLUME", "DIFFER", "UNCONFIRMED", "LAG", "CONTACT", "ROOT")
    rows = [row for node in fleet.nodes for row in _node_rows(node, now)]
    screen.table(headers, rows, ("ROOT", "UNCONFIRMED", "FOR"))


def _node_rows(node: NodeView, now: int) -> list[list[Cell]]:
    head = [
        Cell(node.node),
        Cell(node.state, STATE_STYLES.get(node.state, "")),
        Cell(age(node.since, now), right=True),
    ]
    contact = Cell(
        "now" if node.connected else age(node.last_contact, now), "" if node.connected else BAD, right=True
    )
    rows = [
        [
            *head,
            Cell(volume.name),
            Cell(count(volume.differing_paths), BAD if volume.differing_paths else "", right=True),
            Cell(count(volume.unconfirmed_paths), CARE if volume.unconfirmed_paths else "", right=True),
            Cell(
                NONE if volume.lag_s is None else span(volume.lag_s), CARE if volume.lag_s else "", right=True
            ),
            contact,
            Cell(short_root(volume.root), FAINT),
        ]
        for volume in node.volumes
    ]
    empty = [Cell(NONE), Cell(NONE, right=True), Cell(NONE, right=True), Cell(NONE, right=True)]
    return rows or [[*head, *empty, contact, Cell(NONE)]]
