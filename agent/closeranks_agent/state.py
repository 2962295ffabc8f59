"""What an agent must not forget: who it is, its fence, the highest fence token, who its peers are.

One small database in the state directory, which one process at a time may use. Fence and token are durable
when the call that sets them returns: a fence that did not survive a crash would be no fence; room for them is
reserved while the disk has some. Membership and settings are kept where possible. Tokens and membership terms
only grow; a lower one is a late message and changes nothing.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar, cast

import msgspec

from closeranks_proto.errors import UserError
from closeranks_proto.messages import FenceState, Member, Membership, VolumeSettings

from .disk import seclusion
from .disk.database import Damaged, Database
from .disk.records import StateUnavailable

log = logging.getLogger("closeranks.state")

FORMAT = 1
SCHEMA = "CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;"
LOCK_NAME = "lock"
RESERVE_BYTES = 256 * 1024
_ENCODE = msgspec.msgpack.Encoder().encode
T = TypeVar("T")


class StateLocked(UserError):
    """Another process uses the state directory."""


class KnownSettings(msgspec.Struct, frozen=True, array_like=True):
    """What the coordinator said last about digest and volumes: the agent scans by it while nobody answers."""

    digest: str
    volumes: tuple[VolumeSettings, ...]


class OwedHook(msgspec.Struct, frozen=True, array_like=True):
    """The hook of a fence that was put up (`fenced`) or lifted, until it has ended."""

    fenced: bool
    token: int
    incident: str
    reason: str


class PausedProcess(msgspec.Struct, frozen=True, array_like=True):
    """A process that we stopped; its number and its start (ticks since the boot) name it together."""

    pid: int
    started: int
    exe: str


class KeptHold(msgspec.Struct, frozen=True, array_like=True):
    """A hold and what was done for it, until it is over. `boot` is the kernel's boot: another one undid it all."""

    hold: str
    volume: str
    guard: str
    reason: str
    boot: str
    paused: tuple[PausedProcess, ...] = ()
    frozen: str = ""  # the mount that was made read-only


