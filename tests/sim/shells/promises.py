"""What the two programs promised each other, kept from outside, and held against what lies on a disk after a cut.

What an agent sends is written down by number; what each root holds is computed here from the edits. The store and the
index are read as files, from copies, by Python's own SQLite: neither program is asked.
"""

from __future__ import annotations

import functools
import sqlite3
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import msgspec

from closeranks_agent import session as agent_session
from closeranks_agent.disk.packs import items_of
from closeranks_agent.disk.rows import directory_id
from closeranks_coordinator.outbox import Outbox
from closeranks_coordinator.runtime import Coordinator
from closeranks_coordinator.session import Session as CoordinatorSession
from closeranks_proto import messages as wire
from closeranks_proto.content import content_digest
from closeranks_proto.digests import XXH3_128
from closeranks_proto.entries import Kind, decode_entry
from closeranks_proto.errors import MissingObject
from closeranks_proto.tree import Tree
from faults.survival import damaged_databases, opened

from ..invariants import Violation, hold
from .loop import PROCESS

if TYPE_CHECKING:
    from .host import Host
    from .world import World

Items = dict[bytes, bytes]
# Whether what a session of the coordinator takes is a step, and from whom.
STEP_OF: ContextVar[str | None] = ContextVar("step_of", default=None)
CHUNK_BYTES = 4096


