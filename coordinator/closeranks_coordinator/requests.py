"""What operators ask for, and why it may be refused."""

from __future__ import annotations

from typing import Literal

from closeranks_proto import messages as wire
from closeranks_proto.kinds import is_name

from . import recovery, views
from .fencing import drop_recovery, fence, quorum_survives, unfence
from .incidents import Incident
from .model import (
    ActionView,
    BaselineCreateAsked,
    BaselineDeleteAsked,
    BaselineView,
    PinAsked,
    QuarantineAsked,
    Refusal,
    ReleaseAsked,
    ResyncAsked,
    VolumeView,
)
from .records import ActionRecord, BaselineRecord
from .verdicts import undetermined_paths
from .world import ACTIONS_MAX, Node, Volume, World

REASON_MAX = 500
BASELINES_MAX = 1000


def quarantine(world: World, asked: QuarantineAsked) -> ActionView | Refusal:
    """Fence by hand: never converged or released automatically."""
    node = world.nodes.get(asked.node)
    if node is None:
        return _unknown_node(asked.node)
    if not asked.reason.strip() or len(asked.reason) > REASON_MAX:
        return Refusal(400, "bad_reason", f"A quarantine needs a reason of 1 to {REASON_MAX} characters.")
    if node.fenced and node.record.fence is not None and node.record.fence.by_hand:
        return Refusal(409, "already_quarantined", f"{node.name} is quarantined by hand already.")
    if not node.fenced and not quorum_survives(world, node):
        return _quorum_lost(node)
    if node.fenced:
        drop_recovery(world, node, "an operator took over")
        found = node.record.fence
        assert found is not None
        found.by_hand, found.release, found.reason, found.verified = True, "by_hand", asked.reason, False
        if node.record.phase != "quarantined":
            world.move(node, "quarantined")
        world.touch_node(node)
    else:
        incident = _open_divergence(world, node)
        fence(world, node, asked.reason, incident, by_hand=True, release="by_hand")
    return _done(world, "quarantine", node)


def release(world: World, asked: ReleaseAsked) -> ActionView | Refusal:
    """Lift a fence, if the node equals the truth."""
    node = world.nodes.get(asked.node)
    if node is None:
        return _unknown_node(asked.node)
    if not node.fenced:
        return Refusal(
            409, "not_quarantined", f"{node.name} is not quarantined: there is nothing to release."
        )
    for volume in world.volumes_of(node):
        unproven = (
            node.session is None or volume.truth is None or node.volume(volume.config.name).root is None
        )
        if unproven or world.left(node, volume, "divergence"):
            return Refusal(
                409, "not_verified",
                f"{node.name} does not equal the truth of {volume.config.name}. Bring it back first: "
                f"closeranks resync {node.name}",
            )  # fmt: skip
    drop_recovery(world, node, "an operator released the node")
    for volume in world.volumes_of(node):
        if node.volume(volume.config.name).held is None:
            node.volume(volume.config.name).held = volume.truth
    unfence(world, node, f"An operator released {node.name}.")
    return _done(world, "release", node)


def resync(world: World, asked: ResyncAsked) -> ActionView | Refusal:
    """Converge a node to the truth. In rank already: an action that is done at once."""
    node = world.nodes.get(asked.node)
    if node is None:
        return _unknown_node(asked.node)
    volumes = world.volumes_of(node)
    if asked.volume is not None:
        volumes = [volume for volume in volumes if volume.config.name == asked.volume]
        if not volumes:
            return Refusal(404, "unknown_volume", f"{node.name} has no volume {asked.volume!r}.")
    if node.session is None:
        return Refusal(
            409, "unreachable", f"{node.name} is not connected: it can only be resynced when it is back."
        )
    untrue = [volume.config.name for volume in volumes if volume.truth is None]
    if untrue:
        return Refusal(409, "no_truth", f"{untrue[0]} has no truth yet: there is nothing to converge to.")
    if asked.dry_run:
        return _dry_run(world, node, volumes)
    running = node.record.recovery
    if running is not None:
        return views.action_view(world, running.action) or _unknown_node(node.name)
    return _resync(world, node, volumes)


def _resync(world: World, node: Node, volumes: list[Volume]) -> ActionView | Refusal:
    names = [volume.config.name for volume in volumes]
    if node.fenced:
        assert node.record.fence is not None
        node.record.fence.verified = False
        return _begin(world, node, "divergence", names)
    if node.record.phase == "suspect":
        if not quorum_survives(world, node):
            return _quorum_lost(node)
        incident = _open_divergence(world, node)
        fence(world, node, "an operator asked for a resync", incident, by_hand=False, release="automatic")
        return _begin(world, node, "divergence", names)
    if any(len(node.view(name).clocks) for name in names):
        return Refusal(
            409, "unconfirmed",
            f"{node.name} differs, but not for long enough to be judged: its files may be on their way to "
            "the others. Ask again in a moment.",
        )  # fmt: skip
    behind = [volume.config.name for volume in volumes if world.left(node, volume, "divergence")]
    if behind:
        return _begin(world, node, "join" if node.record.phase == "joining" else "lag", behind)
    return _done(world, "resync", node)


def _begin(
    world: World, node: Node, purpose: Literal["divergence", "lag", "join"], names: list[str]
) -> ActionView:
    action = recovery.begin(world, node, purpose, names)
    found = views.action_view(world, action)
    assert found is not None
    return found


def _dry_run(world: World, node: Node, volumes: list[Volume]) -> ActionView:
    volume = next((one for one in volumes if world.left(node, one, "divergence")), volumes[0])
    action = _new_action(world, "resync", node, volume.config.name, "running", dry_run=True)
    target = world.target(node, volume, "divergence")
    assert target is not None
    sources = tuple(
        one.name for one in world.members(volume) if one is not node and world.may_vote(one, volume)
    )
    token = 0 if node.record.fence is None else node.record.fence.token
    world.send(node, wire.Converge(action.id, volume.config.name, target, "manual", "", token, sources, True))
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
        if undetermined_paths(world, volume) or volume.undetermined:
            return Refusal(
                409, "undetermined", f"{asked.volume} has paths without a majority: resolve them first."
            )
        root, source = volume.truth, "truth"
    else:
        node = world.nodes.get(asked.node)
        if node is None or asked.node not in volume.config.nodes:
            return _unknown_node(asked.node)
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


def _quorum_lost(node: Node) -> Refusal:
    return Refusal(
        409, "quorum_would_be_lost",
        f"Without {node.name} a majority could not be reached any more, so nobody could be judged.",
    )  # fmt: skip


def _open_divergence(world: World, node: Node) -> Incident | None:
    for incident in world.incidents.values():
        if incident.is_open and incident.node == node.name and incident.kind in ("divergence", "regression"):
            return incident
    return None


def _new_action(
    world: World, kind: str, node: Node, volume: str | None, state: Literal["running", "done"], dry_run: bool = False
) -> ActionRecord:  # fmt: skip
    action = ActionRecord(world.next_id("action"), kind, node.name, volume, state, world.now.wall_ms, dry_run)
    world.actions[action.id] = action
    world.touch_action(action)
    for old in list(world.actions)[: max(0, len(world.actions) - ACTIONS_MAX)]:
        if world.actions[old].state in ("done", "failed"):
            del world.actions[old]
            world.touch("action", old)
    return action


def _done(world: World, kind: str, node: Node) -> ActionView:
    return views.action_of(_new_action(world, kind, node, None, "done"))
