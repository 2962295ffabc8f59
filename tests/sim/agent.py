"""A node's agent as a model: it scans, streams, keeps fences, converges, verifies and follows pushes.

What is modelled is what the protocol promises to the coordinator and to peers; the real agent's disk code and shell
run in `shells`. Everything is a generator that gives the seconds until it goes on, so that the process can be
killed between any two of its effects: `effect` counts them, and a fuse says at which one it dies.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from closeranks_proto import messages as wire
from closeranks_proto.limits import CREDIT_COMMITS, RECONNECT_MIN_S
from closeranks_proto.wire import clipped, decode_coordinator_message, encode_message

from .coordinator import Killed
from .disk import DIRECTORY, Copy, Files, Values, content_of, is_directory
from .orders import Orders
from .wires import COORDINATOR, Wire

if TYPE_CHECKING:
    from .fleet import World

Work = Generator[float, None, None]
LOOK_S = 0.05  # whoever waits for something looks so often
FLUSH_MAX_S = 10.0


@dataclass(slots=True)
class Window:
    """What of a journal is under way in this session."""

    acked: int
    sent: int
    root: bytes | None
    open: bool = False
    announcing: int | None = None
    resync: bool = False
    announced: int = 0


@dataclass(slots=True)
class Looked:
    """What is known of when this process looked at a copy."""

    scanned: float | None = None
    proven: float | None = None
    busy: bool = False
    asked: bool = False
    written: int = 0


@dataclass(slots=True)
class Kept:
    """What the agent's state directory holds."""

    agent_id: str
    fence: wire.FenceState | None = None
    highest_token: int = 0
    term: int = 0
    members: dict[str, wire.Member] = field(default_factory=dict)


