"""Random stories of replicated volumes: what people do, what breaks, and what must hold whatever happens."""

from __future__ import annotations

import random

from closeranks_coordinator.core.model import Event, ReleaseAsked, ResyncAsked, Step
from closeranks_coordinator.core.rules import GuardRules
from closeranks_proto.entries import Kind, decode_entry, encode_entry

from .agents import DIRECTORY, Files
from .trees import is_tree, tree
from .world import FakeWorld, file_of, volume_config

FILES = tree("a/one.jpg", "a/two.jpg", "a/deep/three.jpg", "b/four.jpg", "c.txt")
PATHS = (
    "a/one.jpg",
    "a/two.jpg",
    "a/deep/three.jpg",
    "a/new.jpg",
    "b/four.jpg",
    "b",
    "c.txt",
    "d/e/f",
    "d/e",
    "d",
)
NO_GUARDS = GuardRules(enabled=False)
ACCUSING = ("divergence", "regression")


class Watcher:
    """Sees every step from outside: what writers streamed, and what the truth was."""

    def __init__(self, world: FakeWorld, writers: list[str]) -> None:
        self.world = world
        self.writers = writers
        self.truth: bytes | None = None
        self.contents: set[bytes] = set()  # that the truth ever had
        self.gone: dict[bytes, set[bytes]] = {}  # by key: contents that it has left behind
        self.streamed: dict[str, bytes] = {}
        self.written: dict[bytes, str] = {}
        self.may_lose = False  # what a guard held, or was written over before it was let through
        world.after_step.append(self.check)

    def check(self, event: Event, step: Step) -> None:
        world = self.world
        view = world.fleet.volume_view(world.now(), "photos")
        assert view is not None
        self._truth(None if view.truth_root is None else bytes.fromhex(view.truth_root))
        for name in self.writers:
            root = world.node_roots.get((name, "photos"))
            if root is not None and root != self.streamed.get(name):
                self._streamed(name, root)
        for incident in world.incidents():
            assert incident.kind not in ACCUSING or incident.node not in self.writers, "no writer is accused"

    def _truth(self, root: bytes | None) -> None:
        if root is None or root == self.truth:
            return
        tree = self.world.tree
        assert is_tree(tree.walk(root)), "a disk can hold the truth"
        before = self.truth or tree.empty.root
        for one in tree.diff(root, before):
            new, old = content(one.ours), content(one.theirs)
            if new is not None:
                assert new not in self.gone.get(one.key, ()), f"{one.key!r} came back"
                self.contents.add(new)
            if old is not None and old != new:
                self.gone.setdefault(one.key, set()).add(old)
        self.truth = root

    def _streamed(self, name: str, root: bytes) -> None:
        tree, before = self.world.tree, self.streamed.get(name)
        self.streamed[name] = root
        if before is None or self.truth is None:
            return
        for one in tree.diff(root, before):
            new = content(one.ours)
            if new is not None:
                self.written.setdefault(new, f"{name} {one.key!r}")

    def end(self) -> None:
        if self.may_lose:
            return
        lost = [told for new, told in self.written.items() if new not in self.contents]
        assert not lost, f"accepted and lost: {lost}"


def content(value: bytes | None) -> bytes | None:
    if value is None:
        return None
    entry = decode_entry(value, 16)
    return entry.digest if entry.kind is Kind.FILE else None


