"""Converge and verify, one at a time on each volume, each known by its action.

An order that is already running is not started twice: after a reconnect the coordinator repeats what is
outstanding. A newer order for a volume replaces the one that runs; what that one finished stays. Fenced
orders must carry the token of the fence in force.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from closeranks_proto import messages as wire
from closeranks_proto.errors import UserError

from .converge import Converger

if TYPE_CHECKING:
    from .runtime import Agent

log = logging.getLogger("closeranks.orders")

FLUSH_MAX_S = 10.0
Order = wire.Converge | wire.Verify


@dataclass(slots=True)
class _Running:
    order: Order
    task: asyncio.Task[None]


class Orders:
    """The long-running orders of one agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._running: dict[str, _Running] = {}
        self._convergers: dict[str, Converger] = {}

    def start(self, order: Order) -> None:
        running = self._running.get(order.volume)
        if (
            running is not None
            and running.order.action == order.action
            and type(running.order) is type(order)
        ):
            return
        refusal = self._refusal(order)
        if refusal:
            log.warning("order %s refused: %s", order.action, refusal)
            self._agent.link.post(_failed(order, refusal))
            return
        self._running[order.volume] = _Running(order, self._agent.spawn(self._run(order, running)))

    def cancel(self, action: str) -> None:
        for running in self._running.values():
            if running.order.action == action:
                running.task.cancel()

    async def close(self) -> None:
        for running in self._running.values():
            running.task.cancel()

    def _refusal(self, order: Order) -> str:
        if order.volume not in self._agent.volumes:
            return f"this node has no volume {order.volume}"
        state = self._agent.state
        if order.token and order.token < state.highest_token:
            return f"the order carries fence token {order.token}, this node has seen {state.highest_token}"
        return ""

    async def _run(self, order: Order, before: _Running | None) -> None:
        if before is not None:
            before.task.cancel()
            await asyncio.gather(before.task, return_exceptions=True)
        try:
            converger = self._converger(order.volume)
            match order:
                case wire.Converge():
                    result: wire.AgentMessage = await converger.run(order, self._agent.link.post)
                case wire.Verify():
                    result = await converger.verify(order)
                    self._agent.link.scanned()
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
        # What the coordinator hears of the result must not be older than what it knows of the tree.
        await self._agent.link.flushed(order.volume, FLUSH_MAX_S)
        self._agent.link.post(result)

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
            )
        return self._convergers[name]

    async def trash(self, order: wire.TrashList | wire.TrashRestore) -> None:
        """Answer about the trash. Whatever goes wrong is told in words."""
        try:
            match order:
                case wire.TrashList():
                    answer = await self._list_trash(order)
                case wire.TrashRestore():
                    answer = await self._restore_trash(order)
        except (UserError, OSError) as error:
            answer = wire.TrashAnswer(order.request, (), None, str(error))
        self._agent.link.post(answer)

    async def _list_trash(self, order: wire.TrashList) -> wire.TrashAnswer:
        """One page: ids of different volumes are never compared, so several volumes are asked one by one."""
        agent = self._agent
        names = [order.volume] if order.volume else sorted(agent.volumes)
        if order.volume and order.volume not in agent.volumes:
            raise UserError(f"{agent.config.node} has no volume {order.volume}")
        start, _, cursor = order.cursor.partition("/")
        items: list[wire.TrashItem] = []
        for name in (one for one in names if one >= start):
            trash = self._converger(name).trash
            room = order.limit - len(items)
            page, following = await agent.volumes[name].run(
                trash.items, order.incident, room, cursor if name == start else ""
            )
            items += page
            if following is not None:
                return wire.TrashAnswer(order.request, tuple(items), f"{name}/{following}", "")
            if len(items) == order.limit and name != names[-1]:
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
