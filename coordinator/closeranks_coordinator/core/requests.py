"""What operators ask for, and why it may be refused."""

from __future__ import annotations

from typing import Literal

from closeranks_proto import messages as wire
from closeranks_proto.kinds import is_name

from . import recovery, recurrence, views
from .fencing import REASON_MAX, drop_recovery, fence, is_doubted, quorum_survives, room_for_fence, unfence
from .givers import sources_for
from .lost import given_up, givers_of, has, is_gone, let_stand
from .model import (
    BaselineCreateAsked,
    BaselineDeleteAsked,
    PinAsked,
    QuarantineAsked,
    Refusal,
    ReleaseAsked,
    ResyncAsked,
)
from .nodes import Node, Volume
from .records import BaselineRecord
from .shapes import ActionView, BaselineView, VolumeView
from .values import is_file
from .words import join
from .world import World

BASELINES_MAX = 1000


def quarantine(world: World, asked: QuarantineAsked) -> ActionView | Refusal:
    """Fence by hand: never converged or released automatically."""
    node = world.nodes.get(asked.node)
    if node is None:
        return _unknown_node(asked.node)
    if not asked.reason.strip() or len(asked.reason) > REASON_MAX:
        return Refusal(400, "bad_reason", f"A quarantine needs a reason of 1 to {REASON_MAX} characters.")
    found = node.record.fence
    if found is not None and found.by_hand:
        text = (
            f"{node.name} is quarantined by hand already: `closeranks resync {node.name}` brings it back, `closeranks "
            f"release {node.name}` lets it serve again."
        )
        return Refusal(409, "already_quarantined", text)
    if found is not None:
        drop_recovery(world, node, "an operator took over")
        _tell_taken_over(world, node, asked.reason)
        found.by_hand, found.release, found.reason, found.verified = True, "by_hand", asked.reason, False
        world.move(node, "quarantined")
        world.touch_node(node)
    elif not quorum_survives(world, node):
        return _quorum_lost(world, node)
    else:
        accused = world.diverged(node)
        fence(world, node, asked.reason, accused[0] if accused else None, by_hand=True, release="by_hand")
    return _done(world, "quarantine", node)


def _tell_taken_over(world: World, node: Node, reason: str) -> None:
    for incident in world.accusing(node):
        text = f"An operator took over and keeps {node.name} fenced, who said: {reason}"
        incident.note(world.now.wall_ms, "note", text)
        world.touch_incident(incident)


def release(world: World, asked: ReleaseAsked) -> ActionView | Refusal:
    """Lift a fence, if the node equals the truth; or let a writer's own state stand where nobody has the truth's."""
    node = world.nodes.get(asked.node)
    if node is None:
        return _unknown_node(asked.node)
    waiting = [one for one in world.accusing(node) if one.kind == "audit" and recurrence.by_hand(one)]
    only_told = [one for one in waiting if world.volumes[one.volume or ""].config.on_divergence == "alert"]
    if not node.fenced and only_told:  # elsewhere it is yet to be fenced, and brought back
        for incident in only_told:
            incident.note(world.now.wall_ms, "released", f"An operator released {node.name}.")
            world.close(incident)
        return _done(world, "release", node)
    lost = given_up(world, node)
    if lost:
        let_stand(world, node, lost)
        return _done(world, "release", node)
    if not node.fenced:
        nothing = (
            f"{node.name} is not quarantined: there is nothing to release. `closeranks nodes {node.name}` says how it "
            "stands."
        )
        yet = f"{nothing} It waits for its place behind the fence; bring it back then, and release it."
        return Refusal(409, "not_quarantined", yet if waiting else nothing)
    gone = all(is_gone(world, node, volume) for volume in world.concerned(node))
    if node.record.recovery is not None and not gone:
        return Refusal(
            409, "not_verified",
            f"{node.name} is being brought back and has not been verified yet: `closeranks nodes {node.name}` says "
            "how far it is.",
        )  # fmt: skip
    for volume in () if gone else world.concerned(node):
        if not world.compared(node, volume) or world.left(node, volume, "divergence") != 0:
            return Refusal(
                409, "not_verified",
                f"{node.name} is not known to equal the truth of {volume.name}. Bring it back first: "
                f"closeranks resync {node.name}{_what_else(world, node, volume)}",
            )  # fmt: skip
    drop_recovery(world, node, "an operator released it: nobody has what it would be brought back to")
    for volume in world.concerned(node) if gone else ():
        node.volume(volume.name).held = volume.truth  # in what it differs it has changed it, as of now
    unfence(world, node, f"An operator released {node.name}.")
    return _done(world, "release", node)


