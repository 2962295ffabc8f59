"""Orders of a coordinator: one at a time on a volume, refused when late, never the agent's end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import aiohttp
import msgspec
import pytest

from closeranks_agent import orders
from closeranks_agent.converge.converger import Converger
from closeranks_agent.disk.records import Record
from closeranks_agent.link import Link
from closeranks_agent.runtime import Agent
from closeranks_proto import messages as wire
from closeranks_proto.digests import XXH3_128
from closeranks_proto.entries import Entry, Kind, encode_entry
from link_world import Talk, World, until, world_of


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_of(tmp_path) as made:
        (made.tree / "a").write_bytes(b"1")
        yield made


async def settled(world: World) -> tuple[Talk, bytes]:
    talk = await world.coordinator.talk(0)
    announce = await talk.hear(wire.Announce)
    await talk.say(wire.Ack("photos", announce.seq))
    return talk, announce.root


def converge(action: str, root: bytes, mode: wire.Mode = "lag", token: int = 0) -> wire.Converge:
    return wire.Converge(action, "photos", root, mode, "", token, (), False)


class Slow:
    """A converge that runs until it is told to end, and takes its time to be cancelled."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs: list[str] = []
        self.inside = self.most = self.ending = self.cut = 0
        self.go = asyncio.Event()
        lock = asyncio.Lock()

        async def run(
            _: Converger, order: wire.Converge, progress: Callable[[wire.ConvergeProgress], None]
        ) -> wire.ConvergeResult:
            async with lock:
                self.runs.append(order.action)
                self.inside += 1
                self.most = max(self.most, self.inside)
                try:
                    await self.go.wait()
                    return wire.ConvergeResult(
                        order.action, "photos", "done", None, 0, 0, 0, 0, "", None, (), 0, 0
                    )
                finally:
                    self.ending += 1
                    try:
                        await asyncio.sleep(0.3)
                    except asyncio.CancelledError:
                        self.cut += 1
                        raise
                    finally:
                        self.inside -= 1

        monkeypatch.setattr(Converger, "run", run)


async def test_a_result_comes_behind_its_commits(world: World) -> None:
    async with world.agent() as agent:
        talk, root = await settled(world)
        (world.tree / "b").write_bytes(b"2")
        await talk.say(wire.Verify("a-1", "photos", "", 0))
        commit = await talk.hear(wire.Commit)
        await asyncio.sleep(0.2)
        assert not talk.all(wire.VerifyResult)
        await talk.say(wire.Ack("photos", commit.seq))
        result = await talk.hear(wire.VerifyResult)
        assert result.root == commit.root != root
        assert agent.link.connected


async def test_a_repeated_order_is_run_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch)
    async with world.agent():
        talk, root = await settled(world)
        await talk.say(converge("a-1", root), converge("a-1", root))
        await until(lambda: slow.runs)
        slow.go.set()
        await talk.hear(wire.ConvergeResult)
        await asyncio.sleep(0.1)
        assert slow.runs == ["a-1"]


async def test_newer_orders_replace_older_ones_which_end_in_peace(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch)
    async with world.agent():
        talk, root = await settled(world)
        await talk.say(converge("a-1", root))
        await until(lambda: slow.runs)
        await talk.say(converge("a-2", root), converge("a-3", root))
        await until(lambda: slow.ending)
        slow.go.set()
        result = await talk.hear(wire.ConvergeResult)
        assert result.action == "a-3"
        assert (slow.cut, slow.most) == (0, 1)


async def test_an_order_that_is_cancelled_can_be_given_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch)
    async with world.agent():
        talk, root = await settled(world)
        await talk.say(converge("a-1", root))
        await until(lambda: slow.runs)
        await talk.say(wire.Cancel("a-1"), converge("a-1", root))
        slow.go.set()
        await talk.hear(wire.ConvergeResult)


async def test_a_cancelled_order_is_that_one_and_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch)
    async with world.agent():
        talk, root = await settled(world)
        await talk.say(converge("a-2", root))
        await until(lambda: slow.runs)
        await talk.say(wire.Cancel("a-1"))
        slow.go.set()
        assert (await talk.hear(wire.ConvergeResult)).action == "a-2"


@pytest.mark.parametrize(
    ("mode", "token"), [("divergence", 0), ("divergence", 2), ("divergence", 4), ("lag", 2)]
)
async def test_an_order_of_another_fence_is_refused(world: World, mode: wire.Mode, token: int) -> None:
    async with world.agent():
        talk, root = await settled(world)
        await talk.say(wire.Fence(3, "why", "", False))
        await talk.hear(wire.FenceAnswer)
        await talk.say(converge("a-1", root, mode, token))
        assert (await talk.hear(wire.ConvergeResult)).state == "failed"
        await talk.say(converge("a-2", root, mode, 3))
        result = await talk.hear(wire.ConvergeResult, lambda one: one.action == "a-2")
        assert result.state == "done"


