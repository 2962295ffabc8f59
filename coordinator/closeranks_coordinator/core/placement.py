"""The configuration put into force: nodes and volumes come and go, settings change.

What is known about a node or volume that stays is kept. A change of what decides which entries a tree
has (ignore, track, chunk length) makes another tree: nobody is accused of it, and a new truth is founded
from scans that were made by the new settings.
"""

from __future__ import annotations

from . import seconds
from .fencing import drop_recovery
from .history import TruthHistory
from .lateness import Lateness
from .model import FleetConfig, VolumeConfig
from .nodes import Node, View, Volume, chunk_bytes_in, settings_of
from .records import NodeRecord, VolumeRecord
from .world import World


def configure(world: World, config: FleetConfig) -> None:
    """SIGHUP or reload."""
    for name in sorted(set(world.nodes) - set(config.nodes)):
        drop_recovery(world, world.nodes[name], "the node was removed from the fleet")
        world.touch("node", name)
        world.touch("writers", name)
    records = {name: volume.record for name, volume in world.volumes.items()}
    for name in sorted(set(records) - {volume.name for volume in config.volumes}):
        world.touch("volume", name)
        world.repairs.pop(name, None)
        world.touch("repairs", name)
    world.config = config
    place(world, config, records)
    for volume in world.volumes.values():
        if volume.config.policy == "quorum":
            nodes = len(volume.config.nodes)
            world.log("info", f"{volume.name}: {volume.need} of {nodes} nodes are a quorum now")


def place(world: World, config: FleetConfig, records: dict[str, VolumeRecord]) -> None:
    """Hold what is known against the configuration."""
    _place_nodes(world, config)
    _place_volumes(world, config, records)
    for node in world.nodes.values():
        _unassign(world, node)
    _close_orphans(world)


def _place_nodes(world: World, config: FleetConfig) -> None:
    known, world.nodes = world.nodes, {}
    for name in config.nodes:
        node = known.get(name)
        if node is None:
            record = NodeRecord(story=["joining"], since_ms=world.now.wall_ms)
            node = Node(name, record, gone_at=world.now.mono)
        world.nodes[name] = node


def _place_volumes(world: World, config: FleetConfig, records: dict[str, VolumeRecord]) -> None:
    old, world.volumes = world.volumes, {}
    world.assign()
    for one in config.volumes:
        record = records.get(one.name) or VolumeRecord(settings=settings_of(one))
        volume = old.get(one.name)
        if volume is None:
            history = TruthHistory(
                world.differ, [(order, root) for order, root, _ in record.roots], world.now.mono
            )
            volume = Volume(one, record, history)
        _reconfigure(world, volume, one)


def _reconfigure(world: World, volume: Volume, config: VolumeConfig) -> None:
    if volume.config.policy != config.policy:
        volume.undetermined = frozenset()
    if (volume.config.policy, volume.config.writers) != (config.policy, config.writers):
        _look_anew(world, volume)
    volume.config, volume.settings, volume.decided = config, settings_of(config), None
    world.volumes[volume.name] = volume
    world.assign()
    if volume.record.settings != volume.settings:
        _found_again(world, volume)


def _look_anew(world: World, volume: Volume) -> None:
    """What was a writer's change may be a difference of its own now, and the other way round."""
    for node in world.nodes.values():
        view = node.views.get(volume.name)
        if view is not None:
            view.stand = view.analysis = view.changes = view.size = None
            view.late, view.lag_since = Lateness(), None


def _found_again(world: World, volume: Volume) -> None:
    """Other rules make another tree: nobody is accused of it, and a new truth is founded (RULES 3.5)."""
    _remember_cut(world, volume)
    if volume.config.replicated and volume.truth is not None:
        volume.record.before = volume.truth
    volume.record.settings, volume.record.roots = volume.settings, []
    volume.history.clear()
    volume.undetermined, volume.votes_since = frozenset(), None
    world.touch("volume", volume.name)
    world.log("info", f"{volume.name}: its settings have changed; a new truth is founded")
    for node in (world.nodes[name] for name in volume.config.nodes):
        stored = node.volume(volume.name)
        if stored.held is not None and volume.record.before is not None:
            # A second version that nobody else has is a change of its own: it would give way to what came first.
            own = seconds.at_plain_names(world, volume, node, volume.record.before)
            edited = world.tree.edit(stored.held, [(key, None) for key in own])
            world.keep(edited.pages)
            stored.before = edited.root
        stored.held, stored.withheld, stored.anew = None, (), False
        node.views[volume.name] = View(seen=node.view(volume.name).seen)
        node.scanned.pop(volume.name, None)
        if not node.fenced:
            drop_recovery(world, node, "the volume's settings have changed")
            for incident in world.accusing(node, volume.name):
                incident.note(world.now.wall_ms, "note", "The volume's settings have changed.")
                world.close(incident)
            if node.record.phase != "joining":
                world.move(node, "joining")
        world.touch_node(node)


def _remember_cut(world: World, volume: Volume) -> None:
    """Up to which length contents have the same digest by all settings since the oldest that is remembered."""
    record, cuts = volume.record, {chunk_bytes_in(volume.record.settings), volume.config.chunk_bytes}
    stored = [world.nodes[name].volume(volume.name) for name in volume.config.nodes]
    if record.before is None and all(one.before is None for one in stored):
        record.whole_bytes = None
    if len(cuts) > 1:
        record.whole_bytes = min(*cuts, *(() if record.whole_bytes is None else (record.whole_bytes,)))


def _unassign(world: World, node: Node) -> None:
    """Forget volumes that are no longer this node's."""
    assigned = {volume.name for volume in world.volumes_of(node)}
    for name in sorted(set(node.record.volumes) - assigned):
        del node.record.volumes[name]
        node.views.pop(name, None)
        node.scanned.pop(name, None)
        node.observed.pop(name, None)
        world.touch_node(node)
    work = node.record.recovery
    if work is not None and not assigned & set(work.volumes) and not node.fenced:
        drop_recovery(world, node, "the volume is no longer this node's")


def _close_orphans(world: World) -> None:
    """Incidents of what is gone have nobody to end them."""
    for incident in world.open_incidents():
        node = None if incident.node is None else world.nodes.get(incident.node)
        if incident.node is not None and node is None:
            why = f"{incident.node} was removed from the fleet."
        elif incident.volume is not None and incident.volume not in world.volumes:
            why = f"Volume {incident.volume} was removed."
        elif node is not None and incident.volume is not None and incident.volume not in node.record.volumes:
            why = f"{incident.volume} is no longer a volume of {incident.node}."
        else:
            continue
        incident.note(world.now.wall_ms, "note", why)
        world.close(incident)
