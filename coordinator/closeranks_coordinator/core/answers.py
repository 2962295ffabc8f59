"""What nodes answer to orders: progress, the end of a converge or of its dry run, a verification.

An answer counts for the recovery's present stage only; one that comes late (an order was repeated after
a reconnect) is accounted for and otherwise passed over. `recovery` goes on from there.
"""

from __future__ import annotations

from closeranks_proto import messages as wire

from . import lost
from .judge import excused_of, same_but_special_bits
from .nodes import Node, Recovery, Volume
from .records import RecoveryRecord
from .recovery import NO_SOURCE_RETRY_S, note, trouble
from .words import human_bytes, plural
from .world import World

RETRY_MIN_S = 0.5
RETRY_MAX_S = 10.0
RETRY_DOUBLINGS = 5


def progressed(world: World, node: Node, message: wire.ConvergeProgress) -> None:
    """Only shown; nothing follows from it."""
    record, work = node.record.recovery, node.recovery
    if record is None or work is None or record.action != message.action or work.asked is None:
        return
    work.progress, work.asked_at = {work.asked: message}, world.now.mono
    action = world.actions.get(record.action)
    if action is not None:
        action.bytes_moved = work.bytes_before + message.bytes_moved
        world.publish("action", action.id)
    world.publish("node", node.name)


def converged(world: World, node: Node, message: wire.ConvergeResult) -> None:
    """One round has ended, or a dry run has."""
    record, work = node.record.recovery, node.recovery
    if record is None or work is None or record.action != message.action:
        _dry_run_ended(world, message)
        return
    work.bytes_before += message.bytes_moved
    _account(world, node, record, work, message)
    volume = world.volumes.get(message.volume)
    if work.stage != "converge" or work.asked != message.volume or volume is None:
        return
    work.asked, work.progress = None, {}
    work.problem.pop(message.volume, None)
    if message.state == "done":
        work.attempt, work.noted = 0, ""
        if message.withheld:
            _excuse(world, node, volume)
        root = node.volume(volume.name).root
        if root is not None and _is_enough(world, record, work, message, root):
            work.reached[volume.name] = root
        elif world.left(node, volume, record.purpose):
            work.not_before = world.now.mono + RETRY_MIN_S  # somebody wrote meanwhile
        return
    if message.problem is not None:
        work.problem[message.volume] = message.problem
    told = "" if message.state == "failed" else lost.release_of_lost(world, node, volume)
    text = _words(node.name, message)
    trouble(world, record, work, f"{text.rstrip('.')}.{told}" if told else text)
    world.publish("node", node.name)
    work.attempt = 1 if message.steps_done else min(work.attempt + 1, RETRY_DOUBLINGS)
    pause_s = RETRY_MAX_S if message.state == "failed" else min(RETRY_MAX_S, RETRY_MIN_S * 2**work.attempt)
    work.not_before = world.now.mono + pause_s


def _is_enough(
    world: World, record: RecoveryRecord, work: Recovery, message: wire.ConvergeResult, root: bytes
) -> bool:
    """Whether a completed round has done its part although the truth may have moved on meanwhile."""
    if record.purpose == "divergence":
        return _is_target(world, work, message, root)
    replicated = world.volumes[message.volume].config.replicated
    return replicated and (record.purpose == "lag" or _is_target(world, work, message, root))


def _is_target(world: World, work: Recovery, message: wire.ConvergeResult, root: bytes) -> bool:
    """Whether the round reached what it was to reach, but for special bits that the node may not write."""
    if root == work.target or work.target is None or not message.withheld:
        return root == work.target
    width = world.algorithm.width
    left = world.differ.diff(root, work.target).values()
    return all(same_but_special_bits(values, width) for values in left)


