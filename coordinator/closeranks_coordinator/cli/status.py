"""`closeranks status`: who is out of rank, why, since when, and what to type next.

The verdict comes first and fits the first lines; the tables behind it are for those who want to look.
The exit code says the same: 0 only if everything that was expected was compared and equal.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable

import msgspec

from closeranks_proto.lines import shortened

from ..core.shapes import FleetView, IncidentView, NodeView, NodeVolumeView, VolumeView
from ..core.words import join
from .client import Api, NotAsked, Refused
from .headline import NODES_NAMED, all_in_rank, is_unpinned, print_headline
from .reasons import next_steps, reasons
from .screen import BAD, CARE, FAINT, GOOD, STRONG, Cell, Screen
from .session import FOUND, OK, asking, now_ms, open_api
from .words import NONE, age, allowances, count, lag, plural, short_root, size, span

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

_NO_VOTE = ("quarantined", "resyncing", "verifying", "unreachable", "joining")
FETCHING = ("joining", "lagging", "resyncing")
CARES_SHOWN = 5
VOLUMES_NAMED = 5
OUTSIDERS_SHOWN = 20
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
        open_incidents = _open_incidents(api, screen)
        print_headline(screen, fleet, open_incidents)
        _print_outsiders(screen, fleet, open_incidents, now)
        _print_volume_troubles(screen, fleet, open_incidents, now)
        _print_cares(screen, fleet)
        _print_also_open(screen, fleet, open_incidents)
        if fleet.allowed:
            screen.folded(allowances(fleet.allowed), CARE)
        screen.line()
        _print_volumes(screen, fleet)
        screen.line()
        _print_nodes(screen, fleet, now)
    return OK if all_in_rank(fleet) else FOUND


def _open_incidents(api: Api, screen: Screen) -> list[IncidentView]:
    """Their summaries say why. A fleet view without them is still worth showing."""
    try:
        pages = api.pages("/api/v1/incidents", {"state": "open"}, IncidentPage)
        return [one for page in pages for one in page.items]
    except (NotAsked, Refused) as error:
        screen.say(f"warning: the incidents could not be read: {error}")
        return []


def _print_outsiders(screen: Screen, fleet: FleetView, incidents: list[IncidentView], now: int) -> None:
    outside = [node for node in fleet.nodes if node.state != "in_rank"]
    outside.sort(key=lambda node: (_URGENCY.index(node.state), node.node))
    for node, reasons_of, steps, alike in _alike(fleet, outside[:OUTSIDERS_SHOWN], incidents, now):
        since = f" for {age(node.since, now)}" if node.since else ""
        head = f"{node.node}  {node.state.upper()}{since}"
        if alike:
            head += f", and {plural(len(alike), 'more node')} for the same reason: {join(alike, NODES_NAMED)}"
        screen.line()
        screen.folded(head, STATE_STYLES.get(node.state, STRONG))
        for reason in reasons_of:
            screen.folded(f"  why   {reason}")
        for step in steps:
            screen.folded(f"  next  {step}")
    if len(outside) > OUTSIDERS_SHOWN:
        screen.folded(f"and {len(outside) - OUTSIDERS_SHOWN} more: see the table below")


def _alike(
    fleet: FleetView, outside: list[NodeView], incidents: list[IncidentView], now: int
) -> list[tuple[NodeView, list[str], list[str], list[str]]]:
    """(node, its reasons, its next steps, names of others of which the very same is to be said), in order."""
    groups: dict[tuple[str, ...], tuple[NodeView, list[str], list[str], list[str]]] = {}
    for node in outside:
        own = [one for one in incidents if one.node == node.node and one.kind not in NO_REASON]
        why, steps = reasons(node, own, now), next_steps(node, own)
        limit = fleet.limits.get(node.node) if node.state in FETCHING else None
        if limit is not None:
            why.append(f"it fetches {limit}; see: closeranks speed")
        key = (node.state, *(text.replace(node.node, "") for text in (*why, "", *steps)))
        if key in groups:
            groups[key][3].append(node.node)
        else:
            groups[key] = (node, why, steps, [])
    return list(groups.values())


def _print_volume_troubles(screen: Screen, fleet: FleetView, incidents: list[IncidentView], now: int) -> None:
    for volume in fleet.volumes:
        if volume.undetermined and not is_unpinned(volume):
            own = [i for i in incidents if i.volume == volume.name and i.kind == "undetermined"]
            since = f" for {age(own[0].opened_at, now)}" if own else ""
            screen.line()
            screen.folded(f"volume {volume.name}  UNDETERMINED{since}", BAD)
            screen.folded(
                f"  why   no entry of {plural(volume.undetermined, 'path')} is held by {volume.quorum} of "
                f"{len(volume.nodes)} nodes, so nobody is accused; a person must say what is right"
            )
            look = f"closeranks incident {own[0].id}" if own else "closeranks incidents"
            screen.folded(f"  next  {look}")
            sides = _sides(fleet, volume, own)
            if sides is not None:
                first, second = sides
                screen.folded(f"  next  closeranks diff {volume.name} {first} --against {second}")
        elif volume.truth_root is None:
            screen.line()
            screen.folded(f"volume {volume.name}  NO TRUTH YET", CARE)
            screen.folded(f"  why   {_no_truth(volume)}")
    for incident in incidents:
        if incident.node is None and incident.kind != "undetermined":
            screen.line()
            screen.folded(f"{incident.kind}  for {age(incident.opened_at, now)}: {incident.summary}", BAD)
            screen.folded(f"  next  closeranks incident {incident.id}")


def _sides(fleet: FleetView, volume: VolumeView, undetermined: list[IncidentView]) -> tuple[str, str] | None:
    """Two nodes to compare: in service, connected, with different trees; of two sides of the incident if possible."""
    roots = {
        node.node: held.root
        for node in fleet.nodes
        for held in node.volumes
        if held.name == volume.name and held.root and node.connected and node.state not in _NO_VOTE
    }
    told = undetermined[0].evidence.get("sides") if undetermined else None
    for names in (told if isinstance(told, list) else [], volume.nodes):
        present = [name for name in names if name in roots]
        other = next((name for name in present if roots[name] != roots[present[0]]), None)
        if other is not None:
            return present[0], other
    return None


def _no_truth(volume: VolumeView) -> str:
    if volume.policy == "baseline":
        return f"policy baseline and none is pinned; next: closeranks baseline pin {volume.name} NAME"
    if volume.policy in ("writers", "any-writer"):
        whose = "a writer's" if volume.policy == "writers" else "most nodes'"
        return (
            f"the first truth is made of the writers' trees; {whose} first scan is awaited "
            "(empty trees make none while a writer was not heard)"
        )
    return f"{volume.voters} of {len(volume.nodes)} nodes can vote; {volume.quorum} that agree make the first truth"


def _print_cares(screen: Screen, fleet: FleetView) -> None:
    """What nobody is out of rank for, and somebody should look at."""
    found = [*_uncompared(fleet), *_unread(fleet)]
    for volume in fleet.volumes:
        if volume.conflicts:
            open_ones = plural(volume.conflicts, "conflict")
            found.append(
                (f"{volume.name}: {open_ones} of writers open", f"closeranks conflicts {volume.name}")
            )
        found += _withheld(fleet, volume.name)
    found += [(care.text, care.next) for node in fleet.nodes for care in node.cares]
    found += _in_the_air(fleet)
    found += _unwatched(fleet)
    found += _stormy(fleet)
    for text, step in found[:CARES_SHOWN]:
        screen.line()
        screen.folded(text, CARE)
        screen.folded(f"  next  {step}")
    if len(found) > CARES_SHOWN:
        screen.folded(f"and {len(found) - CARES_SHOWN} more like these: closeranks nodes NODE")


def _print_also_open(screen: Screen, fleet: FleetView, incidents: list[IncidentView]) -> None:
    """What nothing above has told of: of nodes in rank, or of none that is left."""
    outside = {node.node for node in fleet.nodes if node.state != "in_rank"}
    unclear = {volume.name for volume in fleet.volumes if volume.undetermined or volume.truth_root is None}
    conflicting = {volume.name for volume in fleet.volumes if volume.conflicts}
    told = {
        "undetermined": unclear,
        "conflict": conflicting,
    }
    kinds = Counter(
        one.kind
        for one in incidents
        if (one.volume not in told[one.kind] if one.kind in told else one.node not in (None, *outside))
    )
    if kinds:
        names = join(
            [kind if times == 1 else f"{kind} ({times})" for kind, times in kinds.items()], len(kinds)
        )
        screen.line()
        screen.folded(f"also open: {plural(kinds.total(), 'incident')}: {names}", CARE)
        screen.folded("  next  closeranks incidents --open")


def _in_the_air(fleet: FleetView) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for node in fleet.nodes:
        for held in node.volumes:
            if node.state != "in_rank" or not held.differing_paths:
                continue
            if held.rest_s is not None:
                found.append(
                    (_burst(node, held, held.rest_s), "nothing to do; a runaway would be held, and you asked")
                )
                continue
            differ = plural(held.differing_paths, "path differs", "paths differ")
            text = f"{node.node} {held.name}: {differ}, not for long enough to be judged or accepted"
            found.append((text, f"closeranks diff {held.name} {node.node}"))
    return found


def _burst(node: NodeView, held: NodeVolumeView, rest_s: float) -> str:
    changed = plural(held.differing_paths or 0, "path")
    return (
        f"{node.node} {held.name}: a burst of {changed} is being watched before it spreads; it spreads as soon as "
        f"{node.node} pauses (for {span(rest_s)} at most)"
    )


def _uncompared(fleet: FleetView) -> list[tuple[str, str]]:
    """Nodes in rank of which a tree is not known as it is now: why, and what ends that."""
    found: list[tuple[str, str]] = []
    for node in fleet.nodes:
        names = [held.name for held in node.volumes if not held.compared]
        if not names or node.state != "in_rank":
            continue
        head = f"{node.node} {join(names, VOLUMES_NAMED)}: not compared"
        if not node.connected:
            step = f"wait a moment; if it stays away, on {node.node}: is the agent running?"
            found.append((f"{head}: its agent is not connected at the moment", step))
        elif node.waiting is not None:
            first = names[0]
            step = f"or, if {node.node} shall not have it: leave it out of `nodes` of {first} in coordinator.toml"
            found.append((f"{head}: {node.waiting}", step))
        else:
            text = f"{head}: not read since it connected, or not for too long"
            found.append(
                (text, f"wait for its scan; closeranks nodes {node.node}   (says when it last ended)")
            )
    return found


def _unwatched(fleet: FleetView) -> list[tuple[str, str]]:
    """One line for all nodes that are not watched for the same reason."""
    return [
        (
            f"{join(names, NODES_NAMED)} {volume}: not watched, only scanned: {detail}",
            f"closeranks doctor --config AGENT.TOML   (on {names[0]})",
        )
        for (volume, detail), names in _watched_less(fleet, lambda held: held.watch == "rescan").items()
    ]


def _stormy(fleet: FleetView) -> list[tuple[str, str]]:
    """One line for all nodes of a volume whose watcher tells less than it could, as they say it: storms, hushes."""
    return [
        (
            f"{join(names, NODES_NAMED)} {volume}: {detail}",
            f"closeranks nodes {names[0]}   (says when it is over)",
        )
        for (volume, detail), names in _watched_less(
            fleet, lambda held: held.storm or held.watch == "fanotify"
        ).items()
    ]


def _watched_less(
    fleet: FleetView, which: Callable[[NodeVolumeView], bool]
) -> dict[tuple[str, str], list[str]]:
    """Nodes with such volumes that say why they are not watched better, by volume and what they say."""
    nodes: dict[tuple[str, str], list[str]] = {}
    for node in fleet.nodes:
        for held in node.volumes:
            if which(held) and held.watch_detail and held.problem is None:
                nodes.setdefault((held.name, held.watch_detail), []).append(node.node)
    return nodes


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
    rows = [_volume_row(volume, *_lag(fleet, volume)) for volume in fleet.volumes]
    screen.table(headers, rows, ("TRUTH", "FILES", "VOTERS"))


def _lag(fleet: FleetView, volume: VolumeView) -> tuple[float | None, bool]:
    """How far the last node is behind, None while nobody knows; and whether that is the least that it is."""
    held = [one for node in fleet.nodes for one in node.volumes if one.name == volume.name]
    lag_s = max((one.lag_s for one in held if one.lag_s is not None), default=None)
    return lag_s, any(one.lag_at_least for one in held)


def _volume_row(volume: VolumeView, lag_s: float | None, at_least: bool) -> list[Cell]:
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
        Cell(lag(lag_s, at_least), CARE if lag_s else "", right=True),
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
            Cell(lag(volume.lag_s, volume.lag_at_least), CARE if volume.lag_s else "", right=True),
            contact,
            Cell(short_root(volume.root), FAINT),
        ]
        for volume in node.volumes
    ]
    empty = [Cell(NONE), Cell(NONE, right=True), Cell(NONE, right=True), Cell(NONE, right=True)]
    return rows or [[*head, *empty, contact, Cell(NONE)]]
