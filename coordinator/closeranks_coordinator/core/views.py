"""What people and programs see of the core: the API's answers, made from the records."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Literal

from closeranks_proto.lines import timestamp
from closeranks_proto.messages import PlanStep, Unreadable
from closeranks_proto.paths import escape, path_of

from . import cares, kept, pushing, remarks, scrubbing, unclear
from .nodes import Node, View, Volume
from .records import ActionRecord, BaselineRecord, NodeVolume
from .shapes import (
    ActionView,
    BaselineView,
    CoverageView,
    DiskView,
    FleetView,
    NodeView,
    NodeVolumeView,
    ProblemView,
    QuarantineView,
    VolumeView,
)
from .sizes import differing_bytes
from .states import State
from .world import World

UNREADABLE_SHOWN = 20
BURST_REST_S = 1.0  # no burst is spread after less of a rest, unless it has been watched for long enough
UNREAD = ("unreadable", "too_large")


def fleet_view(world: World) -> FleetView:
    down = out_of_service(world)
    nodes = tuple(node_view(world, node, lambda: down) for node in world.nodes.values())
    volumes = tuple(volume_view(world, volume) for volume in world.volumes.values())
    compared = sum(
        all(world.compared(node, volume) for volume in world.volumes_of(node))
        for node in world.nodes.values()
    )
    in_rank = (
        compared == len(nodes)
        and all(node.state == "in_rank" for node in nodes)
        and not any(volume.undetermined for volume in volumes)
        and all(volume.truth_root is not None for volume in volumes)
        and not any(_unread(node) for node in world.nodes.values())
    )
    return FleetView(in_rank, CoverageView(compared, len(nodes)), volumes, nodes)


def _unread(node: Node) -> bool:
    """Whether files of this node could not be read: an error is not a pass."""
    statuses = [stored.status for stored in node.record.volumes.values()]
    return any(one.why in UNREAD for status in statuses if status is not None for one in status.unreadable)


def state_of(world: World, node: Node) -> State:
    return "unreachable" if world.unreachable(node) else node.record.phase


def node_view(world: World, node: Node, down: Callable[[], frozenset[str]] | None = None) -> NodeView:
    """`down`: who is out of service, of a caller who asks for many nodes and finds that out once."""
    record = node.record
    state = state_of(world, node)
    since: int | None = record.since_ms
    if state == "unreachable":
        gone = world.now.mono if node.unreachable_since is None else node.unreachable_since
        since = world.now.wall_ms - int((world.now.mono - gone) * 1000)
    return NodeView(
        node.name, state, _time(since), _time(record.last_contact_ms), node.session is not None,
        record.address or None, node.blocked_by if record.phase == "suspect" else None,
        tuple(_node_volume(world, node, volume) for volume in world.volumes_of(node)),
        tuple(
            DiskView(
                name, status.disk_total_bytes, status.disk_free_bytes, cares.trash_bytes(world, node, name)
            )
            for name, stored in sorted(record.volumes.items())
            if (status := stored.status) is not None and status.disk_total_bytes
        ),
        _quarantine(world, node),
        tuple(hand.view() for hand in node.writing.top(world.now.mono)),
        tuple(hold.id for hold in world.live_holds if hold.node == node.name and hold.state == "held"),
        _waiting(world, node),
        _is_in_service(world, node, down),
        _wants_room(world, node),
        (*cares.disks(world, node), *cares.roads(world, node)),
    )  # fmt: skip


def _wants_room(world: World, node: Node) -> bool:
    held = [hold for hold in world.live_holds if hold.node == node.name and hold.state == "held"]
    return bool(held) and all(kept.wants_room(world, hold) for hold in held)


def _waiting(world: World, node: Node) -> str | None:
    """What keeps this node from going on until somebody puts it right."""
    if node.session is None:
        return None
    missing = [volume.name for volume in world.volumes_of(node) if _is_missing(node, volume)]
    if missing:
        names = f"volume {missing[0]}" if len(missing) == 1 else f"volumes {', '.join(missing)}"
        it = "it" if len(missing) == 1 else "them"
        return f"{node.name} has no {names}: add {it} to its agent.toml and reload its agent (SIGHUP)"
    if node.recovery is None or node.record.recovery is None:
        return next(
            (text for one in world.volumes_of(node) if (text := pushing.trouble(world, one, node))), None
        )
    for name in node.record.recovery.volumes:
        problem = _problem(node, name, node.volume(name))
        if problem is not None:
            return f"{name}: {problem.message}"
    return node.recovery.noted or None


def _is_missing(node: Node, volume: Volume) -> bool:
    """Whether its agent has said that it does not have this volume."""
    return node.offers is not None and volume.name not in node.offers


def _quarantine(world: World, node: Node) -> QuarantineView | None:
    fence = node.record.fence
    if fence is None:
        return None
    return QuarantineView(
        fence.reason, _time(fence.since_ms), fence.token, fence.incident, fence.by_hand, fence.verified,
        fence.release, fence.acknowledged, remarks.of_fence(world, node),
    )  # fmt: skip


def _node_volume(world: World, node: Node, volume: Volume) -> NodeVolumeView:
    name = volume.name
    stored, view = node.volume(name), node.view(name)
    status, known = stored.status, view.analysis is not None
    unreadable = status.unreadable if status is not None else ()
    scrub = scrubbing.volume_view(stored)
    summary = None if stored.root is None else world.tree.summary(stored.root)
    return NodeVolumeView(
        name=name,
        root=None if stored.root is None else stored.root.hex(),
        differing_paths=view.differing if known else None,
        unconfirmed_paths=view.unconfirmed if known else None,
        differing_bytes=differing_bytes(world, volume, view),
        lagging_paths=view.behind if known else None,
        lag_s=_lag_s(world, view),
        files=None if summary is None else summary.files,
        bytes=None if summary is None else summary.bytes,
        last_full_scan=_time(stored.last_scan_ms),
        problem=_problem(node, name, stored),
        unreadable=None if status is None else status.unreadable_count,
        unreadable_paths=tuple(_unreadable(one) for one in unreadable[:UNREADABLE_SHOWN]),
        withheld=_withheld(stored, view),
        progress=_progress(node, name),
        watch="" if status is None else status.watch,
        watch_detail="" if status is None else status.watch_detail,
        storm=status is not None and status.storm,
        watch_dropped=0 if status is None else status.watch_dropped,
        hard_links=0 if status is None else status.hard_links,
        last_scrub=None if scrub is None else scrub.ended,
        scrub=scrub,
        last_audit=_time(node.proven_ms.get(name)),
        compared=world.compared(node, volume) and not _is_missing(node, volume),
        rest_s=_rest_s(world, volume, node),
        lag_at_least=view.lag_at_least and view.analysis is not None,
    )


def _rest_s(world: World, volume: Volume, node: Node) -> float | None:
    """After how long a rest at most a burst of this writer is spread; None while no burst of its is watched."""
    meter, rules = world.brake.meters.get((node.name, volume.name)), volume.config.guards
    if meter is None or not meter.pending or not rules.enabled or not volume.config.replicated:
        return None
    return max(BURST_REST_S, rules.observe_s * (1 << meter.run.credits))


def _lag_s(world: World, view: View) -> float | None:
    if view.analysis is None:
        return None
    return 0.0 if view.lag_since is None else round(world.now.mono - view.lag_since, 3)


def _problem(node: Node, volume: str, stored: NodeVolume) -> ProblemView | None:
    """What the node reports; else what its last converge could not get over, or the last push to it."""
    found = None if stored.status is None else stored.status.problem
    if found is None and node.recovery is not None:
        found = node.recovery.problem.get(volume)
    since_ms, view = stored.problem_since_ms, node.view(volume)
    if found is None and view.behind:
        found, since_ms = view.pushing.problem, view.pushing.problem_since_ms
    if found is None:
        return None
    return ProblemView(found.code, found.message, _time(since_ms), found.needed_bytes, found.free_bytes)


def _progress(node: Node, volume: str) -> dict[str, int | str] | None:
    work = node.recovery
    if work is None or node.record.recovery is None or volume not in node.record.recovery.volumes:
        return None
    found = work.progress.get(volume)
    shown: dict[str, int | str] = {
        "action": node.record.recovery.action,
        "phase": work.stage if found is None else found.phase,
        "bytes_moved": work.bytes_before + (0 if found is None else found.bytes_moved),
    }
    if found is not None:
        shown |= {
            "steps_done": found.steps_done, "steps_total": found.steps_total, "bytes_remaining": found.bytes_remaining
        }  # fmt: skip
    return shown


def _withheld(stored: NodeVolume, view: View) -> int:
    """Paths that differ from the truth in nothing but special bits that this node may not write."""
    analysis = view.analysis
    return len(stored.withheld) if analysis is None else len(analysis.raw) - len(analysis.differing)


def _unreadable(one: Unreadable) -> dict[str, str]:
    return {**named_path(one.key), "why": one.why, "detail": one.detail}


def named_path(key: bytes) -> dict[str, str]:
    """A path as every answer gives it: escaped for people, base64 for programs."""
    path = path_of(key)
    return {"path": escape(path), "path_b64": base64.b64encode(path).decode()}


def volume_view(world: World, volume: Volume) -> VolumeView:
    record, config, truth = volume.record, volume.config, volume.truth
    summary = None if truth is None else world.tree.summary(truth)
    ranked = sum(
        state_of(world, node) == "in_rank"
        and node.volume(volume.name).root is not None
        and not _is_missing(node, volume)
        for node in world.members(volume)
    )
    return VolumeView(
        volume.name, config.policy, None if truth is None else truth.hex(), ranked,
        unclear.shown_count(world, volume), config.nodes, volume.need, len(volume.voters),
        None if summary is None else summary.files, None if summary is None else summary.bytes,
        record.pinned, config.on_divergence, config.writers, sum(name == volume.name for name, _ in world.kept),
    )  # fmt: skip


def action_view(world: World, action: str) -> ActionView | None:
    found = world.actions.get(action)
    return None if found is None else action_of(found)


def action_of(action: ActionRecord) -> ActionView:
    plan = None if action.plan is None else tuple(_plan_step(step) for step in action.plan)
    return ActionView(
        action.id, action.kind, action.node, action.volume, action.state, action.error, action.bytes_moved,
        action.dry_run, plan, action.plan_steps, action.plan_bytes,
    )  # fmt: skip


def _plan_step(step: PlanStep) -> dict[str, str | int]:
    return {
        "verb": step.verb, **named_path(step.key), "fetch_bytes": step.fetch_bytes, "chunks": step.chunks,
        "note": step.note,
    }  # fmt: skip


def baseline_view(world: World, baseline: BaselineRecord) -> BaselineView:
    pinned = any(volume.record.pinned == baseline.name for volume in world.volumes.values())
    return BaselineView(
        baseline.name, baseline.volume, baseline.root.hex(), timestamp(baseline.created_ms), baseline.source,
        baseline.files, baseline.size_bytes, pinned,
    )  # fmt: skip


def lb_status(world: World, name: str) -> Literal[200, 503] | None:
    """What a load balancer is told (RULES §2); None for a node that does not exist."""
    if name not in world.nodes:
        return None
    return 200 if _is_in_service(world, world.nodes[name]) else 503


def _is_in_service(world: World, node: Node, down: Callable[[], frozenset[str]] | None = None) -> bool:
    """As `name not in out_of_service(world)`; the others are only looked at where this one would not serve."""
    return not node.fenced and (
        _serves(world, node) or node.name not in (out_of_service(world) if down is None else down())
    )


def out_of_service(world: World) -> frozenset[str]:
    """Who is out of service: if that would be more than half of all, only who is fenced."""
    down = frozenset(node.name for node in world.nodes.values() if not _serves(world, node))
    if 2 * len(down) > len(world.nodes):
        return frozenset(name for name in down if world.nodes[name].fenced)
    return down


def _serves(world: World, node: Node) -> bool:
    record = node.record
    if record.fence is not None or record.phase in ("joining", "verifying"):
        return False
    if record.phase == "resyncing" and record.recovery is not None and record.recovery.purpose == "join":
        return False
    gone = node.unreachable_since
    if gone is not None and world.now.mono - gone > world.config.lb_unreachable_grace_s:
        return False
    if record.phase not in ("lagging", "resyncing"):
        return True
    lags = [view.lag_since for view in node.views.values() if view.lag_since is not None]
    return not lags or world.now.mono - min(lags) <= world.config.lb_max_lag_s


def _time(unix_ms: int | None) -> str | None:
    return None if unix_ms is None or not unix_ms else timestamp(unix_ms)
