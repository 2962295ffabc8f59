"""What a model agent does when it is told to: fences, converges, verifications and pushes.

One thing at a time touches a volume. A step is made by compare-and-swap, and is one effect: the path, its row and its
record in the journal change together, and what was there goes to the trash. (What happens between the two in the real
agent is for `shells` and the kill sweeps.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from closeranks_proto import messages as wire
from closeranks_proto.audits import seeded_digest
from closeranks_proto.closure import Closure
from closeranks_proto.digests import XXH3_128
from closeranks_proto.limits import PUSH_GOOD_S

from .disk import Copy, Files, above, content_of, is_directory

if TYPE_CHECKING:
    from .agent import Agent

Work = Generator[float, None, None]
LOOK_S = 0.05  # whoever waits for something looks so often
ANSWER_MAX_S = 10.0
NO_SPACE = wire.Problem("no_space", "the disk is full")


@dataclass(slots=True)
class Running:
    order: wire.Converge | wire.Verify
    cancelled: bool = False

    def is_over(self) -> bool:
        return self.cancelled


@dataclass(slots=True)
class Pushed:
    """A push that has come, and until when it is good."""

    push: wire.Push
    good_until: float


class Orders:
    """Of one process of one agent."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.running: dict[str, Running] = {}
        self.under_way: list[
            wire.Converge | wire.Verify
        ] = []  # also those that were replaced and have not ended yet
        self.pushes: dict[str, deque[Pushed]] = {name: deque() for name in agent.copies}

    def take(self, message: wire.CoordinatorMessage) -> None:
        match message:
            case wire.Fence():
                self._fence(message)
            case wire.Unfence():
                self._unfence(message)
            case wire.Converge() | wire.Verify():
                self._start(message)
            case wire.Cancel():
                for running in self.running.values():
                    if running.order.action == message.action:
                        running.cancelled = True
            case wire.Push():
                self._take_push(message)
            case wire.Ask():
                self.agent.ask(message.volume)
            case wire.Audit():
                self._audit(message)
            case wire.Hold():
                self.agent.post(wire.HoldAnswer(message.hold, "nothing was paused"))
            case wire.Unhold():
                self.agent.post(wire.HoldAnswer(message.hold, ""))
            case _:
                pass

    def _audit(self, audit: wire.Audit) -> None:
        """Contents are known by their digests here. Honest, but for those that were made liars."""
        copy, why, proof = self.agent.copies[audit.volume], "", None
        if copy.is_gone() or audit.key in copy.unreadable:
            why = "failed"
        elif (
            content_of(copy.rows.get(audit.key)) != audit.digest
            or copy.disk.get(audit.key) != copy.rows[audit.key]
        ):
            why = "moved"
            self.agent.ask(audit.volume)
        elif self.agent.lies:
            self.agent.lies -= 1
            self.agent.lied.append(audit.key)
            proof = seeded_digest(XXH3_128, audit.seed, XXH3_128.of(b"what all liars say"))
        else:
            proof = seeded_digest(XXH3_128, audit.seed, audit.digest)
        self.agent.post(wire.AuditAnswer(audit.volume, audit.audit, proof, why, ""))  # type: ignore[arg-type]

    def _fence(self, order: wire.Fence) -> None:
        kept = self.agent.kept
        same = kept.fence is not None and kept.fence.token == order.token
        if order.token < kept.highest_token and not same:
            return
        self.agent.effect()
        kept.highest_token = max(kept.highest_token, order.token)
        if not same:
            kept.fence = wire.FenceState(order.token, order.reason, order.incident, 0)
        self.agent.effect()
        self.agent.post(wire.FenceAnswer(order.token, True, "", True))

    def _unfence(self, order: wire.Unfence) -> None:
        kept = self.agent.kept
        if order.token < kept.highest_token:
            return
        self.agent.effect()
        kept.fence = None
        self.agent.post(wire.FenceAnswer(order.token, False, "", True))

    def _start(self, order: wire.Converge | wire.Verify) -> None:
        running = self.running.get(order.volume)
        if (
            running is not None
            and running.order.action == order.action
            and type(running.order) is type(order)
            and not running.cancelled
        ):
            self._ended(order)
            return
        held = 0 if self.agent.kept.fence is None else self.agent.kept.fence.token
        behind = isinstance(order, wire.Converge) and order.mode == "divergence"
        if order.token != held and (order.token or behind):
            self._ended(order)
            self.agent.post(self._failed(order, "another token"))
            return
        if running is not None:
            running.cancelled = True
        for pushed in list(self.pushes[order.volume]):
            pushed.good_until = -1.0  # the one that is under way ends with its present step
        mine = self.running[order.volume] = Running(order)
        self.under_way.append(order)
        self.agent.spawn(self._run(mine))

    def _run(self, running: Running) -> Work:
        order = running.order
        work = self._verify(running) if isinstance(order, wire.Verify) else self._converge(running)
        yield from self.agent.alone(order.volume, work)
        self.under_way.remove(order)
        self._ended(order)
        if self.running.get(order.volume) is running:
            del self.running[order.volume]

    def _ended(self, order: wire.Converge | wire.Verify) -> None:
        if isinstance(order, wire.Converge) and order not in self.under_way:
            self.agent.world.repair_ended(self.agent, order)

    def _failed(
        self, order: wire.Converge | wire.Verify, detail: str, problem: wire.Problem | None = None
    ) -> wire.AgentMessage:
        if isinstance(order, wire.Verify):
            return wire.VerifyResult(order.action, order.volume, None, 0, 0, False, detail, ())
        return wire.ConvergeResult(
            order.action, order.volume, "failed", None, 0, 0, 0, 0, detail, problem, (), 0, 0
        )

    def _verify(self, running: Running) -> Work:
        order = running.order
        copy, looked = self.agent.copies[order.volume], self.agent.looked[order.volume]
        before = looked.scanned
        yield from self.agent.scan(order.volume, "scan")
        yield from self.agent.flush(order.volume)
        if running.is_over():
            return
        if looked.scanned == before:
            self.agent.post(self._failed(order, "it could not be scanned"))
        else:
            self.agent.post(wire.VerifyResult(order.action, order.volume, copy.root, 1, 1, True, "", ()))

    def _converge(self, running: Running) -> Work:
        order = running.order
        assert isinstance(order, wire.Converge)
        copy = self.agent.copies[order.volume]
        if copy.is_gone() or copy.root is None or copy.no_room or copy.no_room_for_state:
            self.agent.post(self._failed(order, "", NO_SPACE))
            return
        yield from self.agent.scan(order.volume, "scan")
        got: list[Files] = []
        yield from self._fetch_tree(order, got)
        if running.is_over():
            return
        if not got:
            self.agent.post(self._failed(order, "the target could not be read"))
            return
        target, seen = got[0], copy.rows
        based = seen if order.base is None else dict(copy.tree.walk(order.base))
        steps = sorted(key for key in seen.keys() | target.keys() if seen.get(key) != target.get(key))
        if order.dry_run:
            plan = tuple(
                wire.PlanStep("fetch" if key in target else "remove", key, 0, 0, "") for key in steps
            )
            self.agent.post(
                wire.ConvergeResult(
                    order.action, order.volume, "done", None, 0, 0, 0, 0, "", None, plan, len(steps), 0
                )
            )
            return
        done = moved = skipped = 0
        left: list[bytes] = []
        removals = [key for key in steps if key not in target]
        for key in (*removals[::-1], *(key for key in steps if key in target)):
            if running.is_over():
                return
            if seen.get(key) != based.get(key):
                left.append(key)
                continue  # a change that the coordinator has not heard of yet
            fetched: list[int] = []
            yield from self._step(order, copy, key, target.get(key), seen, fetched, lambda: False)
            if not fetched:
                skipped += 1
            else:
                done, moved = done + 1, moved + fetched[0]
        self.agent.pump(order.volume)
        yield from self.agent.flush(order.volume)
        state: Literal["done", "partial"] = "partial" if skipped or copy.no_room else "done"
        problem = NO_SPACE if copy.no_room else None
        if state == "done":
            self.agent.world.reached(self.agent, copy, order.target_root, left)
        self.agent.post(
            wire.ConvergeResult(
                order.action, order.volume, state, None, moved, done, done, 0, "skipped" if skipped else "", problem,
                (), 0, 0,
            )
        )  # fmt: skip

    def _step(
        self, order: wire.Converge | wire.Push, copy: Copy, key: bytes, value: bytes | None, seen: Files,
        done: list[int], is_over: Callable[[], bool],
    ) -> Work:  # fmt: skip
        """One path, by compare-and-swap: `done` gets the bytes that were moved for it, or stays empty."""
        moved = 0
        content = content_of(value)
        if content and not copy.has_content(content):
            source: list[str] = []
            yield from self._fetch(order, key, content, source)
            if not source:
                return
            moved = 100
        else:
            yield 0.002
        if copy.no_room and value is not None:
            return
        if is_over() or copy.is_gone() or copy.disk.get(key) != seen.get(key) or copy.no_room_for_state:
            return
        if not is_directory(value) and any(one.startswith(key + b"\0") for one in copy.disk):
            return
        if value is not None and any(not is_directory(copy.disk.get(one)) for one in above(key)):
            return
        self.agent.effect()
        before = copy.disk.get(key)
        self.agent.world.takes(self.agent, order, key, before)
        if before is not None:
            copy.trash.append((key, before))
        copy.put(key, value)
        self.agent.world.brought(self.agent, copy, key, before, value)
        copy.commit({key: value}, "push" if isinstance(order, wire.Push) else "converge", self.agent.time.now)
        self.agent.effect()
        done.append(moved)

    def _fetch(self, order: wire.Converge | wire.Push, key: bytes, content: bytes, got: list[str]) -> Work:
        """Ask the sources in turn, as membership allows."""
        for name in order.sources:
            member = self.agent.kept.members.get(name)
            if member is None or member.fenced or name == self.agent.name:
                continue
            yield (
                0.01
                + self.agent.world.network.delay(name, self.agent.name)
                + self.agent.slow_s * self.agent.rng.random()
            )
            member = self.agent.kept.members.get(name)
            if member is None or member.fenced:
                continue  # it was fenced while the question was on its way
            peer = self.agent.world.agents.get(name)
            if (
                peer is not None
                and self.agent.world.network.reaches(self.agent.name, name)
                and peer.serves(self.agent, order.volume, key, content)
            ):
                self.agent.world.fetched(self.agent, peer, content)
                got.append(name)
                return

    def _fetch_tree(self, order: wire.Converge, got: list[Files]) -> Work:
        """The target's pages from the coordinator, those that this node has not got itself."""
        copy = self.agent.copies[order.volume]
        assert copy.root is not None, "checked before"
        mine = dict(copy.tree.pages(copy.root, lambda _: False))
        mine.update(copy.tree.empty.pages)
        come: dict[bytes, bytes] = {}
        closure = Closure(XXH3_128, order.target_root, mine.__contains__, None)
        while not closure.done:
            wants = closure.wants()
            if not wants:
                return
            self.agent.requests += 1
            request = self.agent.requests
            self.agent.post(wire.Want(order.volume, request, wants))
            end = self.agent.time.now + ANSWER_MAX_S
            while request not in self.agent.answers:
                if self.agent.time.now > end or not self.agent.welcomed:
                    return
                yield LOOK_S
            answer = self.agent.answers.pop(request)
            if answer.missing:
                return
            come.update(closure.receive(answer.objects))
        copy.pages.update(come)
        got.append(dict(copy.tree.walk(order.target_root)))

    # --- pushes --------------------------------------------------------------------------------

    def _take_push(self, push: wire.Push) -> None:
        waiting = self.pushes[push.volume]
        if len(waiting) > 1:
            self._refuse(waiting.pop().push)
        waiting.append(Pushed(push, self.agent.time.now + PUSH_GOOD_S))

    def _refuse(self, push: wire.Push) -> None:
        self.agent.world.push_ended(self.agent, push)
        self.agent.post(
            wire.PushResult(push.volume, push.push, 0, len(push.edits), 0, 0, 0, "replaced", None)
        )

    def push_for_ever(self, name: str) -> Work:
        waiting = self.pushes[name]
        while True:
            if not waiting:
                yield LOOK_S
                continue
            pushed = waiting[0]
            if self.agent.kept.fence is not None:
                self._refuse(pushed.push)
            else:
                yield from self.agent.alone(name, self._push(pushed))
            waiting.popleft()

    def _push(self, pushed: Pushed) -> Work:
        push, copy = pushed.push, self.agent.copies[pushed.push.volume]
        applied = skipped = failed = moved = 0
        if copy.is_gone() or copy.root is None:
            self._refuse(push)
            return

        def is_over() -> bool:
            return self.agent.time.now > pushed.good_until

        order = [one for one in push.edits if one.after is None][::-1]
        for edit in (*order, *(one for one in push.edits if one.after is not None)):
            if is_over() or copy.disk.get(edit.key) != edit.before or copy.rows.get(edit.key) != edit.before:
                skipped += 1
                continue
            done: list[int] = []
            yield from self._step(push, copy, edit.key, edit.after, copy.rows, done, is_over)
            if done:
                applied, moved = applied + 1, moved + done[0]
                if not is_over():
                    pushed.good_until = max(pushed.good_until, self.agent.time.now + PUSH_GOOD_S)
            elif is_over():
                skipped += 1
            else:
                failed += 1
        self.agent.world.push_ended(self.agent, push)
        self.agent.pump(push.volume)
        yield from self.agent.flush(push.volume)
        problem = NO_SPACE if copy.no_room else None
        text = "no" if failed else ""
        self.agent.post(
            wire.PushResult(push.volume, push.push, applied, skipped, failed, moved, 0, text, problem)
        )