class Teller:
    def __init__(self, seed: int, guards: GuardRules = NO_GUARDS) -> None:
        self.rng = rng = random.Random(seed)
        count = rng.choice((3, 4, 5))
        nodes = [f"node-{number:02d}" for number in range(1, count + 1)]
        self.writers = nodes if rng.random() < 0.5 else nodes[: rng.randrange(1, count)]
        policy = "any-writer" if self.writers == nodes else "writers"
        config = volume_config(
            policy=policy,
            nodes=nodes,
            writers=tuple(self.writers),
            settle_s=1.0,
            scan_interval_s=1.0,
            guards=guards,
        )
        self.world = FakeWorld(nodes, [config], {"photos": FILES})
        for agent in self.world.agents.values():
            agent.watches = rng.random() < 0.8
        self.seen = Watcher(self.world, self.writers)
        self.number = 0
        self.seed = seed
        self.world.started()

    def fresh(self) -> bytes:
        self.number += 1
        return file_of(f"{self.seed}/{self.number}", mode=self.rng.choice((0o644, 0o600)))

    def put(self, name: str, path: str, value: bytes) -> None:
        """What a person does: directories appear, what is in the way is removed."""
        agent = self.world[name]
        parts = path.split("/")
        for count in range(1, len(parts)):
            above = "/".join(parts[:count])
            if agent.disk["photos"].get(above.encode().replace(b"/", b"\0"), DIRECTORY) != DIRECTORY:
                agent.remove("photos", above)
        agent.remove("photos", path)
        agent.put("photos", path, value)

    def act(self) -> None:
        rng, world = self.rng, self.world
        name = rng.choice(self.writers)
        agent = world[name]
        match rng.choices(
            ("put", "both", "remove", "chmod", "rename", "stop", "start", "drop", "restart", "rogue", "deaf"),
            (10, 6, 5, 2, 3, 2, 4, 2, 2, 1, 1),
        )[0]:
            case "put":
                self.put(name, rng.choice(PATHS), self.fresh())
            case "both":
                path = rng.choice(PATHS)
                for one in rng.sample(self.writers, min(2, len(self.writers))):
                    if rng.random() < 0.8:
                        self.put(one, path, self.fresh())
                    else:
                        world[one].remove("photos", path)
            case "remove":
                agent.remove("photos", rng.choice((*PATHS, "a", "a/deep", "b", "d")))
            case "chmod":
                files = sorted(agent.disk["photos"].items())
                if files:
                    key, value = rng.choice(files)
                    entry = decode_entry(value, 16)
                    mode = rng.choice((0o700, 0o750, 0o640))
                    changed = type(entry)(entry.kind, entry.size, entry.digest, mode)
                    agent.write("photos", key.decode().replace("\0", "/"), encode_entry(changed))
            case "rename":
                self.rename(name, rng.choice(("a", "a/deep", "b", "d")), rng.choice(("moved", "b/in", "a/x")))
            case "stop":
                world[rng.choice(list(world.agents))].stop()
            case "start":
                self.wake()
            case "drop":
                world[rng.choice(list(world.agents))].drop(rng.random() * 2)
            case "restart":
                world.restart()
            case "rogue":
                others = [one for one in world.agents if one not in self.writers]
                if others:
                    self.put(rng.choice(others), rng.choice(PATHS), self.fresh())
            case "deaf":
                failing = world[rng.choice(list(world.agents))]
                failing.pushes_fail = not failing.pushes_fail

    def rename(self, name: str, old: str, new: str) -> None:
        agent = self.world[name]
        files = agent.disk["photos"]
        source, target = (one.encode().replace(b"/", b"\0") for one in (old, new))
        if files.get(source) != DIRECTORY or target.startswith(source + b"\0") or target == source:
            return
        moved = {
            target + key[len(source) :]: files[key] for key in list(files) if key.startswith(source + b"\0")
        }
        agent.remove("photos", old)
        self.put(name, new, DIRECTORY)
        files.update(moved)
        for key, value in moved.items():  # a rename may bring a content back to where it was
            self.seen.gone.get(key, set()).discard(content(value) or b"")

    def wake(self) -> None:
        for agent in self.world.agents.values():
            if agent.session is None:
                agent.start()

    def end(self) -> None:
        world = self.world
        for agent in world.agents.values():
            agent.pushes_fail = False
        for _ in range(30):
            self.wake()
            world.run(5)
            for name in world.agents:
                fenced = world.view(name).quarantine is not None
                if fenced and isinstance(world.ask(ReleaseAsked(name)), str):
                    world.ask(ResyncAsked(name, None, False))
                elif world.state(name) == "suspect":
                    world.ask(ResyncAsked(name, None, False))  # many at once wait for a person
            disks: list[Files] = [agent.disk["photos"] for agent in world.agents.values()]
            if world.in_rank() and all(disk == disks[0] for disk in disks):
                break
        else:
            lagging = {name: world.volume(name).lagging_paths for name in world.agents}
            raise AssertionError(f"seed {self.seed}: {world.states()} {lagging} {world.told[-10:]}")
        self.seen.end()
        accused = {one.node for one in world.incidents() if one.kind in ACCUSING}
        assert not accused & set(self.writers)


def tell(seed: int) -> None:
    teller = Teller(seed)
    for _ in range(25):
        teller.act()
        teller.world.run(teller.rng.choice((0.0, 0.02, 0.07, 0.15, 0.4, 1.5)))
    teller.end()
