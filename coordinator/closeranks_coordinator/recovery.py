"""A node's way back to the truth: converge, verify, and proof before release.

One driver for all three purposes. A *divergence* recovery works behind the fence and ends with a release
only when the node was re-read, equals the truth and stayed so for `settle_s` with a scan of its own in
between. *Lag* and *join* need no fence. A round that could not finish is repeated, with backoff, for as
long as somebody goes on writing; each round plans against the truth as it then is.
"""

from __future__ import annotations

from closeranks_proto import messages as wire

from .fencing import unfence
from .incidents import EventName
from .records import ActionRecord, NodeVolume, Purpose, RecoveryRecord
from .words import human_bytes, plural
from .world import Node, Recovery, Volume, World

RETRY_MIN_S = 0.5
RETRY_MAX_S = 10.0
NO_SOURCE_RETRY_S = 2.0


def start_due(world: World) -> None:
    """Begin what is due: fenced nodes that may be repaired, nodes behind for longer than their grace."""
    for node in world.nodes.values():
        if node.session is None or node.record.recovery is not None:
            continue
        fence = node.record.fence
        if fence is not None:
            if not fence.by_hand and not fence.verified and _repairs(world, node):
                begin(world, node, "divergence", [volume.config.name for volume in world.volumes_of(node)])
            continue
        behind = [volume for volume in world.volumes_of(node) if _is_due(world, node, volume)]
        if behind and node.record.phase in ("lagging", "joining"):
            purpose: Purpose = "join" if node.record.phase == "joining" else "lag"
            begin(world, node, purpose, [volume.config.name for volume in behind])


def _repairs(world: World, node: Node) -> bool:
    """Whether the volume that had this node fenced is one that is resynced automatically."""
    fence = node.record.fence
    incident = None if fence is None else world.incidents.get(fence.incident or "")
    volume = None if incident is None else world.volumes.get(incident.volume or "")
    return volume is not None and volume.config.on_divergence == "resync"


def _is_due(world: World, node: Node, volume: Volume) -> bool:
    """Whether a lagging or joining node is to be converged on this volume now."""
    stored, view = node.volume(volume.config.name), node.view(volume.config.name)
    if volume.config.on_lag != "resync" or volume.truth is None or not world.compared(node, volume):
        return False
    if stored.held is None:
        return bool(world.left(node, volume, "join"))
    if view.lag_since is None:
        return False
    due = view.lag_since + volume.config.lag_grace_s
    world.wake(due)
    return world.now.mono >= due


def begin(
    world: World, node: Node, purpose: Purpose, volumes: list[str], action: ActionRecord | None = None
) -> str:
    """Start a recovery; its action's id."""
    if action is None:
        action = ActionRecord(
            world.next_id("action"), "resync", node.name, volumes[0] if len(volumes) == 1 else None, "running",
            world.now.wall_ms,
        )  # fmt: skip
    world.actions[action.id] = action
    world.touch_action(action)
    fence = node.record.fence
    incident = None if fence is None else fence.incident
    node.record.recovery = RecoveryRecord(purpose, action.id, incident, volumes, world.now.wall_ms)
    node.recovery = Recovery()
    world.touch_node(node)
    return action.id


def drive(world: World) -> None:
    """Take every recovery as far as it goes without an answer."""
    for node in world.nodes.values():
        while _advance(world, node):
            pass


def _advance(world: World, node: Node) -> bool:
    """One step of one recovery; whether another may follow at once."""
    record, work, fence = node.record.recovery, node.recovery, node.record.fence
    if record is None or work is None or node.session is None or work.asked is not None:
        return False
    if fence is not None and not fence.acknowledged:
        return False
    if world.now.mono < work.not_before:
        world.wake(work.not_before)
        return False
    left = [
        volume
        for name in record.volumes
        if (volume := world.volumes.get(name)) is not None and world.left(node, volume, record.purpose)
    ]
    if left:
        work.stage = "converge"
        return _ask_converge(world, node, record, work, left[0])
    match work.stage:
        case "converge":
            world.move(node, "resyncing")
            work.stage, work.to_verify = "verify", list(record.volumes)
            return True
        case "verify":
            return _ask_verify(world, node, record, work)
        case "settle":
            return _settle(world, node, record, work)