def _what_else(world: World, node: Node, volume: Volume) -> str:
    """What else to do where only nodes that give nothing now may have what a writer lacks."""
    if node.name not in volume.config.writers:
        return ""
    givers, told = givers_of(world, node, volume), ""
    away = [one.name for one in givers if one.session is None]
    fenced = _only_there(world, node, volume, givers)
    if away:
        told = (
            f". What it lacks may lie only on {join(away)}, which is not connected: start the agent there. A server "
            "that never comes back has to be taken out of coordinator.toml first"
        )
    if fenced:
        told += (
            f". Some of what it lacks lies only on {join(fenced)}, fenced as well: bring that back and release it "
            f"first (closeranks resync {fenced[0]} --wait; closeranks release {fenced[0]})"
        )
    return told and f"{told}."


def _only_there(world: World, node: Node, volume: Volume, givers: list[Node]) -> list[str]:
    """The fenced ones among these that have a file which this node lacks and no unfenced node has."""
    analysis = node.view(volume.name).analysis
    if analysis is None:
        return []
    free = [one for one in givers if not one.fenced]
    lacking = [
        (key, truth)
        for key, (_, truth) in analysis.differing.items()
        if is_file(truth) and not any(has(world, volume, one, key, truth) for one in free)
    ]
    return [
        one.name for one in givers if one.fenced and any(has(world, volume, one, *pair) for pair in lacking)
    ]


def resync(world: World, asked: ResyncAsked) -> ActionView | Refusal:
    """Converge a node to the truth. In rank already: an action that is done at once."""
    node = world.nodes.get(asked.node)
    if node is None:
        return _unknown_node(asked.node)
    volumes = world.concerned(node) if asked.volume is None else world.volumes_of(node)
    if asked.volume is not None:
        volumes = [volume for volume in volumes if volume.name == asked.volume]
        if not volumes:
            return Refusal(404, "unknown_volume", f"{node.name} has no volume {asked.volume!r}.")
    if node.session is None:
        return Refusal(
            409, "unreachable",
            f"{node.name} is not connected: it can only be resynced when it is back. `closeranks nodes {node.name}` "
            f"says since when. Look at its agent there: `closeranks doctor` on it says what is wrong.",
        )  # fmt: skip
    gone = [volume.name for volume in volumes if world.untrusted(node, volume.name)]
    if gone:
        return Refusal(
            409, "unreachable",
            f"{node.name} has not got its tree of {gone[0]} (closeranks nodes {node.name} says why): it can only be "
            "resynced when the tree is back.",
        )  # fmt: skip
    untrue = [volume.name for volume in volumes if volume.truth is None]
    if untrue:
        text = (
            f"{untrue[0]} has no truth yet: there is nothing to converge to. `closeranks status` says what it waits "
            "for."
        )
        return Refusal(409, "no_truth", text)
    unknown = [volume.name for volume in volumes if node.volume(volume.name).root is None]
    if unknown:
        text = (
            f"{node.name} has not finished its first scan of {unknown[0]}: ask again when `closeranks nodes "
            f"{node.name}` shows its files."
        )
        return Refusal(409, "not_scanned", text)
    running = node.record.recovery
    if running is not None and asked.dry_run:
        text = (
            f"{node.name} is being resynced right now (action {running.action}): `closeranks nodes {node.name}` says "
            "how far it is."
        )
        return Refusal(409, "busy", text)
    if running is not None:
        return views.action_view(world, running.action) or _unknown_node(node.name)
    return _dry_run(world, node, volumes) if asked.dry_run else _resync(world, node, volumes)


def _resync(world: World, node: Node, volumes: list[Volume]) -> ActionView | Refusal:
    names = [volume.name for volume in volumes]
    if node.record.fence is not None:
        node.record.fence.verified = False
        return _begin(world, node, "divergence", names)
    if node.record.phase == "suspect":
        if not quorum_survives(world, node):
            return _quorum_lost(world, node)
        accused = world.accusing(node)
        release: Literal["automatic", "by_hand"] = "by_hand" if is_doubted(world, node) else "automatic"
        incident, reason = accused[0] if accused else None, "an operator asked for a resync"
        fence(world, node, reason, incident, by_hand=False, release=release)
        return _begin(world, node, "divergence", [volume.name for volume in world.volumes_of(node)])
    if world.is_held(node):
        return Refusal(
            409, "held",
            f"A guard holds what {node.name} changed: allow it or reject it first (`closeranks held` says how).",
        )  # fmt: skip
    if any(len(node.view(name).clocks) for name in names):
        return Refusal(
            409, "unconfirmed",
            f"{node.name} differs, but not for long enough to be judged: its files may be on their way to "
            "the others. Ask again in a moment.",
        )  # fmt: skip
    joins = [
        one.name
        for one in volumes
        if node.volume(one.name).held is None and world.left(node, one, "join") != 0
    ]
    if joins:
        return _begin(world, node, "join", joins)
    behind = [volume.name for volume in volumes if world.left(node, volume, "lag") != 0]
    return _begin(world, node, "lag", behind) if behind else _done(world, "resync", node)


