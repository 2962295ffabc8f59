"""One seed's world of whole programs: real directories below /dev/shm, real databases, and a loop on invented time.

Two phases as in the swarm. What holds is told from outside: by the files on the disks, by the answers of the core, and
by what lies in the nodes' trash.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import hashlib
import logging
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiohttp import web

from closeranks_coordinator.config import load_coordinator_config
from closeranks_coordinator.core.model import (
    AllowAsked,
    Event,
    Now,
    QuarantineAsked,
    Refusal,
    RejectAsked,
    ReleaseAsked,
    ResyncAsked,
    Send,
    Step,
)
from closeranks_coordinator.core.stepping import Stepping
from closeranks_coordinator.runtime import Coordinator
from closeranks_coordinator.storage.sqlite import open_store

from ..invariants import Violation, hold
from .drive import Drive
from .host import COORDINATOR, Host
from .loop import PROCESS, Loop, Process
from .promises import Promises
from .taps import Taps

GOAL_MAX_S = 400.0
NAMED_MAX_S = 60.0
PROTECT_S = 5.0  # of the store's objects: more than a transaction takes here
REASSERT_S = 60.0  # of paths without a majority, until a person decides
FILES = (
    "a/one.jpg",
    "a/two.jpg",
    "a/deep/three.jpg",
    "b/four.jpg",
    "b/five.jpg",
    "c.txt",
    "d/e/f",
    "d/g",
    "h.bin",
)
ACCUSING = ("divergence", "regression")


class Faults(logging.Handler):
    """What must not stand in the product's log: tracebacks, and journals that do not lead where they say."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []
        self.gaps: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "another root than the commit claims" in text or "does not start from the root" in text:
            self.gaps.append(text)
        if record.exc_info and record.levelno >= logging.ERROR:
            error = record.exc_info[1]
            self.found.append(f"{record.getMessage()}: {error!r}")


