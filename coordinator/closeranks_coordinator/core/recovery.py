"""A node's way back to the truth: converge, verify, and proof before release.

One driver for all three purposes. A *divergence* recovery works behind the fence and ends with a release
only when the node was read back from disk, equalled the truth, and nothing of its own differed again for
`settle_s`, with a scan of its own after that. *Lag* and *join* need no fence and no quiet. A round that
could not finish is repeated, with backoff, for as long as somebody goes on writing; each round plans
against the truth as it then is. A truth that moves on does not begin the quiet anew: being late is no
relapse. The answers of nodes are in `answers`.
"""

from __future__ import annotations

from closeranks_proto import messages as wire

from . import currency, lost, pushing
from .fencing import unfence
from .givers import sources_for
from .incidents import EventName
from .nodes import Node, Recovery, Volume
from .records import ActionRecord, FenceRecord, Purpose, RecoveryRecord
from .words import human_bytes, human_duration, plural
from .world import World

NO_SOURCE_RETRY_S = 2.0
REPEAT_AFTER_S = 30.0  # an order of which nothing is heard is sent again; who works on it passes it over
CATCH_UPS_MAX = 3
CANCEL_S = 0.5  # until a cancelled order has ended on the node


# --- beginning ------------------------------------------------------------------------------------


def start_due(world: World) -> None:
    """Begin what is due: fenced nodes that may be repaired, nodes behind for longer than their grace."""
    for node in world.nodes.values():
        if node.session is None or node.record.recovery is not None:
            continue
        fence = node.record.fence
        if fence is not None:
            _look_again(world, node, fence)
            if not fence.verified and _repairs(world, fence):
                begin(world, node, "divergence", [volume.name for volume in world.concerned(node)])
        elif node.record.phase in ("lagging", "joining") and not world.is_held(node):
            _start_behind(world, node)


def _look_again(world: World, node: Node, fence: FenceRecord) -> None:
    """A node that was proven and waits for a person may differ again."""
    volumes = world.concerned(node)
    if fence.verified and (
        any(node.view(volume.name).own for volume in volumes)
        or (_repairs(world, fence) and any(_is_late(world, node, volume) for volume in volumes))
    ):
        fence.verified = False
        world.touch_node(node)


def _repairs(world: World, fence: FenceRecord) -> bool:
    """Whether a node fenced like this is converged without being asked for."""
    if fence.by_hand:
        return False
    if fence.release == "automatic":
        return True
    incident = world.incidents.get(fence.incident or "")
    if incident is not None and incident.kind == "audit":
        return False  # as far as it says itself, there is nothing to repair
    volume = None if incident is None else world.volumes.get(incident.volume or "")
    return volume is not None and volume.config.on_divergence == "resync"


def _start_behind(world: World, node: Node) -> None:
    """Joining goes first: a node that is behind keeps its own entries, a joiner has none yet."""
    volumes = [volume for volume in world.volumes_of(node) if _is_due(world, node, volume)]
    joins = [volume.name for volume in volumes if node.volume(volume.name).held is None]
    if joins:
        begin(world, node, "join", joins)
    elif volumes:
        begin(world, node, "lag", [volume.name for volume in volumes])


def _is_due(world: World, node: Node, volume: Volume) -> bool:
    """Whether a lagging or joining node is to be converged on this volume now."""
    view = node.view(volume.name)
    if volume.config.on_lag != "resync" or volume.truth is None:
        return False
    if volume.config.replicated and node.volume(volume.name).held is not None:
        return (
            pushing.is_stuck(world, volume, node)
            and world.compared(node, volume)
            and bool(world.left(node, volume, "lag"))
        )
    if not world.compared(node, volume):
        return False
    if node.volume(volume.name).held is None:
        return bool(world.left(node, volume, "join"))
    if view.lag_since is None or not world.left(node, volume, "lag"):
        return False
    due = view.lag_since + volume.config.lag_grace_s
    if world.now.mono < due:
        world.wake(due)
    return world.now.mono >= due