class Promises:
    """Of one fleet with one volume. `broken` are those that were broken in the middle of a program's own work."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._sent: dict[str, dict[int, bytes]] = {}  # by node: number to the root that it led to
        self._items: dict[bytes, Items] = {}  # by root
        self._acked: dict[str, int] = {}  # by node: the highest number that was said to be durable
        # By session: what it sent last.
        self._last: WeakKeyDictionary[agent_session.Session, tuple[int, bytes]] = WeakKeyDictionary()
        self.broken: list[Violation] = []
        self._anew: set[str] = set()  # nodes that do not know what they told, and have not announced since

    def install(self) -> None:
        """Listen where the two programs speak."""
        sends, announces = agent_session.Session._send, agent_session.Session._announce
        posts = Outbox.post

        @functools.wraps(sends)
        async def send(session: Any, message: wire.AgentMessage) -> None:
            process = PROCESS.get()
            if process is not None and isinstance(message, wire.Commit | wire.Announce):
                self._guarded(self._sends, process.node, session, message)
            await sends(session, message)

        @functools.wraps(announces)
        def announce(session: Any, volume: Any, window: Any, after_seq: int, *cause: str) -> None:
            process = PROCESS.get()
            known = process is not None and process.node not in self._anew
            if process is not None and known and not window.resync and window.root is not None:
                why = f"{process.node} has nothing that follows {window.acked}, which was acknowledged"
                self._guarded(hold, "journal_replays", False, why)
            announces(session, volume, window, after_seq, *cause)

        @functools.wraps(posts)
        def post(outbox: Any, message: wire.CoordinatorMessage) -> bytes | None:
            frame = posts(outbox, message)
            if isinstance(message, wire.Ack) and frame is not None:
                self._acked[outbox.node] = max(self._acked.get(outbox.node, 0), message.seq)
            return frame

        accepts, foresees = CoordinatorSession._accept, Coordinator.foreseen

        @functools.wraps(accepts)
        async def accept(session: Any, volume: str, accepted: Any) -> None:
            step = STEP_OF.set(None if accepted.base is None else session.node)
            try:
                await accepts(session, volume, accepted)
            finally:
                STEP_OF.reset(step)

        @functools.wraps(foresees)
        async def foreseen(coordinator: Any, volume: str, root: bytes) -> None:
            node = STEP_OF.get()
            self._guarded(
                hold, "steps_followed", node is None, f"a step of {node} is held against the whole truth"
            )
            await foresees(coordinator, volume, root)

        CoordinatorSession._accept = accept  # type: ignore[method-assign,assignment]
        Coordinator.foreseen = foreseen  # type: ignore[method-assign,assignment]
        agent_session.Session._send = send  # type: ignore[method-assign,assignment]
        agent_session.Session._announce = announce  # type: ignore[method-assign,assignment]
        Outbox.post = post  # type: ignore[method-assign,assignment]

    def anew(self, node: str) -> None:
        """It was put back, or lost what it knew: numbers that nobody has acknowledged may be given once more."""
        self._sent[node] = {
            seq: root for seq, root in self._sent.get(node, {}).items() if seq <= self._acked.get(node, 0)
        }
        self._anew.add(node)

    def _guarded(self, check: Any, *args: Any) -> None:
        """A broken promise is told to the world; the program goes on as it would."""
        try:
            check(*args)
        except Violation as error:
            self.broken.append(error)

    # --- on the wire -------------------------------------------------------------------------------

    def _sends(self, node: str, session: Any, message: wire.Commit | wire.Announce) -> None:
        sent = self._sent.setdefault(node, {})
        seq, root = message.seq, message.root
        before = sent.setdefault(seq, root)
        hold("number_once", before == root, f"{node} gives {seq} to {root.hex()}, it was {before.hex()}")
        acked = self._acked.get(node, 0)
        if isinstance(message, wire.Announce):
            self._anew.discard(node)
            host = self._world.hosts[node]
            assert host.agent is not None
            self._items[root] = dict(host.agent.volumes["photos"].tree.walk(root))
            hold("number_once", seq > acked, f"{node} announces {seq}, {acked} was acknowledged")
        else:
            last, base = self._last.get(session, (0, None))
            follows = not last or (seq == last + 1 and message.base_root == base)
            hold("journal_replays", follows, f"{node} sends {seq} after {last}, from another root")
            self._items[root] = self._replayed(f"{node} {seq}", message.base_root, root, message.edits)
        self._last[session] = (seq, root)

    def _replayed(self, what: str, base: bytes, root: bytes, edits: tuple[wire.Edit, ...]) -> Items:
        hold("journal_replays", base in self._items, f"{what} starts from a root that nobody ever had")
        items = dict(self._items[base])
        for edit in edits:
            if edit.value is None:
                items.pop(edit.key, None)
            else:
                items[edit.key] = edit.value
        hold("journal_replays", root_of(items) == root, f"the edits of {what} do not lead to its root")
        return items

    # --- after a cut -------------------------------------------------------------------------------

    def check_store(self, state_dir: Path) -> None:
        """Of the coordinator: what was acknowledged is there, with every object beneath it."""
        path = state_dir / "coordinator.sqlite"
        if not path.exists():
            hold("acknowledged_survives", not self._acked, "the store is gone")
            return
        _check_files(state_dir)
        with opened(path) as store:
            known = _rows(store, "SELECT node, seq, root FROM node_roots")
            objects = dict(
                _rows(
                    store,
                    "SELECT digest, bodies.body FROM objects JOIN bodies ON bodies.id = objects.body",
                )
            )
        found = {node: (seq, root) for node, seq, root in known}
        for node, acked in sorted(self._acked.items()):
            seq, root = found.get(node, (0, b""))
            hold("acknowledged_survives", seq >= acked, f"{node} was told that {acked} is durable, {seq} is")
            sent = self._sent[node].get(seq, root)
            hold("acknowledged_survives", sent == root, f"{node} {seq} is stored with another root")
            try:
                tree = dict(Tree(XXH3_128, objects.__getitem__).walk(root))
            except (KeyError, MissingObject):
                tree = {}
            hold("acknowledged_survives", tree == self._items[root], f"not all of {node} {seq} is stored")

    def check_index(self, host: Host, live: dict[str, tuple[int, bytes]]) -> None:
        """Of an agent: rows, root and journal are one, nothing that was promised is gone. `live`: before the cut."""
        if host.name in self._anew:
            return  # what it promised, it promised in another life
        _check_files(host.base / "state")
        path = host.base / "state" / "volume-photos.sqlite"
        sent, acked = self._sent.get(host.name, {}), self._acked.get(host.name, 0)
        if not path.exists() or not path.stat().st_size:
            hold("acknowledged_survives", not sent, f"the index of {host.name} is gone")
            return
        with opened(path) as index:
            if not _rows(index, "SELECT 1 FROM sqlite_schema"):
                hold("acknowledged_survives", not sent, f"the index of {host.name} is empty")
                return
            meta = {name: msgspec.json.decode(value) for name, value in _rows(index, "SELECT * FROM meta")}
            items = _items_of(index)
            journal = _rows(index, "SELECT seq, base_root, root, edits FROM journal ORDER BY seq")
        last = meta.get("last_seq") or 0
        highest = max(sent, default=0)
        hold("number_once", last >= highest, f"{host.name} went back to {last}, {highest} had left it")
        if meta.get("root") is None:
            hold("acknowledged_survives", not sent, f"{host.name} forgot its root")
            return
        root = bytes.fromhex(meta["root"])
        if not meta.get("unfinished"):
            hold(
                "journal_replays",
                root_of(items) == root,
                f"the rows of {host.name} do not give its root",
            )
        self._check_journal(host.name, journal, last, acked, root)
        _check_installed(host, items, live)

    def _check_journal(self, node: str, journal: list[Any], last: int, acked: int, root: bytes) -> None:
        first = journal[0][0] if journal else last + 1
        starts = bool(journal) and journal[0][3] is None
        hold(
            "journal_replays",
            starts or first <= acked + 1,
            f"{node} keeps {first} on, {acked} is the last acknowledged",
        )
        hold(
            "journal_replays",
            [one[0] for one in journal] == list(range(first, last + 1)),
            f"{node}: numbers lack",
        )
        at = None if starts else self._sent.get(node, {}).get(first - 1)
        for seq, base, after, edits in journal:
            if edits is None:
                at = after
                continue
            hold("journal_replays", at is None or at == base, f"{node} {seq} starts from another root")
            if base in self._items:
                decoded = msgspec.msgpack.decode(edits, type=tuple[wire.Edit, ...])
                self._items[after] = self._replayed(f"{node} {seq}", base, after, decoded)
            at = after
        hold("journal_replays", at is None or at == root, f"the journal of {node} does not lead to its root")


def root_of(items: Items) -> bytes:
    """Computed anew."""
    pages: dict[bytes, bytes] = {}
    return Tree(XXH3_128, pages.__getitem__).build(sorted(items.items())).root


def _check_files(state_dir: Path) -> None:
    damaged = damaged_databases(state_dir)
    hold("journal_replays", not damaged, f"damaged: {damaged}")


def _rows(database: sqlite3.Connection, statement: str) -> list[Any]:
    return database.execute(statement).fetchall()


def _items_of(index: sqlite3.Connection) -> Items:
    """Every path with its value, from the rows of directory below directory."""
    by_place: dict[bytes, list[tuple[bytes, bytes]]] = {}
    for place, name, value in _rows(index, "SELECT dir, name, value FROM entries"):
        by_place.setdefault(place, []).append((name, value))
    for place, pack in _rows(index, "SELECT dir, rows FROM packs"):
        by_place.setdefault(place, []).extend(items_of(pack))
    found: Items = {}
    waiting = [b""]
    while waiting:
        above = waiting.pop()
        for name, value in by_place.get(directory_id(above), ()):
            key = above + b"\0" + name if above else name
            found[key] = value
            waiting.append(key)
    return found


def _check_installed(host: Host, items: Items, live: dict[str, tuple[int, bytes]]) -> None:
    """What the index says was on the disk before the cut is on it after."""
    now = host.files()
    for name in sorted(live.keys() | now.keys()):
        before, after = live.get(name), now.get(name)
        if before == after:
            continue
        recorded = items.get(name.replace("/", "\0").encode())
        hold(
            "installed_stays",
            not _is(recorded, before),
            f"{host.name} recorded {name} as it was, and the cut took it",
        )


def _is(value: bytes | None, found: tuple[int, bytes] | None) -> bool:
    """Whether a row says what lay there."""
    if value is None or found is None:
        return value is None and found is None
    entry = decode_entry(value, XXH3_128.width)
    if entry.kind is not Kind.FILE:
        return found[1] == b"" and entry.kind is Kind.DIRECTORY
    content = found[1]
    pieces = [content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES)] or [b""]
    digests = b"".join(map(XXH3_128.of, pieces))
    return entry.digest == content_digest(XXH3_128, len(content), CHUNK_BYTES, digests)