def _begin(
    world: World, node: Node, purpose: Literal["divergence", "lag", "join"], names: list[str]
) -> ActionView:
    return views.action_of(recovery.begin(world, node, purpose, names))


def _dry_run(world: World, node: Node, volumes: list[Volume]) -> ActionView:
    volume = next((one for one in volumes if world.left(node, one, "divergence")), volumes[0])
    action = world.new_action("resync", node, volume.name, "running", dry_run=True)
    target = world.target(node, volume, "divergence")
    assert target is not None, "a volume without a truth was refused"
    sources = sources_for(world, node, volume)
    token = 0 if node.record.fence is None else node.record.fence.token
    world.send(node, wire.Converge(action.id, volume.name, target, "manual", "", token, sources, True))
    return views.action_of(action)


def create_baseline(world: World, asked: BaselineCreateAsked) -> BaselineView | Refusal:
    """Name a root as known good."""
    volume = world.volumes.get(asked.volume)
    if volume is None:
        return Refusal(404, "unknown_volume", f"There is no volume {asked.volume!r}.")
    if not is_name(asked.name):
        return Refusal(
            400, "bad_name", "A baseline's name has 1 to 63 of a-z 0-9 . _ - and begins with a-z or 0-9."
        )
    if asked.name in world.baselines:
        return Refusal(409, "name_taken", f"A baseline {asked.name!r} exists already.")
    if len(world.baselines) >= BASELINES_MAX:
        return Refusal(409, "too_many", f"There are {BASELINES_MAX} baselines; delete one first.")
    if asked.node is None:
        if volume.undetermined:
            return Refusal(
                409, "undetermined", f"{asked.volume} has paths without a majority: resolve them first."
            )
        root, source = volume.truth, "truth"
    else:
        node = world.nodes.get(asked.node)
        if node is None or asked.node not in volume.config.nodes:
            return _unknown_node(asked.node)
        if not world.compared(node, volume):
            return Refusal(
                409, "not_current",
                f"Nothing is known of how {asked.volume} is on {asked.node} now "
                f"(closeranks nodes {asked.node} says why).",
            )  # fmt: skip
        root, source = node.volume(asked.volume).root, asked.node
    if root is None:
        return Refusal(
            409, "no_truth", f"{asked.volume} has no truth yet." if asked.node is None else "Not scanned yet."
        )
    summary = world.tree.summary(root)
    world.baselines[asked.name] = BaselineRecord(
        asked.name, asked.volume, root, world.now.wall_ms, source, summary.files, summary.bytes
    )
    world.touch("baseline", asked.name)
    return views.baseline_view(world, world.baselines[asked.name])


def delete_baseline(world: World, asked: BaselineDeleteAsked) -> BaselineView | Refusal:
    found = world.baselines.get(asked.name)
    if found is None:
        return Refusal(404, "unknown_baseline", f"There is no baseline {asked.name!r}.")
    pinned = [name for name, volume in world.volumes.items() if volume.record.pinned == asked.name]
    if pinned:
        return Refusal(
            409, "pinned", f"{asked.name} is pinned on {pinned[0]}: closeranks baseline unpin {pinned[0]}"
        )
    view = views.baseline_view(world, found)
    del world.baselines[asked.name]
    world.touch("baseline", asked.name)
    return view


def pin(world: World, asked: PinAsked) -> VolumeView | Refusal:
    """Make a baseline the truth of a volume whose policy is `baseline`; None unpins."""
    volume = world.volumes.get(asked.volume)
    if volume is None:
        return Refusal(404, "unknown_volume", f"There is no volume {asked.volume!r}.")
    if volume.config.policy != "baseline":
        text = f"{asked.volume} is judged by {volume.config.policy}: only a volume with policy baseline has a pin."
        return Refusal(409, "wrong_policy", text)
    if asked.baseline is not None:
        found = world.baselines.get(asked.baseline)
        if found is None:
            return Refusal(404, "unknown_baseline", f"There is no baseline {asked.baseline!r}.")
        if found.volume != asked.volume:
            return Refusal(409, "other_volume", f"{asked.baseline} is a baseline of {found.volume}.")
    volume.record.pinned = asked.baseline
    world.touch("volume", asked.volume)
    world.publish("volume", asked.volume)
    return views.volume_view(world, volume)


def _unknown_node(name: str) -> Refusal:
    return Refusal(404, "unknown_node", f"There is no node {name!r} in this fleet.")


def _quorum_lost(world: World, node: Node) -> Refusal:
    return Refusal(
        409, "quorum_would_be_lost",
        f"Without {node.name} a majority could not be reached any more, so nobody could be judged. "
        f"{room_for_fence(world, node)}",
    )  # fmt: skip


def _done(world: World, kind: str, node: Node) -> ActionView:
    return views.action_of(world.new_action(kind, node, None, "done"))
