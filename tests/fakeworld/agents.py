"""A fake agent: files as entries in dicts, and the answers of a real agent after some invented time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from closeranks_coordinator.core.model import (
    Connected,
    Disconnected,
    FromAgent,
    RootStored,
    Scanned,
    Watched,
)
from closeranks_proto import messages as wire
from closeranks_proto.audits import seeded_digest
from closeranks_proto.digests import XXH3_128
from closeranks_proto.entries import SPECIAL_BITS, Entry, Kind, decode_entry, encode_entry

if TYPE_CHECKING:
    from .world import FakeWorld

Files = dict[bytes, bytes]  # key to value
Edits = tuple[tuple[bytes, bytes | None], ...]
Commit = tuple[bytes, str, Edits]  # root, cause, what it changed
WIDTH = 16
DIRECTORY = encode_entry(Entry(Kind.DIRECTORY, mode=0o755))


@dataclass(slots=True)
class FakeAgent:
    """One node. `disk` may be written by a test at any time; nobody knows before the next scan."""

    world: FakeWorld
    name: str
    disk: dict[str, Files]
    scan_interval_s: float = 1.0
    order_s: float = 0.3  # how long a converge or a verification takes
    verify_s: float | None = None  # a verification, where that takes as long as there is much to read
    agent_id: str = ""
    session: str | None = None
    fence: wire.FenceState | None = None
    highest_token: int = 0
    problems: dict[str, wire.Problem] = field(default_factory=dict)
    fails: wire.Problem | None = None  # every converge fails with it
    withholds: bool = False  # special mode bits are not written
    deaf: bool = False  # orders are not answered
    watches: bool = False  # it sees changes at once, and proves it when it is asked
    disk_bytes: tuple[int, int] = (10**9, 10**8)  # in all, and free
    storm: bool = False  # it listens in samples: what it commits is only the beginning
    hush: bool = False  # its watcher can prove nothing
    push_s: float = 0.05  # how long a push takes
    pushes_fail: bool = False
    unmakeable: set[bytes] = field(default_factory=set)  # what its disk does not take, or no peer gives
    push_problem: wire.Problem | None = None  # why they do
    hides: set[bytes] = field(default_factory=set)  # its disk has other bytes there than its index says
    # How it answers them; None: honestly.
    audits: Callable[[wire.Audit], wire.AuditAnswer | None] | None = None
    membership: wire.Membership | None = None
    told: dict[str, bytes] = field(default_factory=dict)  # the root that the coordinator has stored
    scan_at: dict[str, float] = field(default_factory=dict)  # start of the last complete scan
    got: list[wire.CoordinatorMessage] = field(default_factory=list)
    bytes_moved: int = 0
    taken: int = 0  # of its disk, by what pushes and converges brought
    trash: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    withheld: dict[str, set[bytes]] = field(default_factory=dict)
    hands: dict[tuple[str, bytes], wire.Hand] = field(default_factory=dict)  # of writes not streamed yet
    journal: dict[str, list[Commit]] = field(default_factory=dict)  # what was not streamed yet, oldest first
    _running: dict[str, wire.Converge | wire.Verify] = field(default_factory=dict)
    _process: int = 0  # the incarnation: what an earlier one had planned does not happen

    def __post_init__(self) -> None:
        self.agent_id = self.agent_id or f"id-{self.name}"

    # --- the process and its connection --------------------------------------------------------

    def start(self) -> None:
        """The process starts: it scans at once, then at every interval."""
        self._process += 1
        self._running.clear()
        self._again(self._scan_all, 0.0)
        self.connect()

    def stop(self) -> None:
        """The process is killed; its disk, its fence and its identity stay."""
        self.disconnect()
        self._process += 1
        self._running.clear()
        self.scan_at.clear()

    def connect(self) -> None:
        world = self.world
        if self.session is not None:
            return
        self.session = world.new_session()
        volumes = tuple(sorted(self.disk))
        world.event(
            Connected(
                self.name, self.session, self.agent_id, f"{self.name}:7342", self.highest_token, self.fence, volumes
            )
        )  # fmt: skip
        for volume in volumes:
            known = world.node_roots.get((self.name, volume))
            if known is not None:
                world.event(RootStored(self.name, volume, known, "known", world.mono))
            self._status(volume)
            self._stream(volume, "scan")
            self._beat(volume)

    def disconnect(self) -> None:
        if self.session is not None:
            session, self.session = self.session, None
            self.world.event(Disconnected(self.name, session))

    def drop(self, seconds: float) -> None:
        """The connection breaks, and is made again if the process still lives."""
        if self.session is not None:
            self.disconnect()
            self.redial(seconds)

    def redial(self, seconds: float) -> None:
        self._again(self.connect, seconds)

    # --- scans ---------------------------------------------------------------------------------

    def write(self, volume: str, path: str, value: bytes | None, by: wire.Hand | None = None) -> None:
        key = path.encode().replace(b"/", b"\0")
        if by is not None:
            self.hands[volume, key] = by
        if value is None:
            self.disk[volume].pop(key, None)
        else:
            self.disk[volume][key] = value
        if self.watches:
            self._again(lambda: self._stream(volume, "watch"), 0.05)

    def put(self, volume: str, path: str, value: bytes) -> None:
        """Write, with the directories that the path lies in."""
        parts = path.split("/")
        for count in range(1, len(parts)):
            above = "\0".join(parts[:count]).encode()
            if above not in self.disk[volume]:
                self.disk[volume][above] = DIRECTORY
        self.write(volume, path, value)

    def remove(self, volume: str, path: str) -> None:
        """Remove this and everything below it."""
        key = path.encode().replace(b"/", b"\0")
        for one in [one for one in self.disk[volume] if one.startswith(key + b"\0")]:
            del self.disk[volume][one]
        self.write(volume, path, None)

    def problem(self, volume: str, code: str | None) -> None:
        """From now on the volume has this problem, or none."""
        if code is None:
            self.problems.pop(volume, None)
        else:
            self.problems[volume] = wire.Problem(code, f"{volume}: {code}")
        if self.session is not None:
            self._status(volume)

    def _scan_all(self) -> None:
        for volume in sorted(self.disk):
            self.scan(volume)
        self._again(self._scan_all, self.scan_interval_s)

    def scan(self, volume: str) -> None:
        if volume in self.problems and self.problems[volume].code == "not_mounted":
            return
        self.scan_at[volume] = self.world.mono
        if self.session is not None:
            self._stream(volume, "scan")
            self._beat(volume)

    def _stream(self, volume: str, cause: str) -> None:
        """Tell of the present root, if a scan has seen one and it is news."""
        world = self.world
        if volume not in self.scan_at:
            return
        if self.session is None or (volume in self.problems and self.problems[volume].code == "not_mounted"):
            return
        self._flush(volume)
        root = world.plant(self.disk[volume])
        if self._known(volume) != root:
            self._commit(volume, root, cause)

    def _known(self, volume: str) -> bytes | None:
        """The root that the newest commit led to."""
        journal = self.journal.get(volume)
        return journal[-1][0] if journal else self.world.node_roots.get((self.name, volume))

    def _commit(self, volume: str, root: bytes, cause: str) -> None:
        """Keep one step for the coordinator until it has heard of it."""
        before = self._known(volume)
        found = () if before is None else self.world.tree.diff(root, before)
        edits = tuple((one.key, one.ours) for one in found)
        self.journal.setdefault(volume, []).append((root, cause, edits))
        self._flush(volume)

    def _flush(self, volume: str) -> None:
        """Stream what was committed, in its order."""
        world, journal = self.world, self.journal.get(volume, [])
        while journal and self.session is not None:
            root, cause, edits = journal.pop(0)
            if cause in ("converge", "push"):
                hands: tuple[wire.Hand, ...] = ()
                by: tuple[tuple[bytes, int], ...] = ()
            else:
                hands, by = self._hands(volume)
            base = world.node_roots.get((self.name, volume))
            world.node_roots[(self.name, volume)] = root
            told = None if base is None else edits
            world.event(RootStored(self.name, volume, root, cause, world.mono, hands, by, base, told))

    def _made(self, volume: str, changes: dict[bytes, bytes | None]) -> None:
        """Commit what we have just done, and nothing that somebody else did meanwhile."""
        before = self._known(volume)
        if before is None or volume not in self.scan_at:
            return  # the first scan will tell
        edited = self.world.tree.edit(before, sorted(changes.items()))
        self.world.objects.update(edited.pages)
        if edited.root != before:
            self._commit(volume, edited.root, "converge")

    def _seen(self, volume: str) -> Files:
        """What is on the disk as far as it was committed: what nobody has looked at yet is left out."""
        before = self._known(volume)
        return {} if before is None else dict(self.world.tree.walk(before))

    def _hands(self, volume: str) -> tuple[tuple[wire.Hand, ...], tuple[tuple[bytes, int], ...]]:
        """Whose the writes since the last step were, as a commit tells it."""
        found = {key: hand for (name, key), hand in self.hands.items() if name == volume}
        self.hands = {at: hand for at, hand in self.hands.items() if at[0] != volume}
        hands = tuple(dict.fromkeys(found.values()))
        return hands, tuple((key, 1 + hands.index(found[key])) for key in sorted(found))

    def _beat(self, volume: str) -> None:
        if volume in self.scan_at and volume not in self.problems:
            self.world.event(Scanned(self.name, volume, self.scan_at[volume]))

    def _status(self, volume: str) -> None:
        files = self.disk[volume]
        self._say(
            wire.VolumeStatus(
                volume, self.problems.get(volume), len(files), len(files), 0, (), 0, *self.disk_bytes, 5,
                watch="inotify" if self.watches else "", storm=self.storm, hush=self.hush,
            )
        )  # fmt: skip

    def _say(self, message: wire.AgentMessage) -> None:
        if self.session is not None:
            self.world.event(FromAgent(self.name, message))

    # --- orders --------------------------------------------------------------------------------

    def take(self, message: wire.CoordinatorMessage) -> None:
        """A message of the coordinator arrives."""
        self.got.append(message)
        match message:
            case wire.Membership():
                if self.membership is None or message.term >= self.membership.term:
                    self.membership = message
            case wire.Fence():
                if message.token >= self.highest_token:
                    self.highest_token = message.token
                    self.fence = wire.FenceState(message.token, message.reason, message.incident, 0)
                    self._say(wire.FenceAnswer(message.token, True, "", True))
            case wire.Unfence():
                if message.token >= self.highest_token:
                    self.fence = None
                    self._say(wire.FenceAnswer(message.token, False, "", True))
            case wire.Converge() | wire.Verify():
                running = self._running.get(message.volume)
                if self.deaf or (running is not None and same_order(running, message)):
                    return
                self._running[message.volume] = message
                reads = self.verify_s if isinstance(message, wire.Verify) else None
                self._again(lambda: self._carry_out(message), self.order_s if reads is None else reads)
            case wire.Push():
                if not self.deaf:
                    self._again(lambda: self._pushed(message), self.push_s)
            case wire.Ask():
                if self.watches and not self.deaf:
                    at = self.world.mono
                    self._again(lambda: self._prove(message.volume, at), 0.03)
            case wire.Audit():
                self._again(lambda: self._audited(message), 0.02)
            case wire.Cancel():
                for volume, order in list(self._running.items()):
                    if order.action == message.action:
                        del self._running[volume]

    def _audited(self, audit: wire.Audit) -> None:
        answer = self.proof(audit) if self.audits is None else self.audits(audit)
        if answer is not None:
            self._say(answer)

    def proof(self, audit: wire.Audit) -> wire.AuditAnswer:
        """As an agent answers that believes its index and reads its disk: contents of a fake are their digests."""
        value = self.disk[audit.volume].get(audit.key)
        if value is None or decode_entry(value, WIDTH).digest != audit.digest:
            return wire.AuditAnswer(audit.volume, audit.audit, None, "moved", "")
        content = b"other bytes" if audit.key in self.hides else audit.digest
        proof = seeded_digest(XXH3_128, audit.seed, content)
        return wire.AuditAnswer(audit.volume, audit.audit, proof, "", "")

    def _carry_out(self, order: wire.Converge | wire.Verify) -> None:
        if self._running.get(order.volume) is not order:
            return
        del self._running[order.volume]
        if isinstance(order, wire.Verify):
            self._verify(order)
        else:
            self._converge(order)

    def _prove(self, volume: str, at: float) -> None:
        if self.session is not None and volume in self.scan_at and volume not in self.problems:
            self._stream(volume, "watch")
            self.world.event(Watched(self.name, volume, at))

    def _pushed(self, push: wire.Push) -> None:
        """Each edit where the disk still is as the push takes it, and its content can be had."""
        files = self.disk[push.volume]
        local = {content_of(value) for value in files.values()}
        applied = skipped = failed = moved = 0
        made: dict[bytes, bytes | None] = {}
        left = list(push.edits)
        for edit in [one for one in left if one.after is None][::-1] + [
            one for one in left if one.after is not None
        ]:
            if files.get(edit.key) != edit.before:
                skipped += 1
            elif (
                self.pushes_fail
                or edit.key in self.unmakeable
                or not self._can_make(push, edit, files, local)
            ):
                failed += 1
            else:
                applied += 1
                if edit.before is not None:
                    self.trash.append((push.volume, edit.key, edit.before))
                if edit.after is None:
                    del files[edit.key]
                else:
                    moved += 0 if content_of(edit.after) in local else decode_entry(edit.after, WIDTH).size
                    is_bare = self.withholds and _special(edit.after)
                    files[edit.key] = _without_special(edit.after) if is_bare else edit.after
                    self.taken += decode_entry(edit.after, WIDTH).size
                made[edit.key] = files.get(edit.key)
        self.bytes_moved += moved
        if made:
            self._made(push.volume, made)
        self._say(
            wire.PushResult(
                push.volume,
                push.push,
                applied,
                skipped,
                failed,
                moved,
                0,
                "no" if failed else "",
                self.push_problem if failed else None,
            )
        )

    def _can_make(self, push: wire.Push, edit: wire.PushEdit, files: Files, local: set[bytes]) -> bool:
        if not _is_directory(edit.after) and any(key.startswith(edit.key + b"\0") for key in files):
            return False
        if edit.after is None:
            return True
        above = edit.key.rpartition(b"\0")[0]
        if above and not _is_directory(files.get(above)):
            return False
        content = content_of(edit.after)
        return (
            not content
            or content in local
            or any(
                content in {content_of(value) for value in self.world.agents[peer].disk[push.volume].values()}
                for peer in push.sources
                if self.world.agents[peer].session is not None
            )
        )

    def _converge(self, order: wire.Converge) -> None:
        if order.token and order.token < self.highest_token:
            self._say(
                wire.ConvergeResult(
                    order.action, order.volume, "failed", None, 0, 0, 0, 0, "old token", None, (), 0, 0
                )
            )
            return
        if order.mode == "divergence":
            assert self.fence is not None, "a divergence is repaired behind a fence only"
            assert self.fence.token == order.token
        if self.fails is not None and not order.dry_run:
            self._say(
                wire.ConvergeResult(
                    order.action, order.volume, "failed", None, 0, 0, 0, 0, "", self.fails, (), 0, 0
                )
            )
            return
        files, target = self.disk[order.volume], dict(self.world.tree.walk(order.target_root))
        steps = sorted(key for key in files.keys() | target.keys() if files.get(key) != target.get(key))
        fetched = [key for key in steps if key in target and _fetches(files.get(key), target[key])]
        moved = sum(decode_entry(target[key], WIDTH).size for key in fetched)
        if order.dry_run:
            plan = tuple(
                wire.PlanStep("fetch" if key in target else "remove", key, 0, 0, "") for key in steps
            )
            self._say(
                wire.ConvergeResult(
                    order.action, order.volume, "done", None, 0, 0, 0, 0, "", None, plan, len(steps), moved
                )
            )
            return
        withheld = self.withheld.setdefault(order.volume, set())
        trashed = 0
        made: dict[bytes, bytes | None] = {}
        seen = self._seen(order.volume)
        based = seen if order.base is None else dict(self.world.tree.walk(order.base))
        removals = [key for key in steps if key not in target]
        for key in (*removals[::-1], *(key for key in steps if key in target)):
            if order.mode == "lag" and not _may_step(files, seen, target, key):
                continue
            if seen.get(key) != based.get(key):
                continue  # a change that the coordinator has not heard of yet
            if key in self.unmakeable:
                continue
            if key in files:
                self.trash.append((order.volume, key, files[key]))
                trashed += 1
            if key not in target:
                del files[key]
            elif self.withholds and _special(target[key]):
                files[key] = _without_special(target[key])
                withheld.add(key)
            else:
                files[key] = target[key]
            made[key] = files.get(key)
            self.taken += decode_entry(target[key], WIDTH).size if key in target else 0
        self.bytes_moved += moved
        self._made(order.volume, made)
        left = "partial" if self.unmakeable.intersection(steps) else "done"
        self._say(
            wire.ConvergeResult(
                order.action, order.volume, left, None, moved, len(steps), trashed, len(withheld),
                "" if left == "done" else "Some paths are left.", None, (), 0, 0
            )
        )  # fmt: skip

    def _verify(self, order: wire.Verify) -> None:
        self.scan_at[order.volume] = self.world.mono
        self._stream(order.volume, "scan")
        self._beat(order.volume)
        root = self.world.node_roots.get((self.name, order.volume))
        withheld = tuple(sorted(self.withheld.get(order.volume, ())))
        self._say(wire.VerifyResult(order.action, order.volume, root, 0, 0, True, "", withheld))

    def _again(self, what: Callable[[], None], delay_s: float) -> None:
        """Later, if this process still lives then."""
        process = self._process

        def run() -> None:
            if process == self._process:
                what()

        self.world.later(delay_s, run)


def same_order(running: wire.Converge | wire.Verify, order: wire.Converge | wire.Verify) -> bool:
    return running.action == order.action and type(running) is type(order)


def content_of(value: bytes) -> bytes:
    """The content digest of a file, nothing for others."""
    return decode_entry(value, WIDTH).digest


def _is_directory(value: bytes | None) -> bool:
    return value is not None and decode_entry(value, WIDTH).kind is Kind.DIRECTORY


def _may_step(files: Files, seen: Files, target: Files, key: bytes) -> bool:
    """Whether nobody has written there since it was looked at, and the disk can take it."""
    if files.get(key) != seen.get(key):
        return False
    if not _is_directory(target.get(key)) and any(one.startswith(key + b"\0") for one in files):
        return False
    above = key.rpartition(b"\0")[0]
    return above not in target or _is_directory(files.get(above))


def _fetches(ours: bytes | None, theirs: bytes) -> bool:
    wanted = decode_entry(theirs, WIDTH)
    return wanted.kind is Kind.FILE and (ours is None or decode_entry(ours, WIDTH).digest != wanted.digest)


def _special(value: bytes) -> bool:
    mode = decode_entry(value, WIDTH).mode
    return mode is not None and bool(mode & SPECIAL_BITS)


def _without_special(value: bytes) -> bytes:
    from dataclasses import replace

    from closeranks_proto.entries import encode_entry

    entry = decode_entry(value, WIDTH)
    assert entry.mode is not None
    return encode_entry(replace(entry, mode=entry.mode & ~SPECIAL_BITS))