class World:
    """A fleet, its faults and its people."""

    def __init__(
        self, loop: Loop, base: Path, seed: int, policy: str, nodes: int, skew_s: dict[str, float]
    ) -> None:
        self.loop, self.base, self.seed, self.policy, self.skew_s = loop, base, seed, policy, skew_s
        self.rng = random.Random(f"{seed}/shells")
        self.story: list[str] = []
        self.deeds: Counter[str] = Counter()
        self.faults = Faults()
        self.graves: list[object] = []
        self.violations: list[Violation] = []
        self.taps = Taps()
        self.taps.install()
        self.promises = Promises(self)
        self.promises.install()
        self.drive = Drive(base / "coordinator", random.Random(f"{seed}/drive"), self._cut_coordinator)
        self.taps.drives[""] = self.drive
        self.fenced: dict[str, int] = {}
        self.process: Process | None = None
        self.work: asyncio.Task[None] | None = None
        self.coordinator: Coordinator | None = None
        self.token = 0
        self.steps = 0  # of the core that were looked at
        self.number = 0
        self.written: set[bytes] = set()  # every content that somebody wrote anywhere
        self.given_up: set[bytes] = set()  # those that a writer wrote over or removed
        self.stale: dict[
            bytes, str
        ] = {}  # contents that an image brought back and nobody had any more: to where
        self.rejected = False
        self.meant: dict[str, bytes | None] = {name: name.encode() * 40 for name in FILES}  # by the site
        self.unclear_since: float | None = None
        self.names = tuple(f"node-{number:02d}" for number in range(1, nodes + 1))
        self.writers = self.names if policy == "any-writer" else self.names[:1] if policy == "writers" else ()
        self.hosts = {name: Host(self, name, number) for number, name in enumerate(self.names)}
        self._hash = hashlib.blake2b(digest_size=16)
        for host in self.hosts.values():
            for name in FILES:
                host.write(name, self.meant[name])
        self.story.clear()
        extra = f"writers = {list(self.writers)!r}\n".replace("'", '"') if policy == "writers" else ""
        (base / "coordinator.toml").write_text(
            f'[coordinator]\nlisten_agents = "{COORDINATOR[0]}:{COORDINATOR[1]}"\nlisten_api = "127.0.0.1:7341"\n'
            f'state_dir = "{base}/coordinator"\n[fleet]\nnodes = {list(self.names)!r}\n'.replace("'", '"')
            + f'[[volume]]\nname = "photos"\npolicy = "{policy}"\n{extra}settle_s = 1.0\nscan_interval_s = 1.0\n'
            'on_divergence = "resync"\nchunk_bytes = 4096\n'
        )

    def note(self, text: str) -> None:
        self._hash.update(f"{self.loop.now:.6f} {text}\n".encode())
        self.story.append(f"{self.loop.now - 1000:9.3f}  {text}")

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    # --- the coordinator -----------------------------------------------------------------------

    def start_coordinator(self) -> None:
        if self.process is not None and not self.process.dead:
            return
        self.process = Process("")
        self.drive.mend()
        context = contextvars.copy_context()
        context.run(PROCESS.set, self.process)
        self.work = self.loop.create_task(self._serve(self.process), context=context)

    async def _serve(self, process: Process) -> None:
        config = load_coordinator_config(self.base / "coordinator.toml", environ={})
        self.coordinator = Coordinator(
            config, open_store(Path(config.state_dir), config.fleet.digest, protect_s=PROTECT_S)
        )
        nodes = self.coordinator.fleet._world.nodes
        self.fenced = {name: node.record.fence.token for name, node in nodes.items() if node.record.fence}
        token = self.coordinator.fleet._world.counters.token
        hold("token_grows", token >= self.token, f"tokens go on from {token}, {self.token} was given")
        self._watch_steps(self.coordinator)
        app = web.Application()
        app.add_routes(self.coordinator.sessions.routes())
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
        await runner.setup()
        await web.TCPSite(runner, *COORDINATOR).start()
        await self.coordinator.run()

    def _watch_steps(self, coordinator: Coordinator) -> None:
        """Look at the core where a step of it is whole, as the shell takes it: in parts."""
        begin = coordinator.fleet.begin

        @functools.wraps(begin)
        def watched(now: Now, event: Event) -> Stepping:
            stepping = begin(now, event)
            end = stepping.end

            def ended(now: Now) -> Step:
                made = end(now)
                self._stepped(event, made)
                return made

            stepping.end = ended  # type: ignore[method-assign]
            return stepping

        coordinator.fleet.begin = watched  # type: ignore[method-assign]

    def _stepped(self, event: Event, made: Step) -> None:
        self.steps += 1
        for effect in made.effects:
            if isinstance(effect, Send):
                self._hash.update(
                    f"{self.loop.now:.6f} {effect.node} {type(effect.message).__name__}\n".encode()
                )
        self.checked(self.after_step, event)

    def kill_coordinator(self) -> None:
        if self.process is not None and not self.process.dead and self.coordinator is not None:
            self.note("the coordinator is killed")
            self.process.dead = True
            self._bury()
            self.drive.mend()

    def _bury(self) -> None:
        assert self.process is not None
        self.token = max(self.token, self._sent_token())
        self.loop.network.killed(self.process)
        self.graves.append((self.coordinator, self.work))
        self.drive.turn_off()
        self.taps.close("")
        self.coordinator, self.fenced = None, {}

    @property
    def running(self) -> Coordinator | None:
        """The program, once it has started."""
        return self.coordinator

    def _cut_coordinator(self) -> None:
        assert self.process is not None
        self.process.dead = True
        self.loop.call_soon(self._coordinator_lost_power, context=contextvars.Context())

    def _coordinator_lost_power(self) -> None:
        self.note("the coordinator has lost its power")
        self.deeds["coordinator cut off"] += 1
        self._bury()
        self.drive.lose()
        self.drive.mend()
        (self.base / "coordinator" / "coordinator.sqlite-shm").unlink(missing_ok=True)
        self.checked(self.promises.check_store, self.base / "coordinator")
        self.loop.call_later(0.2 + 4 * self.rng.random(), self.start_coordinator)

    def checked(self, check: Any, *args: Any) -> None:
        """What it finds ends the seed at the next look."""
        try:
            check(*args)
        except Violation as error:
            self.violations.append(error)

    def _sent_token(self) -> int:
        """The highest that a node has ever kept."""
        return max(
            (host.state.highest_token for host in self.hosts.values() if host.state is not None), default=0
        )

    # --- what must hold ------------------------------------------------------------------------

    @property
    def core(self) -> Any:
        assert self.coordinator is not None, "it runs"
        return self.coordinator.fleet._world

    def after_step(self, event: Event) -> None:
        core = self.core
        fenced = {name: node.record.fence.token for name, node in core.nodes.items() if node.record.fence}
        by_itself = not isinstance(event, ResyncAsked | RejectAsked) and any(
            self.fenced.get(name) is None and not core.nodes[name].record.fence.by_hand for name in fenced
        )
        few = not by_itself or len(fenced) <= core.config.max_quarantined
        self.fenced = fenced
        hold("few_fenced", few, f"{sorted(fenced)} are fenced")
        for incident in core.incidents.values():
            wrong = incident.kind in ACCUSING and incident.node in self.writers
            hold("no_false_accusation", not wrong, f"the writer {incident.node} is accused")

    def check_disks(self) -> None:
        """What somebody wrote and only closeranks replaced or removed is still there: in the tree or the trash."""
        for host in self.hosts.values():
            lost = host.owed - host.kept()
            hold(
                "trash_keeps",
                not lost,
                f"{host.name} has {sorted(one[:40] for one in lost)} nowhere any more",
            )

    def check_accepted(self) -> None:
        """In the end: what a writer wrote is in its tree, if under another name, unless a writer gave it up."""
        self.check_stale()
        if self.rejected or not self.writers or self.deeds["put_back"] or self.deeds["index_lost"]:
            return
        for name in self.writers:
            host = self.hosts[name]
            lost = host.owed - self.given_up - {content for _, content in host.files().values()}
            hold(
                "accepted_stays",
                not lost,
                f"{name} has {sorted(one[:40] for one in lost)} in no tree any more",
            )

    def check_stale(self) -> None:
        """What only an image had stays where it is put back."""
        for host in self.hosts.values():
            came = {content for _, content in host.files().values()} & self.stale.keys()
            wrong = sorted(one[:40] for one in came if self.stale[one] != host.name)
            hold("deleted_stays", not wrong, f"{host.name} has {wrong}, which an image brought back")

    def check_faults(self) -> None:
        hold("journal_replays", not self.faults.gaps, "; ".join(self.faults.gaps[:3]))
        hold("no_fault_of_our_own", not self.faults.found, "; ".join(self.faults.found[:3]))

    def is_goal(self) -> bool:
        if self.coordinator is None or not self.coordinator.fleet.fleet_view(self.coordinator.now()).in_rank:
            return False
        trees = [host.files() for host in self.hosts.values()]
        return all(tree == trees[0] for tree in trees)

    def stands(self) -> Iterator[str]:
        for name, node in self.core.nodes.items():
            yield f"{name} {node.record.phase}{' fenced' if node.record.fence else ''}{'' if node.session else ' away'}"

    # --- people --------------------------------------------------------------------------------

    def fresh(self, who: str) -> bytes:
        self.number += 1
        return f"{self.seed} {who} {self.number}\n".encode() * self.rng.choice((1, 3, 200, 600))

    async def attend(self) -> None:
        """What a person does who looks at the screen."""
        if self.coordinator is None:
            return
        for name in sorted(self.core.holds):
            if self.core.holds[name].state == "held":
                reject = self.rng.random() < 0.3
                self.rejected |= reject
                await self._ask(RejectAsked(name) if reject else AllowAsked(name, 5.0))
        for name, node in list(self.core.nodes.items()):
            if node.record.fence is not None:
                if isinstance(await self._ask(ReleaseAsked(name)), Refusal):
                    await self._ask(ResyncAsked(name, None, False))
            elif node.record.phase == "suspect":
                await self._ask(ResyncAsked(name, None, False))
        if any(one.kind == "undetermined" and one.is_open for one in self.core.incidents.values()):
            self._decide()
        else:
            self.unclear_since = None

    async def mourn(self) -> None:
        """What the truth has and nobody any more: a writer's own state counts instead."""
        for name in self.writers if self.coordinator is not None else ():
            record = self.core.nodes[name].record
            if record.phase in ("joining", "resyncing", "lagging") and record.fence is None:
                await self._ask(QuarantineAsked(name, "nobody has what it lacks"))
                await self._ask(ReleaseAsked(name))

    def _decide(self) -> None:
        """Where no majority comes about by itself: what the site wrote last, on all nodes, as the incident says."""
        self.unclear_since = self.unclear_since or self.loop.now
        if self.loop.now < self.unclear_since + REASSERT_S:
            return
        self.unclear_since = None
        self.note("the site writes what it means on all nodes")
        for name, content in sorted(self.meant.items()):
            for host in self.hosts.values():
                if host.content(name) != content:
                    host.write(name, content)

    async def _ask(self, event: Any) -> object:
        coordinator, process = self.coordinator, self.process
        if coordinator is None:
            return None
        context = contextvars.copy_context()
        context.run(PROCESS.set, process)
        return await asyncio.wait_for(
            self.loop.create_task(_asked(coordinator, event), context=context), 30.0
        )


async def _asked(coordinator: Coordinator, event: Any) -> object:
    return await coordinator.ask(event)