async def test_a_fault_ends_the_order_and_not_the_agent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(*_: object) -> wire.ConvergeResult:
        raise KeyError("a fault")

    monkeypatch.setattr(Converger, "run", run)
    async with world.agent():
        talk, root = await settled(world)
        await talk.say(converge("a-1", root), wire.Verify("a-2", "elsewhere", "", 0))
        assert (await talk.hear(wire.ConvergeResult)).state == "failed"
        assert (await talk.hear(wire.VerifyResult)).root is None
        await talk.say(wire.Verify("a-3", "photos", "", 0))
        assert (await talk.hear(wire.VerifyResult, lambda one: one.action == "a-3")).root == root


async def test_questions_about_the_trash_are_answered_whatever_goes_wrong(world: World) -> None:
    async with world.agent():
        talk, _ = await settled(world)
        await talk.say(
            wire.TrashList(1, "", "", 2**60, ""),
            wire.TrashList(2, "elsewhere", "", 10, ""),
            wire.TrashRestore(3, "photos", ("1",), "relative", False),
            wire.TrashRestore(4, "photos", ("1",), "/nonexistent/\0", False),
            wire.TrashRestore(5, "photos", ("1",), "", True),
        )
        await until(lambda: len(talk.all(wire.TrashAnswer)) == 5)
        errors = {one.request: one.error for one in talk.all(wire.TrashAnswer)}
        assert not errors.pop(1)
        assert all(errors.values())


async def test_more_questions_about_the_trash_than_are_looked_after_at_once_are_told_to_come_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "TRASH_MAX_ASKED", 1)
    async with world.agent() as agent:
        talk, _ = await settled(world)
        questions = [wire.TrashList(number, "photos", "", 10, "") for number in (1, 2)]
        await asyncio.gather(*(agent.orders.trash(one) for one in questions))
        await until(lambda: len(talk.all(wire.TrashAnswer)) == 2)
        errors = {one.request: one.error for one in talk.all(wire.TrashAnswer)}
        assert errors.pop(1) == ""
        assert "ask again" in errors.pop(2)
        await agent.orders.trash(wire.TrashList(3, "photos", "", 10, ""))
        assert (await talk.hear(wire.TrashAnswer, lambda one: one.request == 3)).error == ""


async def test_a_lost_session_ends_a_converge_that_needs_objects_in_words(world: World) -> None:
    async with world.agent():
        talk, _ = await settled(world)
        await talk.say(converge("a-1", bytes(16)))
        want = await talk.hear(wire.Want)
        await talk.say(wire.Objects("photos", want.request, (), want.digests, True))
        result = await talk.hear(wire.ConvergeResult)
        assert result.state == "failed"
        await talk.say(converge("a-2", bytes(16)))
        await talk.hear(wire.Want, lambda one: one.request != want.request)
        await talk.socket.close()
        second = await world.coordinator.talk(1)
        await second.say(converge("a-2", bytes(16)))
        await second.hear(wire.Want)


