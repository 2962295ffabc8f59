"""Which statuses of its volumes an agent tells, and when.

A busy writer commits many times a second: what that does to the counts of files and bytes is told now and then. A
problem that came or went is told at once, and what changes by itself (ages, durations, a little less room) never is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING

import msgspec

from closeranks_proto import messages as wire
from closeranks_proto.wire import clipped

if TYPE_CHECKING:
    from .runtime import Agent

STATUS_MIN_S = 1.0  # between two looks at the statuses, unless a volume's problem came or went
COUNTS_MIN_S = 10.0  # the same of a volume where only its counts of files and bytes have changed


class Statuses:
    """Of one session about these volumes."""

    def __init__(
        self, agent: Agent, names: Collection[str], send: Callable[[wire.AgentMessage], Awaitable[None]]
    ) -> None:
        self._agent, self._names, self._send = agent, names, send
        self._told: dict[str, tuple[float, wire.VolumeStatus]] = {}  # sent last, and when
        self.due = 0.0  # the next look, monotonic; 0: none is
        self._rest = 0.0  # it is not before then
        self._problems: dict[str, wire.Problem | None] = {}  # at the last look

    async def tell(self) -> None:
        """Send what is worth telling now."""
        now = time.monotonic()
        problems = {name: volume.condition.problem for name, volume in self._agent.volumes.items()}
        if now < self._rest and problems == self._problems:
            self.due = self._rest
            return
        self.due, self._rest, self._problems = 0.0, now + STATUS_MIN_S, problems
        for name in self._names:
            status = await asyncio.to_thread(self._agent.status, name)  # a dead file system answers never
            sent_at, last = self._told.get(name, (0.0, None))
            if status is None or (last is not None and not worth_telling(last, status)):
                continue
            rested = sent_at + COUNTS_MIN_S
            if last is not None and now < rested and not worth_telling(_counted(last, status), status):
                self.due = min(self.due or rested, rested)
                continue
            self._told[name] = (now, status)
            await self._send(clipped(status))


def worth_telling(last: wire.VolumeStatus, now: wire.VolumeStatus) -> bool:
    """Whether a status differs enough: anything but the duration, and free space by more than 1% of the disk."""
    if abs(last.disk_free_bytes - now.disk_free_bytes) * 100 > max(1, now.disk_total_bytes):
        return True
    return _without_noise(last) != _without_noise(now)


def _counted(last: wire.VolumeStatus, now: wire.VolumeStatus) -> wire.VolumeStatus:
    """The older status with the newer one's counts."""
    scrub = last.scrub
    if scrub is not None and now.scrub is not None:
        scrub = msgspec.structs.replace(
            scrub, files=now.scrub.files, bytes=now.scrub.bytes, slowed=now.scrub.slowed
        )
    return msgspec.structs.replace(
        last, entries=now.entries, files=now.files, bytes=now.bytes, scrub=scrub
    )  # fmt: skip


def _without_noise(status: wire.VolumeStatus) -> tuple[object, ...]:
    problem = status.problem
    steady = None if problem is None else (problem.code, problem.message)
    counts = (status.entries, status.files, status.bytes, status.unreadable_count, status.hard_links)
    return (
        steady, *counts, status.unreadable, status.watch, status.watch_detail, status.watch_dropped,
        status.storm, status.hush, status.unreached, _scrub_without_noise(status.scrub),
    )  # fmt: skip


def _scrub_without_noise(scrub: wire.ScrubState | None) -> tuple[object, ...]:
    """Without ages and debt, which grow with time, and totals, which are told anyway."""
    if scrub is None:
        return ()
    return (
        scrub.state, scrub.slowed, scrub.files, scrub.bytes, scrub.found, scrub.unreadable, scrub.bytes_s, scrub.files_s
    )  # fmt: skip
