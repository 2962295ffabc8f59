"""What agents tell: that they are there, where their trees stand, what they scanned, how they are.

Each arrival changes the world and nothing else; what follows from it is `fleet`'s to run. Arrivals of
nodes or volumes that the configuration does not know (any more) are passed over.
"""

from __future__ import annotations

import msgspec

from closeranks_proto import messages as wire
from closeranks_proto.limits import GONE_GRACE_S

from . import answers, auditing, decay, fencing, guards, hands, incidents, pushing, scrubbing
from .model import Connected, Disconnected, FromAgent, RootStored, Scanned, Watched
from .nodes import Node, View, Volume
from .records import NodeVolume
from .truth import Values
from .words import plural
from .world import UNTRUSTED, World


def connected(world: World, event: Connected) -> None:
    node = world.nodes.get(event.node)
    if node is None:
        return  # retired while it dialled
    record = node.record
    node.session, node.connected_at = event.session, world.now.mono
    node.unheard = frozenset(event.unheard)
    node.scanned, node.watched, node.asked = {}, {}, {}
    node.offers = event.volumes
    for stored in record.volumes.values():
        stored.agent_id = stored.agent_id or record.agent_id  # earlier versions kept nobody's with a root
    pushing.forget(node)
    record.agent_id, record.address = event.agent_id, event.address
    record.last_contact_ms = world.now.wall_ms
    for volume in world.volumes_of(node):
        if volume.name not in event.volumes:
            world.log("warning", f"{node.name} has no volume {volume.name}: add it to its agent.toml")
    fencing.reconcile(world, node, event.fence, event.highest_token)
    guards.connected(world, node)
    if node.recovery is not None:
        node.recovery.asked, node.recovery.not_before = None, 0.0
    world.untold[node.name] = None
    world.touch_node(node)


def disconnected(world: World, event: Disconnected) -> None:
    node = world.nodes.get(event.node)
    if node is None or node.session != event.session:
        return
    node.session = None
    node.gone_at, node.grace_s = world.now.mono, GONE_GRACE_S
    node.scanned, node.watched, node.asked = {}, {}, {}
    pushing.forget(node)
    if node.recovery is not None:
        node.recovery.asked, node.recovery.progress, node.recovery.interrupted = None, {}, True
    for action in world.actions.values():
        if action.dry_run and action.node == node.name and action.state == "running":
            action.state, action.error = "failed", f"{node.name} disconnected before it answered"
            world.touch_action(action)
    world.touch_node(node)  # when it was last heard of must outlive the coordinator


def root_stored(world: World, event: RootStored) -> None:
    """A root that is known already is no news: a session begins with the last one that is stored."""
    node = _assigned(world, event.node, event.volume)
    if node is None:
        return
    node.record.last_contact_ms = world.now.wall_ms
    if event.heard:
        node.unheard -= {event.volume}
    stored = node.volume(event.volume)
    before, teller = stored.root, stored.agent_id
    if teller != node.record.agent_id:
        stored.agent_id = node.record.agent_id
        world.touch_node(node)
    if before == event.root:
        return
    stored.root = event.root
    another = before is not None and (
        teller not in ("", node.record.agent_id) or event.cause == wire.MADE_ANEW
    )
    if another or event.cause == wire.PUT_BACK:
        _look_for_rebuilt(world, node, event, before)
    hands.note(world, node, event)
    view = node.view(event.volume)
    stored.anew = stored.anew or before is None or another or event.cause == wire.PUT_BACK
    if event.cause == wire.PUT_BACK:
        stored.before = None  # it joins, however little it lacks
    view.by_another = view.by_another or (another and world.volumes[event.volume].config.replicated)
    ours = event.cause in ("converge", "push")
    view.by_us = ours
    view.is_commit = event.base is not None and event.base == before
    decay.follow(world, node, event, before, view.is_commit)
    view.brought = frozenset(event.brought)
    if stored.before is not None:
        _hold_what_we_brought(world, stored, event, before if view.is_commit else None)
    if view.is_commit and event.edits is not None:
        _learn_step(world, view, event)
    if ours:
        pushing.arrived(node, event.volume, world.now.mono)
    node.observed.setdefault(event.volume, event.observed_mono)
    world.touch_node(node)
    world.count("closeranks_commits_total", 1, node=node.name, volume=event.volume)