def begin(world: World, node: Node, purpose: Purpose, volumes: list[str]) -> ActionRecord:
    """Start a recovery: its action."""
    action = world.new_action("resync", node, volumes[0] if len(volumes) == 1 else None, "running")
    fence = node.record.fence
    incident = None if fence is None else fence.incident
    if purpose == "join" and (told := world.open_incident("put_back", node.name, None)) is not None:
        incident = told.id  # what is set aside is listed under it
    node.record.recovery = RecoveryRecord(purpose, action.id, incident, volumes, world.now.wall_ms)
    node.recovery = Recovery()
    world.touch_node(node)
    return action


# --- going on -------------------------------------------------------------------------------------


def drive(world: World) -> None:
    """Take every recovery as far as it goes without an answer."""
    for node in world.nodes.values():
        while _advance(world, node):
            pass


def _advance(world: World, node: Node) -> bool:
    """One step of one recovery; whether another may follow at once."""
    record, work, fence = node.record.recovery, node.recovery, node.record.fence
    if record is None or work is None or node.session is None:
        return False
    volumes = [world.volumes[name] for name in record.volumes if name in world.volumes]
    if any(node.view(volume.name).analysis is None for volume in volumes):
        return False  # no truth, or no root: nobody knows what is left
    if work.quiet_since is not None and any(node.view(volume.name).own for volume in volumes):
        work.quiet_since = None  # what was repaired differs again
    if work.asked is not None and work.stage == "converge" and _is_overtaken(world, node, record, work):
        world.send(node, wire.Cancel(record.action))
        work.asked, work.not_before = None, world.now.mono + CANCEL_S
    if work.asked is not None and world.now.mono >= work.asked_at + REPEAT_AFTER_S:
        work.asked = None
    if work.asked is not None or (fence is not None and not fence.acknowledged):
        return False
    if world.now.mono < work.not_before:
        world.wake(work.not_before)
        return False
    if work.stage == "settle":
        return _settle(world, node, record, work, volumes)
    behind = [volume for volume in volumes if _is_left(world, node, record, work, volume)]
    if behind and not _only_went_on(node, record, work, volumes):
        work.stage = "converge"
        _ask_converge(world, node, record, work, behind[0])
        return False
    if work.stage == "converge":
        world.move(node, "resyncing")
        work.stage, work.to_verify = "verify", [volume.name for volume in volumes]
        work.problem.clear()  # what kept it from the truth is over, also where a person ended it by hand
        return True
    return _ask_verify(world, node, record, work)


def _is_left(world: World, node: Node, record: RecoveryRecord, work: Recovery, volume: Volume) -> bool:
    """Whether the node still has to be converged here.

    What closeranks carries itself may move on for ever: there a round that was completed is enough, and pushes do
    the rest. Of a fenced node with several volumes each is brought to the truth once in a round, and read back as it
    is then: all of them at one moment may never be.
    """
    reached = work.reached.get(volume.name)
    if reached is not None and node.volume(volume.name).root == reached:
        return record.purpose == "divergence" and bool(node.view(volume.name).own)
    return bool(world.left(node, volume, record.purpose))


def _begin_round(work: Recovery) -> None:
    """What it had reached was the truth of before."""
    work.stage = "converge"
    work.reached.clear()


def _only_went_on(node: Node, record: RecoveryRecord, work: Recovery, volumes: list[Volume]) -> bool:
    """Whether a fenced node equalled the truth, is being read back, and the truth went on meanwhile.

    Reading back takes as long as there is much to read; begun anew at each step of the truth it would never end. How
    often it catches up before its release is `_settle`'s.
    """
    return (
        work.stage == "verify"
        and record.purpose == "divergence"
        and not any(node.view(volume.name).own for volume in volumes)
    )