def _ask_converge(world: World, node: Node, record: RecoveryRecord, work: Recovery, volume: Volume) -> bool:
    name = volume.config.name
    sources = _sources(world, node, volume)
    target = world.target(node, volume, record.purpose)
    world.move(node, "resyncing")
    if not sources or target is None:
        _trouble(world, record, work, "No healthy peer is connected that could give the missing chunks.")
        work.not_before = world.now.mono + NO_SOURCE_RETRY_S
        world.wake(work.not_before)
        return False
    if not work.attempt and not work.bytes_before:
        count = len(world.left(node, volume, record.purpose))
        _note(
            world,
            record,
            "resync_started",
            f"Resync of {node.name} on {name} began: {plural(count, 'path')}.",
        )
    mode: wire.Mode = record.purpose
    token = 0 if node.record.fence is None else node.record.fence.token
    work.asked = name
    world.send(
        node, wire.Converge(record.action, name, target, mode, record.incident or "", token, sources, False)
    )
    return False


def _sources(world: World, node: Node, volume: Volume) -> tuple[str, ...]:
    """Healthy peers that may give chunks: those that equal the truth first of all."""
    name = volume.config.name
    peers = [
        one
        for one in world.members(volume)
        if one is not node and world.may_vote(one, volume) and one.record.phase in ("in_rank", "lagging")
    ]
    equal = [one.name for one in peers if one.volume(name).root == volume.truth]
    return tuple(equal or [one.name for one in peers])


def _ask_verify(world: World, node: Node, record: RecoveryRecord, work: Recovery) -> bool:
    world.move(node, "verifying")
    if not work.to_verify:
        work.stage, work.verified_at = "settle", world.now.mono
        digest = world.algorithm.name
        _note(
            world, record, "verified", f"{node.name} was re-read from disk and equals the truth ({digest})."
        )
        return True
    token = 0 if node.record.fence is None else node.record.fence.token
    work.asked = work.to_verify[0]
    world.send(node, wire.Verify(record.action, work.asked, record.incident or "", token))
    return False


def _settle(world: World, node: Node, record: RecoveryRecord, work: Recovery) -> bool:
    """Proof that nobody writes any more; then release."""
    if record.purpose == "divergence":
        volumes = [world.volumes[name] for name in record.volumes if name in world.volumes]
        due = work.verified_at + max((volume.config.settle_s for volume in volumes), default=0.0)
        if world.now.mono < due:
            world.wake(due)
            return False
        if any(node.scanned.get(volume.config.name, 0.0) <= work.verified_at for volume in volumes):
            return False
    _finish(world, node, record)
    return False


def _finish(world: World, node: Node, record: RecoveryRecord) -> None:
    action = world.actions.get(record.action)
    if action is not None:
        action.state = "done"
        world.touch_action(action)
    fence = node.record.fence
    if fence is None:
        _end(world, node)
        for name in record.volumes:
            volume = world.volumes.get(name)
            if volume is not None and volume.truth is not None and node.volume(name).held is None:
                node.volume(name).held = volume.truth
        joined = all(node.volume(volume.config.name).held is not None for volume in world.volumes_of(node))
        world.move(node, "in_rank" if joined else "joining")
        world.log("info", f"{node.name} was brought up to date")
        return
    fence.verified = True
    if fence.release == "automatic":
        node.record.releases_ms = [*node.record.releases_ms, world.now.wall_ms][-100:]
        unfence(world, node, f"{node.name} equals the truth, stayed so, and is in rank again.")
        return
    text = f"{node.name} equals the truth again and stays fenced until a person says: closeranks release {node.name}"
    _note(world, record, "note", text)
    _end(world, node)
    world.move(node, "quarantined")


def _end(world: World, node: Node) -> None:
    node.record.recovery, node.recovery = None, None
    world.touch_node(node)


# --- answers --------------------------------------------------------------------------------------


def progressed(world: World, node: Node, message: wire.ConvergeProgress) -> None:
    record, work = node.record.recovery, node.recovery
    if record is not None and work is not None and record.action == message.action and work.asked is not None:
        work.progress = {work.asked: message}
        action = world.actions.get(record.action)
        if action is not None:
            action.bytes_moved = work.bytes_before + message.bytes_moved
            world.publish("action", action.id)
        world.publish("node", node.name)