def dial_only_after(back: asyncio.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    dial = Link._dial

    async def late(link: Link) -> tuple[aiohttp.ClientWebSocketResponse, wire.Welcome]:
        await back.wait()
        return await dial(link)

    monkeypatch.setattr(Link, "_dial", late)


async def test_what_was_done_while_the_coordinator_was_away_is_told_when_it_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It found the node equal to the truth, asked for nothing, and told that 0 B had been moved in all."""
    slow, back = Slow(monkeypatch), asyncio.Event()
    async with world.agent() as agent:
        talk, root = await settled(world)
        await talk.say(converge("a-1", root))
        await until(lambda: slow.runs)
        dial_only_after(back, monkeypatch)
        await talk.socket.close()
        await until(lambda: not agent.link.connected)
        slow.go.set()
        await until(lambda: not agent.orders._running)
        back.set()
        second = await world.coordinator.talk(1)
        await second.say(wire.Ack("photos", (await second.hear(wire.Announce)).seq))
        assert (await second.hear(wire.ConvergeResult)).action == "a-1"
        assert slow.runs == ["a-1"]


async def test_what_a_converge_moved_that_a_lost_session_ended_is_told_by_the_one_that_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end was told to nobody, and the incident said that only the rest had been moved in all."""
    failed = wire.ConvergeResult("a-1", "photos", "failed", None, 2000, 20, 2, 0, "", None, (), 0, 0)
    done = wire.ConvergeResult("a-1", "photos", "done", None, 100, 1, 0, 0, "", None, (), 0, 0)
    ends = iter([failed, done, msgspec.structs.replace(done, bytes_moved=7)])
    runs: list[str] = []
    cut = asyncio.Event()

    async def run(_: Converger, order: wire.Converge, progress: object) -> wire.ConvergeResult:
        runs.append(order.action)
        await cut.wait()
        return next(ends)

    monkeypatch.setattr(Converger, "run", run)
    back = asyncio.Event()
    async with world.agent() as agent:
        talk, root = await settled(world)
        await talk.say(converge("a-1", root))
        await until(lambda: runs == ["a-1"])
        dial_only_after(back, monkeypatch)
        await talk.socket.close()
        await until(lambda: not agent.link.connected)
        cut.set()
        await until(lambda: not agent.orders._running)
        back.set()
        second = await world.coordinator.talk(1)
        await second.say(wire.Ack("photos", (await second.hear(wire.Announce)).seq), converge("a-1", root))
        told = await second.hear(wire.ConvergeResult)
        assert (told.state, told.bytes_moved, told.steps_done, told.files_trashed) == ("done", 2100, 21, 2)
        await second.say(converge("a-1", root))
        told = await second.hear(wire.ConvergeResult, lambda one: one.bytes_moved != 2100)
        assert told.bytes_moved == 7, "each is told once"


# --- pushes --------------------------------------------------------------------------------------


def emptied(push: int, record: Record) -> wire.Push:
    """The truth has lost the file `a`."""
    return wire.Push("photos", push, (wire.PushEdit(b"a", record.value, None),), ())


def known(agent: Agent, key: bytes) -> Record:
    record = agent.volumes["photos"].record(key)
    assert record is not None
    return record


async def test_the_result_of_a_push_comes_behind_its_commits(world: World) -> None:
    async with world.agent() as agent:
        talk, _ = await settled(world)
        await talk.say(emptied(1, known(agent, b"a")))
        commit = await talk.hear(wire.Commit)
        assert (commit.cause, [edit.key for edit in commit.edits]) == ("converge", [b"a"])
        await asyncio.sleep(0.2)
        assert not talk.all(wire.PushResult)
        await talk.say(wire.Ack("photos", commit.seq))
        result = await talk.hear(wire.PushResult)
        assert (result.push, result.applied, result.files_trashed) == (1, 1, 1)
        assert not (world.tree / "a").exists()


async def test_a_fenced_node_is_not_pushed_to(world: World) -> None:
    async with world.agent() as agent:
        talk, _ = await settled(world)
        await talk.say(wire.Fence(3, "why", "", False))
        await talk.hear(wire.FenceAnswer)
        await talk.say(emptied(1, known(agent, b"a")))
        result = await talk.hear(wire.PushResult)
        assert (result.applied, result.skipped) == (0, 1)
        assert "fenced" in result.detail
        assert (world.tree / "a").exists()


async def test_a_converge_takes_the_place_of_pushes_and_each_of_them_has_its_result(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = asyncio.Event()
    order: list[str] = []
    inner = Converger.push

    async def push(
        self: Converger, one: wire.Push, came_at: float, bodies: Sequence[bytes]
    ) -> wire.PushResult:
        order.append(f"push {one.push}")
        if one.push == 1:
            await held.wait()
        return await inner(self, one, came_at, bodies)

    monkeypatch.setattr(Converger, "push", push)
    async with world.agent() as agent:
        talk, root = await settled(world)
        record = known(agent, b"a")
        await talk.say(emptied(1, record), emptied(2, record), emptied(3, record))
        assert "newer" in (await talk.hear(wire.PushResult, lambda one: one.push == 2)).detail
        await talk.say(converge("a-1", root))
        await until(lambda: len(talk.all(wire.PushResult)) == 3)
        results = sorted(talk.all(wire.PushResult), key=lambda one: one.push)
        assert [(one.push, one.skipped) for one in results] == [(1, 1), (2, 1), (3, 1)]
        assert (await talk.hear(wire.ConvergeResult)).state == "done"
        assert order == ["push 1"]
        await talk.say(emptied(4, record))
        commit = await talk.hear(wire.Commit)
        await talk.say(wire.Ack("photos", commit.seq))
        assert (await talk.hear(wire.PushResult, lambda one: one.push == 4)).applied == 1


async def test_a_push_to_a_volume_that_is_not_here_is_answered(world: World) -> None:
    async with world.agent():
        talk, _ = await settled(world)
        await talk.say(wire.Push("elsewhere", 1, (), ()))
        assert "no volume" in (await talk.hear(wire.PushResult)).detail


async def test_contents_that_came_before_a_push_are_its_own_and_nobody_is_asked(world: World) -> None:
    async with world.agent() as agent:
        talk, _ = await settled(world)
        before = known(agent, b"a").value
        file = encode_entry(Entry(Kind.FILE, 3, XXH3_128.of(b"new"), 0o644))
        edits = (wire.PushEdit(b"a", before, file), wire.PushEdit(b"b", None, file))
        await talk.say(wire.Carried("photos", (b"new", b"of no use")), wire.Push("photos", 1, edits, ()))
        commit = await talk.hear(wire.Commit)
        await talk.say(wire.Ack("photos", commit.seq))
        assert (await talk.hear(wire.PushResult)).applied == 2
        assert [(world.tree / name).read_bytes() for name in "ab"] == [b"new", b"new"]
        other = encode_entry(Entry(Kind.FILE, 5, XXH3_128.of(b"other"), 0o644))
        await talk.say(wire.Push("photos", 2, (wire.PushEdit(b"c", None, other),), ()))
        assert (await talk.hear(wire.PushResult, lambda one: one.push == 2)).failed == 1


async def test_contents_for_a_volume_that_is_not_here_are_dropped(world: World) -> None:
    async with world.agent() as agent:
        talk, _ = await settled(world)
        await talk.say(wire.Carried("elsewhere", (b"body",)), wire.Push("elsewhere", 1, (), ()))
        await talk.hear(wire.PushResult)
        assert agent.orders._carried == {}
