"""The fence on this node: kept on disk first, then told to the operator's hook, then answered.

A fence is in force from the moment of its order, whatever else has to wait. Hooks run one after the other in
the order of the fences. A hook is *owed* from the write that records its fence until it has ended, so one
that a crash cut off is run at the next start, and one that has ended is never run again for that fence.
Orders older than what this node has seen are late and change nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from closeranks_proto import messages as wire

from .config import AgentConfig
from .disk.records import StateUnavailable
from .hooks import HookOutcome, run_hook
from .state import AgentState, OwedHook

log = logging.getLogger("closeranks.agent")

RECORD_RETRY_S = 5.0
JOBS_MAX = 64  # a coordinator that fences as fast as it can send


@dataclass(frozen=True, slots=True)
class _Job:
    """What is left of an order: record it if that failed, run the hook that is owed, answer."""

    fenced: bool
    token: int
    owed: OwedHook | None


class FenceGate:
    """Takes fence orders one at a time. `post` sends the answer; `config` may change its hooks."""

    def __init__(
        self,
        state: AgentState,
        config: Callable[[], AgentConfig],
        post: Callable[[wire.AgentMessage], None],
        spawn: Callable[[Coroutine[None, None, None]], asyncio.Task[None]],
    ) -> None:
        self._state, self._config, self._post, self._spawn = state, config, post, spawn
        self._jobs: deque[_Job] = deque(maxlen=JOBS_MAX)
        self._worker: asyncio.Task[None] | None = None
        self._recorded = True

    def resume(self) -> None:
        """Run what an earlier process still owed."""
        owed = self._state.owed_hook
        if owed is not None:
            self._add(_Job(owed.fenced, owed.token, owed))

    async def raise_fence(self, order: wire.Fence) -> None:
        """In force when it returns."""
        state, current = self._state, self._state.fence
        same = current is not None and current.token == order.token
        if order.token < state.highest_token and not same:
            log.warning("a late fence order (token %d, seen %d) is ignored", order.token, state.highest_token)
            return
        owed = None if same else OwedHook(True, order.token, order.incident, order.reason)
        if owed is not None:
            fence = wire.FenceState(order.token, order.reason, order.incident, time.time_ns() // 1_000_000)
            log.warning(
                "this node is quarantined: %s (incident %s, fence token %d)",
                order.reason,
                order.incident or "none",
                order.token,
            )
            await self._record(fence, owed)
        self._add(_Job(True, order.token, owed))

    async def lift_fence(self, order: wire.Unfence) -> None:
        """Lifted when it returns, unless that can not be recorded yet."""
        state, current = self._state, self._state.fence
        if order.token < state.highest_token:
            log.warning(
                "a late release order (token %d, seen %d) is ignored", order.token, state.highest_token
            )
            return
        owed = None
        if current is not None:
            owed = OwedHook(False, order.token, order.incident, current.reason)
            await self._record(None, owed)
            log.info("this node is released from quarantine (incident %s)", order.incident or "none")
        self._add(_Job(False, order.token, owed))

    async def _record(self, fence: wire.FenceState | None, owed: OwedHook) -> None:
        try:
            await asyncio.to_thread(self._state.set_fence, fence, owed)
            self._recorded = True
        except StateUnavailable as error:
            log.error("the fence can not be recorded yet: %s", error)
            self._recorded = False

    # --- one after the other -------------------------------------------------------------------

    def _add(self, job: _Job) -> None:
        self._jobs.append(job)
        if self._worker is None or self._worker.done():
            self._worker = self._spawn(self._work())

    async def _work(self) -> None:
        while self._jobs:
            job = self._jobs.popleft()
            if not job.fenced and not await self._stands(job):
                continue  # a newer order has taken its place
            outcome = await self._run(job.owed)
            if await self._stands(job):
                self._post(wire.FenceAnswer(job.token, job.fenced, outcome.text, outcome.ok))

    async def _stands(self, job: _Job) -> bool:
        """Wait until the order is recorded; False when a newer one has taken its place."""
        while True:
            current = self._state.fence
            if job.fenced and (current is None or current.token != job.token):
                return False
            if not job.fenced and current is not None and (current.token > job.token or job.owed is None):
                return False
            if self._recorded:
                return True
            await asyncio.sleep(RECORD_RETRY_S)
            if job.owed is not None and not self._recorded and self._state.fence is current:
                await self._record(current if job.fenced else None, job.owed)

    async def _run(self, owed: OwedHook | None) -> HookOutcome:
        if owed is None:
            return HookOutcome(True, "")
        hooks = self._config().hooks
        environment = {
            "CLOSERANKS_NODE": self._config().node,
            "CLOSERANKS_INCIDENT": owed.incident,
            "CLOSERANKS_FENCE_TOKEN": str(owed.token),
            "CLOSERANKS_REASON": owed.reason,
        }
        argv = hooks.on_quarantine if owed.fenced else hooks.on_release
        outcome = await run_hook(argv, environment, hooks.timeout_s)
        if outcome.text:
            log.log(logging.INFO if outcome.ok else logging.WARNING, "%s", outcome.text)
        try:
            await asyncio.to_thread(self._state.hook_ended, owed)
        except StateUnavailable as error:
            log.warning("that the hook has ended is not on disk; it may run again after a restart: %s", error)
        return outcome