def _look_for_rebuilt(world: World, node: Node, event: RootStored, before: bytes | None) -> None:
    """A machine that was built anew joins, and has deleted nothing.

    It is told by the first root that another agent tells than told the one before, or the same one when its index is
    new. That somebody dialled with this name in between says nothing: whoever goes on from its own root has its
    changes. Only where it lacks more than half of the truth, and of what itself had `before`: who lost nothing but its
    agent's state, or says once more that its index is new since nobody told it that this was heard, may have changes of
    its own, which must not be set aside.
    A machine that was put back to an earlier state with its agent knows of none: all that it has is of then.
    """
    volume = world.volumes[event.volume]
    stored = node.volume(event.volume)
    if not volume.config.replicated or volume.truth is None or stored.held is None:
        return
    if node.fenced or world.is_held(node, volume):
        return
    differing = world.differ.diff(event.root, volume.truth)
    lacking = sum(ours is None for ours, _ in differing.values())
    if event.cause != wire.PUT_BACK and before is not None:
        gone = sum(ours is None for ours, _ in world.differ.diff(event.root, before).values())
        if (
            2 * lacking <= world.tree.summary(volume.truth).entries
            or 2 * gone <= world.tree.summary(before).entries
        ):
            return
    stored.held, stored.withheld = None, ()
    node.views[event.volume] = View(seen=node.view(event.volume).seen)
    what = "what its agent knew is gone, and most of the tree"
    if event.cause == wire.PUT_BACK:
        what = "its machine was put back to an earlier state"
        if differing:
            _tell_put_back(world, node, volume, len(differing), len(differing) - lacking)
    fencing.drop_recovery(world, node, what)  # of one who was late
    world.log("info", f"{node.name}, {event.volume}: {what}: it joins anew")


def _hold_what_we_brought(world: World, stored: NodeVolume, event: RootStored, base: bytes | None) -> None:
    """Of a truth that is to be followed by another one: what is told late is none of the node's own changes."""
    assert stored.before is not None, "it held something"
    keys = set(event.brought)
    if base is not None and event.cause in ("converge", "push"):
        keys.update(world.differ.diff(event.root, base))
    if keys:
        brought = world.tree.lookup_many(event.root, keys)
        edited = world.tree.edit(stored.before, [(key, brought.get(key)) for key in sorted(keys)])
        world.keep(edited.pages)
        stored.before = edited.root


def _tell_put_back(world: World, node: Node, volume: Volume, differing: int, held: int) -> None:
    """What is set aside may hold a change that reached nobody: a person must know where it is."""
    incident = world.open_incident("put_back", node.name, None)
    if incident is None:
        incident = incidents.put_back(id=world.next_incident(), node=node.name, now_ms=world.now.wall_ms)
        world.open(incident)
    text = (
        f"Volume {volume.name}: {node.name} differs from the others in {plural(differing, 'path')}; "
        f"what it has in {held} of them goes to its trash."
    )
    incident.note(world.now.wall_ms, "note", text)
    world.touch_incident(incident)


def _learn_step(world: World, view: View, event: RootStored) -> None:
    """What a proven commit changed need not be looked for in the trees."""
    analysis = view.analysis
    if analysis is None or analysis.root != event.base or event.edits is None:
        return
    raw = analysis.raw
    alike = world.tree.lookup_many(analysis.truth, [key for key, _ in event.edits if key not in raw])
    step: dict[bytes, Values] = {}
    for key, after in event.edits:
        before = raw[key][0] if key in raw else alike.get(key)
        if before != after:
            step[key] = (before, after)
    world.differ.learn(analysis.root, event.root, step)


def scanned(world: World, event: Scanned) -> None:
    """A scan counts for the settings that were in force when its session began."""
    node = _assigned(world, event.node, event.volume)
    if node is None or node.session is None:
        return
    node.record.last_contact_ms = world.now.wall_ms
    stored, settings = node.volume(event.volume), world.volumes[event.volume].settings
    if stored.settings != settings:
        if stored.settings and event.started_mono < node.connected_at:
            return
        stored.settings = settings
        world.touch_node(node)
    before = node.scanned.get(event.volume, event.started_mono)
    node.scanned[event.volume] = max(before, event.started_mono)
    stored.last_scan_ms = world.now.wall_ms


