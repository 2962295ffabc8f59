"""What a node does about a hold, where its owner allows it: pause the writing processes, freeze the volume.

Whatever is done is on disk before it is done, is told in words, and is undone when the hold ends: by this process
or by the next one after a restart. A process goes on, and a mount becomes writable, only when no other hold wants
it as it is and it is still the one that we changed. A frozen volume can not be repaired: the coordinator ends a
hold before it converges the node.

A paused writer keeps its open files, and its parent may start another one: pausing wins time, it is no fence.
Rejected: stopping parents and groups (they are shells, supervisors and sessions of people); freezing the
filesystem itself, which would stop the agent with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Protocol

import msgspec

from closeranks_proto import messages as wire
from closeranks_proto.lines import printable
from closeranks_proto.parts import Hand

from ..config import AgentConfig
from ..disk.records import StateUnavailable
from ..hooks import run_hook
from ..state import AgentState, KeptHold, PausedProcess
from . import freezing, pausing

log = logging.getLogger("closeranks.agent")

HOLDS_MAX = 64  # on one node; a volume has one or two
WAITING_MAX = 64  # orders under way
WRITERS_WITHIN_S = 60.0
PAUSE_MAX = 32  # processes for one hold
FREEZE_RETRY_S = 2.0
ANNOUNCE_AFTER_S = 5.0  # into a session: by then the coordinator has told of every hold that it knows


class Writers(Protocol):
    """Who wrote in a volume lately, and since when the process of a hand runs (None: no longer known)."""

    def recent(self, volume: str, within_s: float) -> tuple[Hand, ...]: ...
    def started(self, hand: Hand) -> int | None: ...


class Reactions:
    """Orders are carried out one after the other, in the order in which they came."""

    def __init__(
        self,
        state: AgentState,
        config: Callable[[], AgentConfig],
        writers: Writers,
        post: Callable[[wire.AgentMessage], None],
        spawn: Callable[[Coroutine[None, None, None]], asyncio.Task[None]],
    ) -> None:
        self._state, self._config, self._writers = state, config, writers
        self._post, self._spawn = post, spawn
        self._turn, self._hook_turn = asyncio.Lock(), asyncio.Lock()
        self._waiting = 0
        self._sessions = 0
        self._freezing: set[str] = set()  # holds that ask their volume until it rests; at most HOLDS_MAX
        self._mentioned: set[str] = set()  # by the coordinator of this session; few more than HOLDS_MAX
        self._boot = pausing.boot_id()

    async def take(self, message: wire.Hold | wire.Unhold) -> None:
        """Carry out a hold or its end, and answer."""
        if len(self._mentioned) < 4 * HOLDS_MAX:
            self._mentioned.add(message.hold)
        if self._waiting >= WAITING_MAX:
            self._answer(message.hold, "not carried out: too many orders about holds wait on this node")
            return
        self._waiting += 1
        try:
            async with self._turn:
                if isinstance(message, wire.Hold):
                    await self._hold(message)
                else:
                    await self._unhold(message.hold)
        finally:
            self._waiting -= 1

    async def resume(self) -> None:
        """At the agent's start: what an earlier process did stands, unless the machine was started anew."""
        async with self._turn:
            for kept in self._state.holds:
                if kept.boot != self._boot:
                    await self._forget(kept.hold)
                elif kept.paused or kept.frozen:
                    log.warning("hold %s is not over: %s", kept.hold, _standing(kept))
        await self.permits_changed()

    async def announce(self) -> None:
        """A session begins: tell what stands for holds that its coordinator does not mention, so that it ends them.

        It repeats those that stand, and the end of those that ended; one that lost its state knows neither.
        """
        self._sessions += 1
        session = self._sessions
        self._mentioned.clear()
        await asyncio.sleep(ANNOUNCE_AFTER_S)
        for kept in self._state.holds if session == self._sessions else ():
            if kept.hold not in self._mentioned and (kept.paused or kept.frozen):
                self._answer(kept.hold, _standing(kept))

    async def permits_changed(self) -> None:
        """What the owner does not allow any more is undone."""
        async with self._turn:
            permits = self._config().reactions
            for kept in self._state.holds:
                paused = kept.paused and not permits.allow_pause
                frozen = kept.frozen and not permits.allow_freeze
                if paused or frozen:
                    left = msgspec.structs.replace(
                        kept, paused=() if paused else kept.paused, frozen="" if frozen else kept.frozen
                    )
                    await self._undo(kept, left, "this node's configuration does not allow it any more")

    # --- a hold --------------------------------------------------------------------------------

    async def _hold(self, order: wire.Hold) -> None:
        kept = self._kept(order.hold)
        new = kept is None
        if kept is None:
            kept = KeptHold(order.hold, order.volume, order.guard, order.reason, self._boot)
            log.warning("%s: held by guard %s: %s", order.volume or "all volumes", order.guard, order.reason)
        try:
            await asyncio.to_thread(self._add, kept)
        except StateUnavailable as error:
            self._answer(order.hold, f"nothing was done, for it could not be recorded: {error}")
            return
        said: list[str] = []
        if order.pause:
            said.append(await self._pause(kept))
        if order.freeze:
            said.append(await self._freeze(kept.hold))
        self._tell(order.hold, said)
        if new:
            self._spawn(self._hook(kept, over=False))

    async def _pause(self, kept: KeptHold) -> str:
        if not self._config().reactions.allow_pause:
            return (
                "no process was paused: this node does not allow it ([agent.reactions] allow_pause = false)"
            )
        if not kept.volume:
            return "no process was paused: the hold is of a disk, where any process of this machine may write"
        hands = self._writers.recent(kept.volume, WRITERS_WITHIN_S)
        chosen, spared = await asyncio.to_thread(self._choose, kept, hands)
        if chosen:
            try:
                await self._keep(msgspec.structs.replace(kept, paused=kept.paused + chosen))
            except StateUnavailable as error:
                return f"no process was paused, for it could not be recorded: {error}"
        return await asyncio.to_thread(self._stop, kept.hold, chosen, spared, len(hands))

    def _choose(self, kept: KeptHold, hands: tuple[Hand, ...]) -> tuple[tuple[PausedProcess, ...], list[str]]:
        """Whom to stop, and who is spared and why. Those that another hold stopped are wanted here too."""
        stopped = {(one.pid, one.started) for hold in self._state.holds for one in hold.paused}
        own = {(one.pid, one.started) for one in kept.paused}
        chosen: list[PausedProcess] = []
        spared: list[str] = []
        for hand in hands:
            if not hand.pid:
                continue
            started = self._writers.started(hand)
            process = PausedProcess(hand.pid, started or 0, hand.exe)
            if (process.pid, process.started) in own:
                continue
            reason = "too many" if len(own) + len(chosen) >= PAUSE_MAX else ""
            if started is None:
                reason = "it is no longer known to be the same process"
            elif not reason and (process.pid, process.started) not in stopped:
                reason = pausing.why_not(process)
            if reason:
                spared.append(f"{_name(process)} ({reason})")
            else:
                chosen.append(process)
        return tuple(chosen), spared

    def _stop(self, hold: str, chosen: tuple[PausedProcess, ...], spared: list[str], known: int) -> str:
        others = {
            (one.pid, one.started) for kept in self._state.holds if kept.hold != hold for one in kept.paused
        }
        failed: set[PausedProcess] = set()
        for process in chosen:
            if (process.pid, process.started) in others:
                continue  # it is stopped already, by us
            reason = pausing.pause(process)
            if reason:
                failed.add(process)
                spared.append(f"{_name(process)} ({reason})")
        if failed:
            self._correct(hold, failed)
        kept = self._kept(hold)
        paused = () if kept is None else kept.paused
        if paused:
            text = (
                f"paused with SIGSTOP until the hold ends: {', '.join(_name(one) for one in paused)}. "
                "What starts in their place is not paused"
            )
        else:
            text = "no process was paused" + ("" if known else ": no writing process is known")
        return text + (f"; not paused: {', '.join(spared)}" if spared else "")

    def _correct(self, hold: str, failed: set[PausedProcess]) -> None:
        """The record names only what we stopped. Where it can not be written, letting go finds it running."""
        try:
            self._state.set_holds(
                tuple(
                    msgspec.structs.replace(
                        kept, paused=tuple(one for one in kept.paused if one not in failed)
                    )
                    if kept.hold == hold
                    else kept
                    for kept in self._state.holds
                )
            )
        except StateUnavailable as error:
            log.warning("hold %s: which processes were not paused is not on disk: %s", hold, error)

    async def _freeze(self, hold: str) -> str:
        kept = self._kept(hold)
        assert kept is not None
        if not self._config().reactions.allow_freeze:
            return "not frozen: this node does not allow it ([agent.reactions] allow_freeze = false)"
        path = next((one.path for one in self._config().volumes if one.name == kept.volume), None)
        if path is None:
            return (
                f"not frozen: this node has no volume {kept.volume}"
                if kept.volume
                else "no volume was frozen"
            )
        if kept.frozen:
            return _frozen(kept.frozen)
        other = next(
            (one.frozen for one in self._state.holds if one.frozen and one.volume == kept.volume), ""
        )
        reason = "" if other else await asyncio.to_thread(freezing.why_not, path)
        if reason:
            return f"not frozen: {printable(reason)}"
        try:
            if other:
                await self._keep(msgspec.structs.replace(kept, frozen=other))
                return _frozen(other)
            return await asyncio.to_thread(self._make_read_only, kept, path)
        except freezing.NotFrozen as error:
            if error.busy:
                if hold not in self._freezing:  # each session repeats the holds that stand
                    self._freezing.add(hold)
                    self._spawn(self._freeze_later(hold))
                return "not frozen yet: files in it are open for writing; it is tried until the hold ends"
            return f"not frozen: {error}"
        except StateUnavailable as error:
            return f"not frozen, for it could not be recorded: {error}"

    def _make_read_only(self, kept: KeptHold, path: str) -> str:
        """Recorded before it is done; the record is taken back where the kernel refuses."""
        mount = freezing.mount_at(path)
        if mount is None or mount.read_only:
            raise freezing.NotFrozen("it was read-only already")
        self._put(msgspec.structs.replace(kept, frozen=mount.point))
        try:
            freezing.freeze(path)
        except freezing.NotFrozen:
            self._put(kept)
            raise
        return _frozen(mount.point)

    async def _freeze_later(self, hold: str) -> None:
        """Until it is frozen or the hold is over. One task for each hold."""
        try:
            await self._freeze_when_idle(hold)
        finally:
            self._freezing.discard(hold)

    async def _freeze_when_idle(self, hold: str) -> None:
        while True:
            await asyncio.sleep(FREEZE_RETRY_S)
            async with self._turn:
                kept, config = self._kept(hold), self._config()
                if kept is None or kept.frozen or not config.reactions.allow_freeze:
                    return
                path = next((one.path for one in config.volumes if one.name == kept.volume), None)
                if path is None:
                    return
                try:
                    said = await asyncio.to_thread(self._make_read_only, kept, path)
                except (freezing.NotFrozen, StateUnavailable, OSError) as error:
                    if isinstance(error, freezing.NotFrozen) and error.busy:
                        continue
                    said = f"not frozen: {error}"
                self._tell(hold, [said])
                return

    # --- its end -------------------------------------------------------------------------------

    async def _unhold(self, hold: str) -> None:
        kept = self._kept(hold)
        if kept is None:
            self._answer(hold, "")  # it was over already: the coordinator must not tell of it for ever
            return
        said = await self._undo(kept, None, "the hold is over")
        self._tell(hold, said or ["nothing had to be let go"])
        self._spawn(self._hook(kept, over=True))

    async def _undo(self, kept: KeptHold, left: KeptHold | None, why: str) -> list[str]:
        """Let go of what `left` does not keep, unless another hold wants it. The record goes last."""
        others = tuple(one for one in self._state.holds if one.hold != kept.hold)
        gone = (
            kept
            if left is None
            else msgspec.structs.replace(
                kept, paused=() if left.paused else kept.paused, frozen="" if left.frozen else kept.frozen
            )
        )
        said = await asyncio.to_thread(_let_go, gone, others)
        if said and left is not None:
            log.warning("hold %s: %s: %s", kept.hold, why, "; ".join(said))
        try:
            if left is None:
                await self._forget(kept.hold)
            else:
                await self._keep(left)
        except StateUnavailable as error:
            log.warning("hold %s: that it is over is not on disk: %s", kept.hold, error)
        return said

    async def _hook(self, kept: KeptHold, over: bool) -> None:
        """Beside the orders, which must not wait for it; hooks run one after the other."""
        config = self._config()
        argv = config.hooks.on_unhold if over else config.hooks.on_hold
        environment = {
            "CLOSERANKS_NODE": config.node,
            "CLOSERANKS_HOLD": kept.hold,
            "CLOSERANKS_GUARD": kept.guard,
            "CLOSERANKS_REASON": kept.reason,
            "CLOSERANKS_VOLUME": kept.volume,
        }
        async with self._hook_turn:
            outcome = await run_hook(argv, environment, config.hooks.timeout_s)
        self._tell(kept.hold, [outcome.text])

    # --- the record ----------------------------------------------------------------------------

    def _kept(self, hold: str) -> KeptHold | None:
        return next((one for one in self._state.holds if one.hold == hold), None)

    async def _keep(self, kept: KeptHold) -> None:
        await asyncio.to_thread(self._put, kept)

    def _put(self, kept: KeptHold) -> None:
        holds = [kept if one.hold == kept.hold else one for one in self._state.holds]
        self._state.set_holds(tuple(holds if kept in holds else [*holds, kept]))

    def _add(self, kept: KeptHold) -> None:
        """Of too many, the oldest for which nothing has to be undone gives way."""
        holds = self._state.holds
        if len(holds) >= HOLDS_MAX and kept not in holds:
            idle = next((one for one in holds if not one.paused and not one.frozen), None)
            if idle is None:
                text = f"{HOLDS_MAX} holds stand on this node already"
                raise StateUnavailable(wire.Problem("too_many", text))
            self._state.set_holds(tuple(one for one in holds if one is not idle))
        self._put(kept)

    async def _forget(self, hold: str) -> None:
        left = tuple(one for one in self._state.holds if one.hold != hold)
        await asyncio.to_thread(self._state.set_holds, left)

    def _tell(self, hold: str, said: list[str]) -> None:
        text = "; ".join(one for one in said if one)
        if text:
            log.warning("hold %s: %s", hold, text)
            self._answer(hold, text)

    def _answer(self, hold: str, text: str) -> None:
        self._post(wire.HoldAnswer(hold, printable(text)))