def converged(world: World, node: Node, message: wire.ConvergeResult) -> None:
    """One round has ended, or a dry run has."""
    record, work = node.record.recovery, node.recovery
    if record is None or work is None or record.action != message.action or work.asked != message.volume:
        _dry_run_ended(world, message)
        return
    work.asked, work.progress = None, {}
    work.bytes_before += message.bytes_moved
    _account(world, node, record, message)
    if message.state == "done":
        work.attempt, work.noted = 0, ""
        if world.left(node, world.volumes[message.volume], record.purpose):
            work.not_before = world.now.mono + RETRY_MIN_S  # somebody wrote meanwhile
        return
    _trouble(world, record, work, _words(message))
    work.attempt = 1 if message.steps_done else work.attempt + 1
    pause = RETRY_MAX_S if message.state == "failed" else min(RETRY_MAX_S, RETRY_MIN_S * 2**work.attempt)
    work.not_before = world.now.mono + pause


def _words(message: wire.ConvergeResult) -> str:
    problem = message.problem
    text = problem.message if problem is not None else message.detail
    if message.state == "failed":
        return f"The resync can not go on: {text or 'the node gave no reason'}"
    return f"Some steps have to be repeated: {text or 'files changed while they were worked on'}"


def _account(world: World, node: Node, record: RecoveryRecord, message: wire.ConvergeResult) -> None:
    """Add what was moved and trashed to the action, the incident and the counters."""
    world.count("closeranks_resync_bytes_total", message.bytes_moved, node=node.name, volume=message.volume)
    action = world.actions.get(record.action)
    if action is not None:
        action.bytes_moved = node.recovery.bytes_before if node.recovery is not None else action.bytes_moved
        world.touch_action(action)
    incident = world.incidents.get(record.incident or "")
    if incident is None or not (message.steps_done or message.bytes_moved):
        return
    incident.bytes_moved += message.bytes_moved
    incident.files_trashed += message.files_trashed
    if message.state == "done":
        incident.note(
            world.now.wall_ms, "resynced",
            f"{plural(message.steps_done, 'step')} applied, {human_bytes(message.bytes_moved)} moved, "
            f"{plural(message.files_trashed, 'item')} set aside in the trash.",
        )  # fmt: skip
    world.touch_incident(incident)


def _dry_run_ended(world: World, message: wire.ConvergeResult) -> None:
    action = world.actions.get(message.action)
    if action is None or not action.dry_run or action.state != "running":
        return
    action.state = "failed" if message.state == "failed" else "done"
    action.error = message.detail or None if message.state == "failed" else None
    action.plan = list(message.plan)
    action.plan_steps, action.plan_bytes = message.plan_steps, message.plan_bytes
    world.touch_action(action)


def verified(world: World, node: Node, message: wire.VerifyResult) -> None:
    record, work = node.record.recovery, node.recovery
    if record is None or work is None or record.action != message.action or work.asked != message.volume:
        return
    work.asked = None
    stored: NodeVolume = node.volume(message.volume)
    if list(message.withheld) != stored.withheld:
        stored.withheld = list(message.withheld)
        world.touch_node(node)
    volume = world.volumes[message.volume]
    if message.root is None or not message.probes_ok:
        _trouble(
            world, record, work, f"Verification failed: {message.detail or 'the volume could not be read'}"
        )
        work.not_before = world.now.mono + NO_SOURCE_RETRY_S
    elif not world.left(node, volume, record.purpose):
        work.to_verify = [name for name in work.to_verify if name != message.volume]
    else:
        work.not_before = world.now.mono + RETRY_MIN_S


def _trouble(world: World, record: RecoveryRecord, work: Recovery, text: str) -> None:
    """Tell of a trouble once, not once a round."""
    if work.noted != text:
        work.noted = text
        _note(world, record, "note", text)


def _note(world: World, record: RecoveryRecord, event: EventName, text: str) -> None:
    incident = world.incidents.get(record.incident or "")
    if incident is not None:
        incident.note(world.now.wall_ms, event, text)
        world.touch_incident(incident)
    else:
        world.log("info", text)