def watched(world: World, event: Watched) -> None:
    """A watcher's proof: the node's root is as of then."""
    node = _assigned(world, event.node, event.volume)
    if node is None or node.session is None:
        return
    node.record.last_contact_ms = world.now.wall_ms
    before = node.watched.get(event.volume, event.seen_mono)
    node.watched[event.volume] = max(before, event.seen_mono)


def from_agent(world: World, event: FromAgent) -> None:
    node = world.nodes.get(event.node)
    if node is None:
        return
    node.record.last_contact_ms = world.now.wall_ms
    match event.message:
        case wire.VolumeStatus():
            _status(world, node, event.message)
        case wire.FenceAnswer():
            _fence_answered(world, node, event.message)
        case wire.ConvergeProgress():
            answers.progressed(world, node, event.message)
        case wire.ConvergeResult():
            answers.converged(world, node, event.message)
        case wire.VerifyResult():
            answers.verified(world, node, event.message)
        case wire.PushResult():
            pushing.answered(world, node, event.message)
            guards.pushed(world, node, event.message)
        case wire.Activity():
            hands.active(world, node, event.message)
            guards.active(world, node, event.message)
        case wire.HoldAnswer():
            guards.answered(world, node, event.message)
        case wire.AuditAnswer():
            auditing.answered(world, node, event.message)


def _assigned(world: World, name: str, volume: str) -> Node | None:
    """The node, if this volume is one of its volumes."""
    if volume not in world.volumes or name not in world.volumes[volume].config.nodes:
        return None
    return world.nodes.get(name)


# --- status ---------------------------------------------------------------------------------------


def _status(world: World, node: Node, status: wire.VolumeStatus) -> None:
    if _assigned(world, node.name, status.volume) is None:
        return
    stored = node.volume(status.volume)
    before = stored.status
    stored.status, stored.status_ms = status, world.now.wall_ms
    old = None if before is None else before.problem
    if (None if old is None else old.code) != (None if status.problem is None else status.problem.code):
        _problem_changed(world, node, status)
    if before is None or _lasting(before) != _lasting(status):
        world.publish("node", node.name)


def _lasting(status: wire.VolumeStatus) -> wire.VolumeStatus:
    """Without what changes with every breath."""
    return msgspec.structs.replace(
        status, disk_free_bytes=0, scan_duration_ms=None, scrub=scrubbing.lasting(status.scrub)
    )


def _problem_changed(world: World, node: Node, status: wire.VolumeStatus) -> None:
    stored, problem = node.volume(status.volume), status.problem
    stored.problem_since_ms = None if problem is None else world.now.wall_ms
    world.touch_node(node)
    if problem is None:
        if node.recovery is not None:
            node.recovery.not_before = 0.0  # what held it up is gone
            node.recovery.problem.pop(status.volume, None)
        return
    if problem.code in UNTRUSTED:
        node.scanned.pop(status.volume, None)  # what it scanned before says nothing about what is there later
    world.log("warning", f"{node.name}, {status.volume}: {problem.message}")
    for incident in world.diverged(node, status.volume):
        incident.note(world.now.wall_ms, "note", problem.message)
        world.touch_incident(incident)


def _fence_answered(world: World, node: Node, answer: wire.FenceAnswer) -> None:
    record = node.record
    fence = record.fence
    if answer.fenced and fence is not None and answer.token == fence.token:
        fence.acknowledged = True
        incident = world.incidents.get(fence.incident or "")
    elif not answer.fenced and record.unfence == answer.token:
        record.unfence = None
        incident = None
    else:
        return
    world.touch_node(node)
    if answer.hook:
        world.log("info" if answer.hook_ok else "warning", f"{node.name}: {answer.hook}")
    if answer.hook and incident is not None:
        incident.note(world.now.wall_ms, "note", f"{node.name}: {answer.hook}.")
        world.touch_incident(incident)
