"""A writer before the brake, for its tests: of a small fleet (`a_world`), and before a lone meter (`Writer`)."""

from __future__ import annotations

from closeranks_coordinator.core.meters import Meter
from closeranks_coordinator.core.rules import GuardRules
from closeranks_coordinator.core.truth import Values
from closeranks_coordinator.core.windows import Usual
from closeranks_proto.entries import Entry, Kind, encode_entry
from fakeworld import FakeWorld, file_of, key_of, volume_config

NODES = ("n1", "n2", "n3")
KEYS = [key_of(f"d{number % 4}/f{number:04}") for number in range(1200)]
TREE = {key: file_of(number) for number, key in enumerate(KEYS)} | {
    key_of(f"d{number}"): encode_entry(Entry(Kind.DIRECTORY, mode=0o755)) for number in range(4)
}
LINK = encode_entry(Entry(Kind.SYMLINK, 7, target=b"/evil/x"))
FILES = 100
Tree = dict[bytes, bytes]


def a_world(rules: GuardRules | None = None) -> FakeWorld:
    volume = volume_config(policy="writers", writers=("n1",), guards=rules or GuardRules())
    world = FakeWorld(NODES, [volume], {"photos": TREE})
    for agent in world.agents.values():
        agent.watches, agent.scan_interval_s, agent.disk_bytes = True, 300.0, (2 * 10**12, 10**12)
    return world.started()


def commit(world: FakeWorld) -> None:
    world["n1"]._stream("photos", "watch")


def truth(world: FakeWorld) -> dict[bytes, bytes]:
    view = world.fleet.volume_view(world.now(), "photos")
    assert view is not None
    assert view.truth_root is not None
    return dict(world.tree.walk(bytes.fromhex(view.truth_root)))


def guards_that_hold(world: FakeWorld) -> list[str]:
    found = [world.fleet.hold_view(one) for one in world.fleet.hold_ids()]
    return [one.guard for one in found if one is not None and one.state == "held"]


class Writer:
    """A writer whose changes are all let through, one commit after the other."""

    def __init__(self) -> None:
        self.meter = Meter.new(Usual(0), GuardRules())
        self.truth: Tree = {}
        self.now = 1000.0
        self.commit({b"file-%03d" % number: file_of(number) for number in range(FILES)})
        self.now += 3600.0  # all that is long ago

    def commit(self, tree: Tree, let_through: bool = True) -> None:
        self.now += 1.0
        own: dict[bytes, Values] = {
            key: (tree.get(key), self.truth.get(key))
            for key in sorted(tree.keys() | self.truth.keys())
            if tree.get(key) != self.truth.get(key)
        }
        self.meter.count(own, len(self.truth), self.now, lambda _key, _before, _after: 0)
        if let_through:
            self.meter.let_through(own, self.now)
            self.truth = tree

    @property
    def lost(self) -> int:
        return self.meter.shares.lost(self.now)

    @property
    def altered(self) -> int:
        return self.meter.shares.altered(self.now)


def some(tree: Tree, count: int) -> list[bytes]:
    return sorted(tree)[:count]


def without(tree: Tree, keys: list[bytes]) -> Tree:
    return {key: value for key, value in tree.items() if key not in keys}
