"""Converge, verify and push, one at a time on each volume.

An order that is already running is not started twice: after a reconnect the coordinator repeats what is
outstanding. A newer order for a volume replaces the one that runs; what that one finished stays. Fenced
orders must carry the token of the fence in force.

Pushes have no action and are never repeated: the coordinator makes the next one from where the node is then.
So a push waits for what runs on its volume, the newest replaces one that still waits, and a converge or verify
that comes ends the one that runs. Each gets its PushResult, the fenced and the replaced ones too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from closeranks_proto import messages as wire
from closeranks_proto.errors import CloseranksError, UserError

from .chunks.reach import Reach
from .converge.converger import Converger

if TYPE_CHECKING:
    from .runtime import Agent

log = logging.getLogger("closeranks.orders")

FLUSH_MAX_S = 10.0
LIST_MAX = 1000  # items in one answer; the longest keys make 4 MiB
TRASH_MAX_ASKED = 16
_REPLACED = "another order for the volume took its place; what was finished stays"
Order = wire.Converge | wire.Verify


@dataclass(slots=True)
class _Running:
    order: Order
    task: asyncio.Task[None]


@dataclass(frozen=True, slots=True)
class _Due:
    push: wire.Push
    came_at: float  # monotonic
    bodies: tuple[bytes, ...]  # that came with it


@dataclass(slots=True)
class _Pushing:
    task: asyncio.Task[None]
    current: _Due | None  # until it has its result
    waiting: _Due | None = None
    telling: bool = False  # the tree is done with, only the result is on its way


class Orders:
    """The long-running orders of one agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._running: dict[str, _Running] = {}
        self._pushing: dict[str, _Pushing] = {}
        self._carried: dict[str, tuple[bytes, ...]] = {}  # for the next push of a volume
        self._convergers: dict[str, Converger] = {}
        # Ends of converges by volume that nobody heard of: the next one of the same action tells what they moved, too.
        self._untold: dict[str, wire.ConvergeResult] = {}
        self._asked = 0  # questions about the trash under way

    def start(self, order: Order) -> None:
        running = self._running.get(order.volume)
        if (
            running is not None
            and not running.task.done()
            and not running.task.cancelling()
            and running.order.action == order.action
            and type(running.order) is type(order)
        ):
            return
        refusal = self._refusal(order)
        if refusal:
            log.warning("order %s refused: %s", order.action, refusal)
            self._agent.link.post(_failed(order, refusal))
            return
        if running is not None and not running.task.cancelling():
            running.task.cancel()  # once: a second time would cut short how it ends
        before = None if running is None else running.task
        self._end_push(order.volume)
        self._running[order.volume] = _Running(order, self._agent.spawn(self._run(order, before)))

    def carried(self, carried: wire.Carried) -> None:
        """Contents for the push that comes next."""
        if carried.volume in self._agent.volumes:
            self._carried[carried.volume] = carried.bodies

    def welcomed(self) -> None:
        """A new session: what came for a push of the one before is of no use."""
        self._carried.clear()

    def push(self, push: wire.Push) -> None:
        """Apply the truth's next steps. One at a time for each volume; the newest replaces what waits."""
        due = _Due(push, time.monotonic(), self._carried.pop(push.volume, ()))
        pushing = self._pushing.get(push.volume)
        if pushing is not None:
            if pushing.waiting is not None:
                self._refuse_push(pushing.waiting.push, "a newer push took its place")
            pushing.waiting = due
            return
        task = self._agent.spawn(self._push_all(push.volume))
        self._pushing[push.volume] = _Pushing(task, due)
        # Not in the task: one that is cancelled before it begins runs nothing of itself.
        task.add_done_callback(lambda _: self._pushed(push.volume))

    def _pushed(self, volume: str) -> None:
        gone = self._pushing.pop(volume)
        for due in (gone.current, gone.waiting):
            if due is not None:
                self._refuse_push(due.push, _REPLACED)

    async def _push_all(self, volume: str) -> None:
        """One push, then those that came meanwhile."""
        pushing = self._pushing[volume]
        while pushing.current is not None:
            pushing.telling = False
            await self._push(pushing.current, pushing)
            pushing.current, pushing.waiting = pushing.waiting, None

    async def _push(self, due: _Due, pushing: _Pushing) -> None:
        push = due.push
        refusal = ""
        if push.volume not in self._agent.volumes:
            refusal = f"this node has no volume {push.volume}"
        elif self._agent.state.fence is not None:
            refusal = "this node is fenced: it is converged, not pushed to"
        if refusal:
            self._refuse_push(push, refusal)
            return
        volume = self._agent.volumes[push.volume]
        try:
            result = await self._converger(push.volume).push(push, due.came_at, due.bodies)
        except Exception:
            log.exception("a push to %s ended by a fault of the agent", push.volume)
            self._refuse_push(push, "the agent met a fault of its own; its log says more")
            return
        pushing.telling = True
        await self._agent.link.flushed(push.volume, FLUSH_MAX_S, volume.last_seq)
        self._agent.link.post(result)

    def _refuse_push(self, push: wire.Push, detail: str) -> None:
        log.info("a push to %s was not carried out: %s", push.volume, detail)
        skipped = len(push.edits)
        self._agent.link.post(wire.PushResult(push.volume, push.push, 0, skipped, 0, 0, 0, detail, None))

    def _end_push(self, volume: str) -> None:
        pushing = self._pushing.get(volume)
        if pushing is None:
            return
        if pushing.waiting is not None:
            self._refuse_push(pushing.waiting.push, _REPLACED)
            pushing.waiting = None
        if not pushing.telling and not pushing.task.cancelling():
            pushing.task.cancel()

    def cancel(self, action: str) -> None:
        for running in self._running.values():
            if running.order.action == action and not running.task.cancelling():
                running.task.cancel()

    async def forget(self, volume: str) -> None:
        """The volume is about to be closed: end what runs on it."""
        pushing = self._pushing.get(volume)
        if pushing is not None:
            self._end_push(volume)
            await asyncio.wait({pushing.task})
        running = self._running.get(volume)
        if running is not None:
            if not running.task.cancelling():
                running.task.cancel()
            await asyncio.wait({running.task})
        self._untold.pop(volume, None)
        converger = self._convergers.pop(volume, None)
        if converger is not None:
            await converger.close()

    def _refusal(self, order: Order) -> str:
        if order.volume not in self._agent.volumes:
            return f"this node has no volume {order.volume}"
        fence = self._agent.state.fence
        held = 0 if fence is None else fence.token
        behind_fence = isinstance(order, wire.Converge) and order.mode == "divergence"
        if order.token != held and (order.token or behind_fence):
            return f"the order carries fence token {order.token}, this node holds {held or 'no fence'}"
        return ""

    async def _run(self, order: Order, before: asyncio.Task[None] | None) -> None:
        try:
            if before is not None:
                await asyncio.wait({before})  # unlike gather, it keeps our own cancellation to itself
            result = await self._carry_out(order)
        except asyncio.CancelledError:
            log.info("order %s on %s was cancelled", order.action, order.volume)
            raise
        except Exception:
            # A fault of ours ends this order, not the agent: a node that says nothing helps nobody.
            log.exception("order %s on %s ended by a fault of the agent", order.action, order.volume)
            result = _failed(order, "the agent met a fault of its own; its log says more")
        finally:
            current = self._running.get(order.volume)
            if current is not None and current.order is order:
                del self._running[order.volume]
        link, is_done = self._agent.link, isinstance(result, wire.ConvergeResult) and result.state == "done"
        while True:
            if is_done:
                # Nothing else says what it moved: a coordinator that comes back finds the work done, and asks for none.
                await link.joined()
            # What the coordinator hears of the result must not be older than what it knows of the tree.
            await link.flushed(order.volume, FLUSH_MAX_S)
            if link.connected or not is_done:
                break
        if isinstance(result, wire.ConvergeResult):
            result = self._in_all(result)
            if not link.connected:
                self._untold[order.volume] = result
        link.post(result)

    def _in_all(self, result: wire.ConvergeResult) -> wire.ConvergeResult:
        before = self._untold.get(result.volume)
        if before is None or before.action != result.action:
            return result
        del self._untold[result.volume]
        return msgspec.structs.replace(
            result,
            bytes_moved=before.bytes_moved + result.bytes_moved,
            steps_done=before.steps_done + result.steps_done,
            files_trashed=before.files_trashed + result.files_trashed,
        )

    async def _carry_out(self, order: Order) -> wire.AgentMessage:
        if order.volume not in self._agent.volumes:
            return _failed(order, f"this node has no volume {order.volume} any more")
        converger = self._converger(order.volume)
        match order:
            case wire.Converge():
                return await converger.run(order, self._agent.link.post)
            case wire.Verify():
                result = await converger.verify(order)
                self._agent.link.scanned()
                return result

    def _converger(self, name: str) -> Converger:
        if name not in self._convergers:
            agent = self._agent
            volume = agent.volumes[name]

            async def want(digests: tuple[bytes, ...]) -> dict[bytes, bytes]:
                return await agent.link.want(name, digests)

            self._convergers[name] = Converger(
                volume,
                agent.config.node,
                agent.members,
                want,
                agent.http,
                lambda: agent.state.membership_term,
                lambda: agent.state.open_incidents,
                budget=agent.speed.receive,
                reach=Reach(agent.link.notify),
            )
        return self._convergers[name]

    def unreached(self, volume: str) -> tuple[wire.Unreached, ...]:
        """Peers that did not answer when this volume asked them for chunks. Any thread."""
        found = self._convergers.get(volume)
        return () if found is None else found.reach.told(self._agent.members())

    def waits_for(self, volume: str) -> wire.Problem | None:
        """What keeps this volume from being brought to the truth, as far as it was tried. Any thread."""
        found = self._convergers.get(volume)
        return None if found is None else found.waits_for

    async def trash(self, order: wire.TrashList | wire.TrashRestore) -> None:
        """Answer about the trash. Whatever goes wrong is told in words."""
        if self._asked >= TRASH_MAX_ASKED:
            busy = "the node is busy with other questions about its trash; ask again"
            self._agent.link.post(wire.TrashAnswer(order.request, (), None, busy))
            return
        self._asked += 1
        try:
            match order:
                case wire.TrashList():
                    answer = await self._list_trash(order)
                case wire.TrashRestore():
                    answer = await self._restore_trash(order)
        except (CloseranksError, OSError) as error:
            answer = wire.TrashAnswer(order.request, (), None, str(error))
        except Exception:
            log.exception("a question about the trash ended by a fault of the agent")
            answer = wire.TrashAnswer(
                order.request, (), None, "the agent met a fault of its own; its log says more"
            )
        finally:
            self._asked -= 1
        self._agent.link.post(answer)

    def trashed(self, volume: str) -> int:
        """What the trash of a volume holds, as far as it was ever opened. Any thread."""
        found = self._convergers.get(volume)
        return (found.trash.held_bytes if found is not None else None) or 0

    async def tidy(self, volume: str) -> None:
        """Make ready for a full disk, and let go of what is too old to be wanted."""
        converger = self._converger(volume)
        try:
            await converger.prepare()
            await converger.tidy_trash()
        except (CloseranksError, OSError) as error:
            log.warning("%s: its trash can not be tidied now: %s", volume, error)

    async def _list_trash(self, order: wire.TrashList) -> wire.TrashAnswer:
        """One page: ids of different volumes are never compared, so several volumes are asked one by one."""
        agent = self._agent
        names = [order.volume] if order.volume else sorted(agent.volumes)
        if order.volume and order.volume not in agent.volumes:
            raise UserError(f"{agent.config.node} has no volume {order.volume}")
        limit = max(1, min(order.limit, LIST_MAX))
        start, _, cursor = order.cursor.partition("/")
        items: list[wire.TrashItem] = []
        for name in (one for one in names if one >= start):
            trash = self._converger(name).trash
            room = limit - len(items)
            page, following = await asyncio.to_thread(
                trash.items, order.incident, room, cursor if name == start else ""
            )
            items += page
            if following is not None:
                return wire.TrashAnswer(order.request, tuple(items), f"{name}/{following}", "")
            if len(items) == limit and name != names[-1]:
                return wire.TrashAnswer(order.request, tuple(items), f"{names[names.index(name) + 1]}/", "")
        return wire.TrashAnswer(order.request, tuple(items), None, "")

    async def _restore_trash(self, order: wire.TrashRestore) -> wire.TrashAnswer:
        agent = self._agent
        if order.volume not in agent.volumes:
            raise UserError(f"{agent.config.node} has no volume {order.volume}")
        if order.in_place and agent.state.fence is None:
            raise UserError("a restore in place needs the node to be quarantined by hand first")
        outside = [os.fsencode(agent.config.state_dir)]
        for volume in agent.volumes.values():
            outside += [volume.path, volume.private]
        items = await self._converger(order.volume).restore_trash(order, outside)
        return wire.TrashAnswer(order.request, items, None, "")


def _failed(order: Order, detail: str) -> wire.AgentMessage:
    match order:
        case wire.Converge():
            return wire.ConvergeResult(
                order.action, order.volume, "failed", None, 0, 0, 0, 0, detail, None, (), 0, 0
            )
        case wire.Verify():
            return wire.VerifyResult(order.action, order.volume, None, 0, 0, False, detail, ())