def _excuse(world: World, node: Node, volume: Volume) -> None:
    """Special bits that the node may not write are withheld: they are not left to be done."""
    analysis, stored = node.view(volume.name).analysis, node.volume(volume.name)
    if analysis is None:
        return
    width = world.algorithm.width
    kept = [key for key, values in analysis.differing.items() if same_but_special_bits(values, width)]
    if kept:
        stored.withheld = tuple(sorted({*stored.withheld, *kept}))
        world.touch_node(node)


def _still_withheld(world: World, node: Node, message: wire.VerifyResult) -> tuple[bytes, ...]:
    """What its converges left, which the node tells, and what pushes did, of which it keeps no list."""
    analysis, stored = node.view(message.volume).analysis, node.volume(message.volume)
    by_pushes = () if analysis is None else excused_of(analysis.raw, stored.withheld, world.algorithm.width)
    return tuple(sorted({*message.withheld, *by_pushes}))


def _words(node: str, message: wire.ConvergeResult) -> str:
    problem = message.problem
    text = problem.message if problem is not None else message.detail
    if message.state == "failed":
        return f"The resync of {node} can not go on: {text or 'the node gave no reason'}"
    return f"Some steps on {node} have to be repeated: {text or 'files changed while they were worked on'}"


def _account(
    world: World, node: Node, record: RecoveryRecord, work: Recovery, message: wire.ConvergeResult
) -> None:
    """Add what was moved and trashed to the action, the incident and the counters."""
    world.count("closeranks_resync_bytes_total", message.bytes_moved, node=node.name, volume=message.volume)
    action = world.actions.get(record.action)
    if action is not None:
        action.bytes_moved = work.bytes_before
        world.touch_action(action)
    incident = world.incidents.get(record.incident or "")
    if incident is None or not (message.steps_done or message.bytes_moved):
        return
    incident.bytes_moved += message.bytes_moved
    incident.files_trashed += message.files_trashed
    if message.state == "done" and message.volume not in record.applied:
        record.applied.append(message.volume)
        world.touch_node(node)
        text = (
            f"{plural(message.steps_done, 'step')} applied, {human_bytes(message.bytes_moved)} moved, "
            f"{plural(message.files_trashed, 'item')} set aside in the trash."
        )
        note(world, record, "resynced", text)
    world.touch_incident(incident)


def _dry_run_ended(world: World, message: wire.ConvergeResult) -> None:
    action = world.actions.get(message.action)
    if action is None or not action.dry_run or action.state != "running":
        return
    action.state = "failed" if message.state == "failed" else "done"
    if message.state == "failed":
        action.error = (message.problem.message if message.problem else message.detail) or "it gave no reason"
    action.plan = list(message.plan)
    action.plan_steps, action.plan_bytes = message.plan_steps, message.plan_bytes
    world.forget_plans()
    world.touch_action(action)


def verified(world: World, node: Node, message: wire.VerifyResult) -> None:
    """A volume was read back."""
    record, work = node.record.recovery, node.recovery
    if record is None or work is None or record.action != message.action:
        return
    volume = world.volumes.get(message.volume)
    if work.stage != "verify" or work.asked != message.volume or volume is None:
        return
    work.asked = None
    stored, withheld = node.volume(message.volume), _still_withheld(world, node, message)
    if withheld != stored.withheld:
        stored.withheld = withheld
        world.touch_node(node)
    if message.root is None or not message.probes_ok:
        text = f"Verification failed: {message.detail or 'the volume could not be read'}"
        trouble(world, record, work, text)
        world.publish("node", node.name)
        work.not_before = world.now.mono + NO_SOURCE_RETRY_S
    elif message.root == work.goal or not world.left(node, volume, record.purpose):
        is_goal = message.root == work.goal
        work.proven[volume.name] = work.goal if is_goal else world.target(node, volume, record.purpose)
        work.to_verify = [name for name in work.to_verify if name != message.volume]
        work.noted = ""  # it could be read after all
    else:
        work.reached.pop(volume.name, None)
        work.stage, work.not_before = "converge", world.now.mono + RETRY_MIN_S