class Agent:
    """One process after the other, over one node's disks."""

    def __init__(self, world: World, name: str, copies: dict[str, Copy], watches: bool) -> None:
        self.world, self.name, self.copies, self.watches = world, name, copies, watches
        self.time = world.time
        self.rng = world.time.stream(f"agent {name}")
        self.kept = Kept(f"id-{name}")
        self.up = False
        self.process = 0
        self.fuse: int | None = None
        self.frozen_until = 0.0
        self.slow_s = 0.0
        self.filling: float | None = None  # free bytes of its disk, while something fills it
        self.lies = 0  # proofs that it will get wrong
        self.lied: list[bytes] = []  # about which paths it did
        # The same: when it last began to look at everything.
        self.looked_at = dict.fromkeys(copies, float("-inf"))
        self._forget()

    def _forget(self) -> None:
        self.wire: Wire | None = None
        self.session = 0
        self.welcomed = False
        self.told_of_peers = False  # in this session
        self.windows: dict[str, Window] = {}
        self.looked = {name: Looked() for name in self.copies}
        self.orders = Orders(self)
        self.answers: dict[int, wire.Objects] = {}
        self.requests = 0
        self.told: dict[str, wire.VolumeStatus] = {}

    # --- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        if self.up:
            return
        self.up = True
        self.process += 1
        self._forget()
        self.spawn(self._dial())
        for name in self.copies:
            self.spawn(self._scan_for_ever(name))
            self.spawn(self.orders.push_for_ever(name))

    def crash(self, why: str, power: bool = False) -> None:
        if not self.up:
            return
        self.time.tell(f"{self.name} is killed ({why})")
        self.up, self.fuse = False, None
        self.process += 1
        if self.wire is not None:
            self.wire.drop(self.name)
        if power:
            for copy in self.copies.values():
                before = dict(copy.disk)
                self.world.damaged(self, copy, before, copy.lose_unsynced(self.rng, self.time.now))
        self._forget()
        self.world.orders_lost(self)

    def lose_state(self) -> None:
        """The state directory is gone: no index, no journal, no fence, and another identity."""
        self.world.identities += 1
        self.kept = Kept(f"id-{self.name}-{self.world.identities}")
        self.lose_index()

    def lose_index(self) -> None:
        """What it knew of its volumes is gone; numbers begin again."""
        for copy in self.copies.values():
            copy.rows, copy.root, copy.last_seq = {}, None, 0
            copy.journal.clear()
            copy.seen_at.clear()
            self.forget_decayed(copy)

    def forget_decayed(self, copy: Copy) -> None:
        """Nobody knows any more what was there before: what has decayed is what is there."""
        for value in copy.disk.values():
            self.world.taken_over(content_of(value))
        copy.decayed.clear()
        copy.found.clear()

    def emptied(self) -> None:
        """Its disk has room again."""
        self.filling = None
        state = wire.DiskState("/data", tuple(sorted(self.copies)), False, 10**9, 9 * 10**8, 0.0, None)
        self.post(wire.Activity(1000, (), (state,), ()))

    def effect(self) -> None:
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse <= 0:
                raise Killed

    def later(self, delay_s: float, what: Callable[[], None]) -> None:
        process = self.process

        def run() -> None:
            if process != self.process:
                return
            if self.time.now < self.frozen_until:
                self.time.later(self.frozen_until - self.time.now, run)
                return
            try:
                what()
            except Killed:
                self.crash("at an effect")

        self.time.later(delay_s, run)

    def spawn(self, work: Iterator[float]) -> None:
        def go() -> None:
            delay = next(work, None)
            if delay is not None:
                self.later(delay, go)

        self.later(0.0, go)

    # --- the session ---------------------------------------------------------------------------

    def _dial(self) -> Work:
        delay = RECONNECT_MIN_S
        while True:
            network, coordinator = self.world.network, self.world.coordinator
            if coordinator.up and network.reaches(self.name, COORDINATOR):
                delay = RECONNECT_MIN_S
                yield network.delay(self.name, COORDINATOR)
                self._connect()
                number = self.session
                yield 10.0  # a handshake that takes longer is given up
                if not self.welcomed and self.wire is not None:
                    self._hang_up()
                while self.wire is not None and number == self.session:
                    yield 0.2
            yield delay * (0.5 + self.rng.random())
            delay = min(delay * 2, 5.0)

    def _connect(self) -> None:
        link = Wire(self.world.network, self.name)
        self.wire, self.welcomed = link, False
        self.told_of_peers = False
        self.session += 1
        number, process = self.session, self.process
        inbox = deque[bytes]()  # in the order of their coming, whenever a stopped process goes on

        def take() -> None:
            if number == self.session and self.wire is link:
                self._hear(decode_coordinator_message(inbox.popleft()))

        def taken(frame: bytes) -> None:
            if process == self.process:
                inbox.append(frame)
                self.later(0.0, take)

        def ended() -> None:
            if process == self.process and self.wire is link:
                self._lost()

        link.takes[self.name], link.ended[self.name] = taken, ended
        self.world.coordinator.accept(link)
        kept = self.kept
        volumes = tuple(
            wire.VolumeHello(name, one.root, one.last_seq, one.first_seq, one.base_root())
            for name, one in sorted(self.copies.items())
        )
        hello = wire.Hello(
            wire.PROTOCOL, wire.PROTOCOL, "model", self.name, kept.agent_id, ("xxh3-128",), f"{self.name}:7342",
            kept.highest_token, kept.fence, volumes,
        )  # fmt: skip
        link.send(COORDINATOR, encode_message(hello))

    def _lost(self) -> None:
        self.wire, self.welcomed = None, False
        self.world.orders_lost(self)
        self.windows.clear()
        self.told.clear()

    def _hang_up(self) -> None:
        link = self.wire
        self._lost()
        if link is not None:
            link.drop(self.name)

    def post(self, message: wire.AgentMessage) -> None:
        if self.wire is not None and self.welcomed:
            self.wire.send(COORDINATOR, encode_message(clipped(message)))

    def _hear(self, message: wire.CoordinatorMessage) -> None:
        match message:
            case wire.Welcome():
                self.welcomed = True
                self.windows = {
                    name: Window(seq, seq, root) for name, seq, root in message.acked if name in self.copies
                }
                for name in self.windows:
                    self._status(name)
                    self.pump(name)
                self.spawn(self._beat_for_ever(self.session))
            case wire.Refused():
                self._hang_up()
            case wire.Ack():
                self._acked(message)
            case wire.Resync():
                window = self.windows[message.volume]
                if message.seq >= window.announced and window.open:
                    window.resync, window.announcing = True, None
                    self.pump(message.volume)
            case wire.Want():
                self._give(message)
            case wire.Objects():
                self.answers[message.request] = message
            case wire.Membership():
                if message.term >= self.kept.term or not self.told_of_peers:
                    # The first one is taken: a coordinator may count from the beginning.
                    self.told_of_peers = True
                    self.kept.term = message.term
                    self.kept.members = {one.node: one for one in message.members}
            case _:
                self.orders.take(message)

    def _acked(self, ack: wire.Ack) -> None:
        window, copy = self.windows[ack.volume], self.copies[ack.volume]
        assert ack.seq <= window.sent, f"{self.name}: an acknowledgement of {ack.seq}, sent was {window.sent}"
        window.acked = max(window.acked, ack.seq)
        if window.announcing is not None and ack.seq >= window.announcing:
            window.announcing = None
        if copy.last_seq >= window.sent:
            copy.acknowledge(window.acked)
        self.pump(ack.volume)

    def pump(self, name: str) -> None:
        """Send what the window allows."""
        window, copy = self.windows.get(name), self.copies[name]
        if window is None or copy.root is None or not self.welcomed:
            return
        if not window.open:
            if copy.went_back(window.acked, window.root):
                self._announce(copy, window, window.acked, wire.PUT_BACK)
            else:
                if copy.last_seq >= window.acked:  # a number of ours
                    copy.acknowledge(window.acked)
                if not copy.follows(window.acked, window.root):
                    self._announce(copy, window, window.acked)
            window.open, window.resync = True, False
        elif window.resync:
            self._announce(copy, window, 0)
            window.announced = window.sent + 1
        for record in copy.journal:
            if window.announcing is not None or window.sent - window.acked >= CREDIT_COMMITS:
                return
            if record.seq > window.sent:
                age_ms = int((self.time.now - copy.seen_at[record.seq]) * 1000)
                window.sent = record.seq
                if isinstance(record, wire.Announce):
                    window.announcing = record.seq
                    told: wire.AgentMessage = wire.Announce(
                        name,
                        record.seq,
                        record.root,
                        record.cause,
                        age_ms,
                        decayed=record.decayed,
                        brought=record.brought,
                    )
                else:
                    told = wire.Commit(
                        name, record.seq, record.base_root, record.root, record.edits, record.cause, age_ms
                    )
                self.effect()
                self.post(told)

    def _announce(self, copy: Copy, window: Window, after: int, cause: str = "scan") -> None:
        copy.announce(cause, self.time.now, after)
        window.sent = window.acked = copy.first_seq - 1
        window.resync, window.announcing = False, None

    def _give(self, want: wire.Want) -> None:
        copy = self.copies[want.volume]
        roots = {one.root for one in copy.journal if isinstance(one, wire.Announce)} | {copy.root}
        held: dict[bytes, bytes] = {}
        for root in sorted(one for one in roots if one is not None):
            held.update(copy.tree.pages(root, held.__contains__))
        found = tuple(held[one] for one in want.digests if one in held)
        missing = tuple(one for one in want.digests if one not in held)
        self.post(wire.Objects(want.volume, want.request, found, missing, True))

    def _beat_for_ever(self, number: int) -> Work:
        while number == self.session and self.welcomed:
            self._beat(tuple(self.copies))
            if self.filling is not None:
                self.post(self._activity())
            yield 1.0 if self.filling is not None else 5.0

    def _beat(self, names: tuple[str, ...]) -> None:
        beats: list[wire.VolumeBeat] = []
        for name in names:
            window, copy, looked = self.windows.get(name), self.copies[name], self.looked[name]
            if window is None or not window.open:
                continue
            in_order = copy.problem is None
            scanned, proven = (
                None if at is None or not in_order else int((self.time.now - at) * 1000) + 1
                for at in (looked.scanned, looked.proven)
            )
            beats.append(wire.VolumeBeat(name, copy.last_seq, scanned, proven))
        self.post(wire.Beat(tuple(beats)))

    def _status(self, name: str) -> None:
        copy = self.copies[name]
        if copy.root is None and not copy.is_gone():
            return
        problem = copy.problem or ("no_space" if copy.no_room_for_state else None)
        found = None if problem is None else wire.Problem(problem, problem)
        unreadable = tuple(wire.Unreadable(key, "unreadable", "EIO") for key in sorted(copy.unreadable))
        status = wire.VolumeStatus(
            name, found, len(copy.rows), len(copy.rows), 0, unreadable, len(unreadable), 10**9,
            int(self.filling or 10**8), 5, "fanotify" if self.watches else "rescan",
        )  # fmt: skip
        if self.told.get(name) != status and self.welcomed:
            self.told[name] = status
            self.post(status)

    def _activity(self) -> wire.Activity:
        free = max(0.0, self.filling or 0.0)
        state = wire.DiskState(
            "/data", tuple(sorted(self.copies)), False, 10**9, int(free), 10.0**7, free / 10**7
        )
        return wire.Activity(1000, (), (state,), ())

    # --- looking -------------------------------------------------------------------------------

    def _scan_for_ever(self, name: str) -> Work:
        while True:
            yield from self.alone(name, self.scan(name, "scan"))
            for _ in range(20):
                yield LOOK_S
                if self.looked[name].asked:
                    break
            if self.copies[name].decayed:
                yield from self.alone(name, self._scrub(name))

    def _scrub(self, name: str) -> Work:
        """Contents are read again: what decayed is told as what it is, in a step of its own."""
        yield 0.2 + self.slow_s * self.rng.random()
        copy = self.copies[name]
        if copy.is_gone() or copy.no_room_for_state or copy.root is None:
            return
        found: Values = {
            key: value
            for key, value in copy.decayed.items()
            if copy.disk.get(key) == value and key in copy.rows
        }
        self.effect()
        copy.commit(found, "scrub", self.time.now)
        copy.decayed.clear()
        self.effect()
        self.pump(name)

    def changed(self, name: str) -> None:
        """Somebody wrote: whoever watches looks at once."""
        self.looked[name].written += 1
        if self.watches and self.up:
            self.later(0.05 + 0.1 * self.rng.random(), lambda: self.ask(name))

    def ask(self, name: str) -> None:
        self.looked[name].asked = True

    def alone(self, name: str, work: Work) -> Work:
        """One thing at a time touches a volume."""
        looked = self.looked[name]
        while looked.busy:
            yield LOOK_S
        looked.busy = True
        yield from work
        looked.busy = False

    def scan(self, name: str, cause: str) -> Work:
        copy, looked, started = self.copies[name], self.looked[name], self.time.now
        looked.asked = False
        if copy.is_gone():
            self._status(name)
            return
        seen = self._read(copy)
        yield 0.005 + self.slow_s * self.rng.random()
        if copy.is_gone():
            return
        if copy.no_room_for_state:
            self._status(name)
            return
        self.effect()
        edits: Values = {
            key: seen.get(key)
            for key in seen.keys() | copy.rows.keys()
            if seen.get(key) != copy.rows.get(key)
        }
        copy.commit(edits, cause, started)
        self.effect()
        looked.scanned = self.looked_at[name] = started
        if self.watches:
            looked.proven = started
        if edits and self.watches:
            self.post(
                wire.Activity(50, (wire.VolumeActivity(name, len(edits), 100 * len(edits), 0),), (), ())
            )
        self._status(name)
        self.pump(name)
        self._beat((name,))

    def _read(self, copy: Copy) -> Files:
        """What can be read; where nothing can, what was there before."""
        seen = dict(copy.disk)
        for key, value in copy.decayed.items():
            if seen.get(key) == value and key in copy.rows:
                seen[key] = copy.rows[key]  # its stat is what it was
        files = (key for key in copy.unreadable if not is_directory(copy.disk.get(key, DIRECTORY)))
        copy.unreadable = set(files)
        for key in sorted(copy.unreadable):
            if key in copy.rows:
                seen[key] = copy.rows[key]
            else:
                del seen[key]
        return seen

    def flush(self, name: str) -> Work:
        """Until the coordinator has what was committed."""
        end = self.time.now + FLUSH_MAX_S
        while self.time.now < end:
            window = self.windows.get(name)
            if window is None or (window.open and window.acked >= self.copies[name].last_seq):
                return
            yield LOOK_S

    # --- for peers -----------------------------------------------------------------------------

    def serves(self, asker: Agent, volume: str, key: bytes, content: bytes) -> bool:
        """Whether the bytes read from disk just now are what was asked for, and this node may give them.

        Of that path alone: nobody looks for a content under other names.
        """
        copy = self.copies.get(volume)
        if not self.up or self.time.now < self.frozen_until or self.kept.fence is not None or copy is None:
            return False
        member = self.kept.members.get(asker.name)
        if asker.kept.term < self.kept.term or (member is not None and not member.may_fetch):
            return False
        return (
            copy.problem is None and content_of(copy.disk.get(key)) == content and key not in copy.unreadable
        )