def _let_go(kept: KeptHold, others: tuple[KeptHold, ...]) -> list[str]:
    said: list[str] = []
    wanted = {(one.pid, one.started) for other in others for one in other.paused}
    freed: list[str] = []
    for process in kept.paused:
        kept_paused = (process.pid, process.started) in wanted
        reason = "another hold wants it paused" if kept_paused else pausing.let_go(process)
        freed.append(_name(process) + (f" ({reason})" if reason else ""))
    if freed:
        said.append(f"let go on with SIGCONT: {', '.join(freed)}")
    if kept.frozen:
        reason = (
            "another hold wants it read-only"
            if any(other.frozen == kept.frozen for other in others)
            else freezing.thaw(kept.frozen)
        )
        said.append(
            f"{printable(kept.frozen)} is writable again"
            if not reason
            else f"{printable(kept.frozen)}: {reason}"
        )
    return said


def _standing(kept: KeptHold) -> str:
    said: list[str] = []
    if kept.paused:
        said.append(f"paused with SIGSTOP: {', '.join(_name(one) for one in kept.paused)}")
    if kept.frozen:
        said.append(_frozen(kept.frozen))
    return "; ".join(said) or "known to this node; nothing is paused or frozen for it"


def _frozen(point: str) -> str:
    return f"{printable(point)} is mounted read-only until the hold ends; a repair has to wait for that"


def _name(process: PausedProcess) -> str:
    return f"{process.pid} {process.exe}"