def _is_overtaken(world: World, node: Node, record: RecoveryRecord, work: Recovery) -> bool:
    """Whether the converge under way would undo what the node holds rightly: the truth moved on meanwhile."""
    volume = world.volumes.get(work.asked or "")
    if volume is None or work.target is None:
        return False
    target, analysis = world.target(node, volume, record.purpose), node.view(volume.name).analysis
    checked = (work.target, target, analysis)
    if target is None or analysis is None or target == work.target or _same(checked, work.checked):
        return False
    work.checked = checked
    for key, (_, wanted) in world.differ.diff(work.target, target).items():
        if key not in analysis.raw or analysis.raw[key][0] == wanted:
            return True
    return False


def _same(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    return len(one) == len(other) and all(mine is theirs for mine, theirs in zip(one, other, strict=True))


def _ask_converge(world: World, node: Node, record: RecoveryRecord, work: Recovery, volume: Volume) -> None:
    name = volume.name
    sources = sources_for(world, node, volume)
    target = world.target(node, volume, record.purpose)
    world.move(node, "resyncing")
    if not sources or target is None:
        text = "No healthy peer is connected that could give the missing chunks."
        trouble(world, record, work, text + lost.way_out(world, node, volume))
        work.not_before = world.now.mono + NO_SOURCE_RETRY_S
        world.wake(work.not_before)
        return
    if name not in record.begun:
        record.begun.append(name)
        world.touch_node(node)
        count = world.left(node, volume, record.purpose) or 0
        text = f"Resync of {node.name} on {name} began: {plural(count, 'path')}."
        note(world, record, "resync_started", text)
    work.asked, work.asked_at, work.target = name, world.now.mono, target
    view, root = node.view(name), node.volume(name).root
    if root is not None and (root, target) not in view.orders:
        view.orders = [*view.orders[-3:], (root, target)]
    token = 0 if node.record.fence is None else node.record.fence.token
    base = root if record.purpose == "lag" else None
    ordinary = record.purpose == "lag" and volume.config.replicated
    world.send(
        node,
        wire.Converge(
            record.action,
            name,
            target,
            record.purpose,
            record.incident or "",
            token,
            sources,
            False,
            base,
            ordinary,
        ),
    )


def _ask_verify(world: World, node: Node, record: RecoveryRecord, work: Recovery) -> bool:
    world.move(node, "verifying")
    work.to_verify = [name for name in work.to_verify if name in world.volumes]
    if not work.to_verify:
        work.stage = "settle"
        if work.quiet_since is None:
            work.quiet_since = world.now.mono
        return True
    token = 0 if node.record.fence is None else node.record.fence.token
    work.asked, work.asked_at = work.to_verify[0], world.now.mono
    work.goal = work.reached.get(work.asked, world.volumes[work.asked].truth)
    world.send(node, wire.Verify(record.action, work.asked, record.incident or "", token))
    return False


def _settle(world: World, node: Node, record: RecoveryRecord, work: Recovery, volumes: list[Volume]) -> bool:
    """Proof that nobody writes any more; then the end."""
    if record.purpose != "divergence":
        _finish(world, node, record, work)
        return False
    if work.quiet_since is None:
        _begin_round(work)
        return True
    due = work.quiet_since + max((volume.config.settle_s for volume in volumes), default=0.0)
    if world.now.mono < due:
        world.wake(due)
        return False
    late = [volume for volume in volumes if (node.current(volume.name) or 0.0) <= work.quiet_since]
    if late:
        for volume in late:
            currency.ask(world, volume, node)
        return False
    if any(node.view(volume.name).unclear for volume in volumes):
        text = "Some of its paths differ from others and have no majority: it is held until they have."
        trouble(world, record, work, text)
        return False
    joined_so = [volume for volume in volumes if _joined_otherwise(node, volume)]
    if any(volume.history.is_complete for volume in joined_so):
        _begin_round(work)
        return True
    if work.catch_ups < CATCH_UPS_MAX and (
        joined_so or any(_is_late(world, node, volume) for volume in volumes)
    ):
        work.catch_ups += 1
        _begin_round(work)
        return True
    _finish_fenced(world, node, record, world.now.mono - work.quiet_since)
    return False


def _joined_otherwise(node: Node, volume: Volume) -> bool:
    """Whether it still has something that it joined with while nobody could judge it, and that was never the truth.

    It is late there, and nobody's fault; but what it was held for has been decided, and proof is of the truth. Where
    the past is not known from its beginning, it may be an elder truth that is forgotten: then this holds it so often.
    """
    analysis = node.view(volume.name).analysis
    if volume.config.policy != "quorum" or analysis is None:
        return False
    raw, latest_order = analysis.raw, volume.history.latest_order
    return any(latest_order(key, raw[key][0]) is None for key in analysis.lagging)


def _is_late(world: World, node: Node, volume: Volume) -> bool:
    """Whether the truth has moved on, and the node has not followed within the grace."""
    since = node.view(volume.name).lag_since
    return since is not None and world.now.mono >= since + volume.config.lag_grace_s


# --- the end --------------------------------------------------------------------------------------


def _finish(world: World, node: Node, record: RecoveryRecord, work: Recovery) -> None:
    """A node that was only late, or is new, is in rank."""
    _end(world, node, record)
    for name in record.volumes:
        if name in world.volumes and node.volume(name).held is None:
            node.volume(name).held = work.proven.get(name)
    joined = all(node.volume(volume.name).held is not None for volume in world.volumes_of(node))
    world.move(node, "in_rank" if joined else "joining")
    world.log("info", f"{node.name} was brought up to date")


def _moved(record: RecoveryRecord, work: Recovery | None, size: int) -> str:
    """What was moved in all, as far as it was told: a result is lost with the connection that it was sent by."""
    if work is not None and work.interrupted and set(record.begun) - set(record.applied):
        return (
            f"at least {human_bytes(size)} moved in all (the connection was lost meanwhile, and what had been moved by "
            "then was not told)"
        )
    return f"{human_bytes(size)} moved in all"


def _finish_fenced(world: World, node: Node, record: RecoveryRecord, quiet_s: float) -> None:
    fence = node.record.fence
    assert fence is not None, "a divergence is repaired behind a fence"
    incident = world.incidents.get(record.incident or "")
    moved = "" if incident is None else f"; {_moved(record, node.recovery, incident.bytes_moved)}"
    text = (
        f"{node.name} was read back from disk, equalled the truth ({world.algorithm.name}) "
        f"and stayed so for {human_duration(quiet_s)}{moved}."
    )
    note(world, record, "verified", text)
    _end(world, node, record)
    fence.verified = not any(
        world.left(node, volume, "divergence") for volume in _others(world, node, record)
    )
    if fence.verified and fence.release == "automatic":
        node.record.releases_ms = [*node.record.releases_ms, world.steady_ms][-100:]
        unfence(world, node, f"{node.name} is in rank again.")
        return
    if fence.verified:
        note(world, record, "note", f"It stays fenced until a person says: closeranks release {node.name}")
    world.move(node, "quarantined")


def _others(world: World, node: Node, record: RecoveryRecord) -> list[Volume]:
    """Volumes of this node that its fence is about and the recovery did not look after."""
    return [volume for volume in world.concerned(node) if volume.name not in record.volumes]


def _end(world: World, node: Node, record: RecoveryRecord) -> None:
    action = world.actions.get(record.action)
    if action is not None:
        action.state = "done"
        world.touch_action(action)
    node.record.recovery, node.recovery = None, None
    world.touch_node(node)


# --- telling --------------------------------------------------------------------------------------


def trouble(world: World, record: RecoveryRecord, work: Recovery, text: str) -> None:
    """Tell of a trouble once, not once a round."""
    if work.noted != text:
        work.noted = text
        note(world, record, "note", text)


def note(world: World, record: RecoveryRecord, event: EventName, text: str) -> None:
    """Into the timeline of the incident that the recovery belongs to, else into the log."""
    incident = world.incidents.get(record.incident or "")
    if incident is not None:
        incident.note(world.now.wall_ms, event, text)
        world.touch_incident(incident)
    else:
        world.log("info", text)