class AgentState:
    """Thread-safe. Raises StateLocked, UserError, StateUnavailable, OSError."""

    def __init__(self, state_dir: str | Path) -> None:
        self.path = Path(state_dir)
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._lock_fd = _lock_directory(self.path)
        try:
            seclusion.close_to_others(self.path)
            self._database = _open(state_file(self.path))
            try:
                self._reserve()
                self._load()
            except BaseException:
                self._database.close()
                raise
        except BaseException:
            os.close(self._lock_fd)
            raise

    def _load(self) -> None:
        agent_id = self._fact("agent_id", str)
        if agent_id is None:
            agent_id = secrets.token_hex(16)
            self._store("agent_id", agent_id)
        self.agent_id: str = agent_id
        self._fence = self._fact("fence", FenceState)
        self._highest_token = self._fact("highest_token", int) or 0
        self._owed_hook = self._fact("owed_hook", OwedHook)
        self._holds = self._fact("holds", tuple[KeptHold, ...]) or ()
        self._settings = self._fact("settings", KnownSettings)
        self._membership = self._fact("membership", Membership) or Membership(0, (), ())
        self._members = _by_name(self._membership)

    def _reserve(self) -> None:
        """A full disk must not keep a fence from being written."""
        try:
            self._database.reserve(RESERVE_BYTES)
        except StateUnavailable as error:
            log.warning("%s", error)

    def close(self) -> None:
        """Let go of the directory."""
        self._database.close()
        os.close(self._lock_fd)

    # --- fence ---------------------------------------------------------------------------------

    @property
    def fence(self) -> FenceState | None:
        """The fence in force on this node."""
        return self._fence

    @property
    def highest_token(self) -> int:
        """The highest fence token that this node has ever seen."""
        return self._highest_token

    @property
    def owed_hook(self) -> OwedHook | None:
        """A hook that was promised with the last change of the fence and has not ended yet."""
        return self._owed_hook

    def set_fence(self, fence: FenceState | None, owed: OwedHook | None = None) -> None:
        """Put up the fence, or lift it; `owed` is recorded with it, in place of what was owed before.

        Raises StateUnavailable where that could not be recorded. A fence is in force nevertheless, until this
        process ends; lifting one that can not be recorded leaves it up.
        """
        with self._lock:
            tokens = [one.token for one in (fence, owed) if one is not None]
            if fence is not None:
                self._fence = fence
                self._highest_token = max(self._highest_token, *tokens)
            with self._database.transaction():
                self._put_or_delete("fence", fence)
                self._put_or_delete("owed_hook", owed)
                self._put("highest_token", max(self._highest_token, *tokens, 0))
            self._fence, self._owed_hook = fence, owed
            self._highest_token = max(self._highest_token, *tokens, 0)

    def hook_ended(self, owed: OwedHook) -> None:
        """This hook is not owed any more."""
        with self._lock:
            if self._owed_hook == owed:
                with self._database.transaction():
                    self._put_or_delete("owed_hook", None)
                self._owed_hook = None

    def saw_token(self, token: int) -> None:
        """Remember the highest token."""
        with self._lock:
            if token > self._highest_token:
                self._store("highest_token", token)
                self._highest_token = token

    # --- holds ---------------------------------------------------------------------------------

    @property
    def holds(self) -> tuple[KeptHold, ...]:
        """Holds that are not over, oldest first."""
        return self._holds

    def set_holds(self, holds: tuple[KeptHold, ...]) -> None:
        """Durable when it returns. Raises StateUnavailable, and nothing has changed then."""
        with self._lock:
            if holds != self._holds:
                self._store("holds", holds)
                self._holds = holds

    # --- peers and settings --------------------------------------------------------------------

    @property
    def membership_term(self) -> int:
        return self._membership.term

    @property
    def members(self) -> Mapping[str, Member]:
        """Every node of the fleet by name, as it must be treated."""
        return self._members

    @property
    def open_incidents(self) -> tuple[str, ...]:
        """Incidents whose trash must stay."""
        return self._membership.open_incidents

    def set_membership(self, membership: Membership, anew: bool = False) -> bool:
        """Take over a membership; False for one of an older term, which changes nothing.

        `anew`: the first of a session, taken whatever its term: a coordinator that lost its state counts
        from the beginning again.
        """
        with self._lock:
            if membership.term < self._membership.term and not anew:
                return False
            if membership != self._membership:
                self._membership, self._members = membership, _by_name(membership)
                self._store_if_possible("membership", membership)
            return True

    @property
    def settings(self) -> KnownSettings | None:
        """None until a coordinator has ever answered."""
        return self._settings

    def set_settings(self, digest: str, volumes: tuple[VolumeSettings, ...]) -> None:
        settings = KnownSettings(digest, volumes)
        with self._lock:
            if settings != self._settings:
                self._settings = settings
                self._store_if_possible("settings", settings)

    # --- storing -------------------------------------------------------------------------------

    def _fact(self, name: str, kind: type[T]) -> T | None:
        found = self._database.row("SELECT value FROM facts WHERE name = ?", (name,))
        if found is None:
            return None
        try:
            return msgspec.msgpack.decode(cast(bytes, found[0]), type=kind)
        except msgspec.MsgspecError as error:
            raise UserError(
                f"{self._database.path} holds a {name} that this version can not read ({error}). "
                "Was it written by another version of closeranks?"
            ) from error

    def _store(self, name: str, value: object) -> None:
        with self._database.transaction():
            self._put(name, value)

    def _store_if_possible(self, name: str, value: object) -> None:
        """What the coordinator says again at the next session anyhow: a full disk is no reason to fail."""
        try:
            self._store(name, value)
        except StateUnavailable as error:
            log.warning("the agent's %s is not on disk: %s", name, error)

    def _put_or_delete(self, name: str, value: object) -> None:
        if value is None:
            self._database.execute("DELETE FROM facts WHERE name = ?", (name,))
        else:
            self._put(name, value)

    def _put(self, name: str, value: object) -> None:
        self._database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, _ENCODE(value)))


def _by_name(membership: Membership) -> Mapping[str, Member]:
    return MappingProxyType({member.node: member for member in membership.members})


def _open(path: Path) -> Database:
    try:
        return Database(path, SCHEMA, FORMAT)
    except Damaged as error:
        raise UserError(
            f"{error}. It holds this agent's identity and its fence, so it is not replaced silently. Restore it from "
            "a backup, or remove it: the agent then appears as a new one, and the coordinator fences it again if "
            "it was fenced."
        ) from error


def state_file(state_dir: str | Path) -> Path:
    """Where an agent that has run once keeps it."""
    return Path(state_dir) / "agent.sqlite"


def why_damaged(state_dir: str | Path) -> str:
    """Why an agent would not start with the state that is there, in words; "" where it would, or one runs with it."""
    try:
        _open(state_file(state_dir)).close()
    except UserError as error:
        return str(error)
    except StateUnavailable as error:
        log.debug("whether the state is whole can not be seen: %s", error)
    return ""


def _lock_directory(path: Path) -> int:
    fd = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        os.close(fd)
        who = f"process {holder}" if holder.isdigit() else "another process"
        raise StateLocked(
            f"the state directory {path} is in use by {who}; one agent at a time may use it"
        ) from error
    except BaseException:
        os.close(fd)
        raise
    _note_holder(fd)
    return fd


def _note_holder(fd: int) -> None:
    """For the message of whoever comes second; a full disk is no reason not to start."""
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        log.debug("the lock file does not name its holder: %s", error)


@contextmanager
def opened_state(state_dir: str | Path) -> Iterator[AgentState]:
    """An AgentState for the length of a block."""
    state = AgentState(state_dir)
    try:
        yield state
    finally:
        state.close()
