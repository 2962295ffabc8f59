"""The running coordinator with its real store and core: what a crash or a failing disk leaves behind."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from closeranks_coordinator import deciding, main, runtime, slices
from closeranks_coordinator.config import load_coordinator_config
from closeranks_coordinator.core import pace
from closeranks_coordinator.core.fleet import Fleet
from closeranks_coordinator.core.model import (
    Disconnected,
    Effect,
    Event,
    FromAgent,
    Now,
    Observe,
    Persist,
    QuarantineAsked,
    ResyncAsked,
    Send,
    SpeedAsked,
    Step,
)
from closeranks_coordinator.core.records import SpeedRecord
from closeranks_coordinator.cycles import Collector
from closeranks_coordinator.runtime import Coordinator
from closeranks_coordinator.session import Receipt
from closeranks_coordinator.storage.sqlite import open_store
from closeranks_coordinator.storage.store import Batch, StoreFull
from closeranks_coordinator.web import metrics
from closeranks_proto import messages as wire
from closeranks_proto.digests import XXH3_128
from closeranks_proto.entries import Entry, Kind, encode_entry
from closeranks_proto.tree import Edited, Tree
from closeranks_proto.wire import decode_coordinator_message, encode_message
from forest.samples import sample

HELLO = wire.Hello(wire.PROTOCOL, wire.PROTOCOL, "test", "n1", "agent-a", ("xxh3-128",), ":7342", 0, None,
    (wire.VolumeHello("photos", None, 0, 1, None),),
)  # fmt: skip


def write_config(base: Path, nodes: str = '"n1", "n2", "n3"', policy: str = "quorum") -> Path:
    file = base / "coordinator.toml"
    file.write_text(
        f'[coordinator]\nlisten_agents = "127.0.0.1:0"\nlisten_api = "127.0.0.1:0"\nstate_dir = "{base}/state"\n'
        f"[fleet]\nnodes = [{nodes}]\n"
        f'[[volume]]\nname = "photos"\npolicy = "{policy}"\non_divergence = "alert"\n'
        + ('writers = ["n1"]\n' if policy == "writers" else "")
    )
    return file


class Running:
    def __init__(
        self, coordinator: Coordinator, client: TestClient[Any, Any], work: asyncio.Task[None]
    ) -> None:
        self.coordinator, self.client, self.work = coordinator, client, work

    async def join(self, hello: wire.Hello = HELLO) -> tuple[aiohttp.ClientWebSocketResponse, wire.Welcome]:
        socket = await self.client.ws_connect("/v1/agent")
        await socket.send_bytes(encode_message(hello))
        welcome = decode_coordinator_message(await socket.receive_bytes(timeout=10))
        assert isinstance(welcome, wire.Welcome)
        return socket, welcome


@asynccontextmanager
async def running(base: Path) -> AsyncIterator[Running]:
    config = load_coordinator_config(base / "coordinator.toml", environ={})
    store = open_store(Path(config.state_dir), config.fleet.digest)
    coordinator = Coordinator(config, store)
    app = web.Application()
    app.add_routes(coordinator.sessions.routes())
    work = asyncio.create_task(coordinator.run())
    try:
        async with TestClient(TestServer(app)) as client:
            yield Running(coordinator, client, work)
            assert not work.done(), work
            await coordinator.sessions.drain()
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await store.close()


def tree(count: int = 10) -> tuple[Edited, dict[bytes, bytes]]:
    pages: dict[bytes, bytes] = {}
    made = Tree(XXH3_128, pages.__getitem__)
    built = made.build(
        [
            (b"f%05d" % n, encode_entry(Entry(Kind.FILE, 1, XXH3_128.of(b"%d" % n), 0o644)))
            for n in range(count)
        ]
    )
    pages.update(built.pages)
    return built, pages


async def announce(socket: aiohttp.ClientWebSocketResponse, seq: int, count: int = 10) -> bytes:
    built, pages = tree(count)
    await socket.send_bytes(encode_message(wire.Announce("photos", seq, built.root, "scan", 0)))
    while True:
        message = decode_coordinator_message(await socket.receive_bytes(timeout=10))
        if isinstance(message, wire.Ack):
            assert message.seq == seq
            return built.root
        if isinstance(message, wire.Want):
            objects = tuple(pages[digest] for digest in message.digests)
            await socket.send_bytes(
                encode_message(wire.Objects("photos", message.request, objects, (), True))
            )


async def test_what_was_acknowledged_is_known_again_after_a_crash(tmp_path: Path) -> None:
    """The store is written by the session, before the core hears of it: a crash may fall in between."""
    write_config(tmp_path)
    built, pages = tree()
    async with running(tmp_path) as first:
        await first.coordinator.store.write(
            Batch(objects=pages, node_roots=[("n1", "photos", "agent-a", 4, built.root)])
        )
    async with running(tmp_path) as second:
        socket, welcome = await second.join()
        assert welcome.acked == (("photos", 4, None),), "the agent is asked to say it again"
        assert await announce(socket, 5) == built.root
        async with asyncio.timeout(10):
            while second.coordinator.known_root("n1", "photos") != built.root:
                await asyncio.sleep(0.01)
        await socket.close()
        again, welcome = await second.join()
        assert welcome.acked == (("photos", 5, built.root),)
        await again.close()


async def test_in_a_large_fleet_a_root_is_stored_and_acknowledged_with_its_judgement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "PAUSE_S_A_NODE", 60.0)  # nothing follows by itself while this test lasts
    write_config(tmp_path, ", ".join(f'"n{number}"' for number in range(1, pace.PROMPT_NODES + 2)))
    built, _ = tree()
    async with running(tmp_path) as one:
        socket, _ = await one.join()
        told = asyncio.create_task(announce(socket, 1))
        async with asyncio.timeout(10):
            while one.coordinator.known_root("n1", "photos") != built.root:
                await asyncio.sleep(0.01)
        await one.coordinator.caught_up()
        assert one.coordinator.store.node_root("n1", "photos") is None
        assert not told.done()
        await one.coordinator.ask(QuarantineAsked("n2", "test"))  # what an operator asks is followed at once
        assert await asyncio.wait_for(told, 10) == built.root
        stored = one.coordinator.store.node_root("n1", "photos")
        assert stored is not None
        assert stored.root == built.root
        await socket.close()


async def test_collecting_survives_a_full_disk_and_forgets_what_is_retired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "COLLECT_FIRST_S", 0.05)
    monkeypatch.setattr(runtime, "COLLECT_EVERY_S", 0.05)
    write_config(tmp_path)
    built, pages = tree()
    async with running(tmp_path) as one:
        store = one.coordinator.store
        await store.write(
            Batch(
                objects=pages,
                node_roots=[("gone", "photos", "a", 4, built.root), ("n1", "photos", "b", 1, built.root)],
            )
        )
        calls: list[int | None] = []
        collect = store.collect

        async def failing(live: set[bytes], before_ms: int | None = None) -> object:
            calls.append(before_ms)
            if len(calls) == 1:
                raise StoreFull(28, "no room")
            return await collect(live, before_ms)

        monkeypatch.setattr(store, "collect", failing)
        async with asyncio.timeout(10):
            while len(calls) < 2:
                await asyncio.sleep(0.01)
        assert None not in calls, "the past is not kept for ever"
        assert set(store.node_roots()) == {("n1", "photos")}


async def test_a_retired_nodes_session_ends_and_a_new_node_is_let_in(tmp_path: Path) -> None:
    write_config(tmp_path)
    async with running(tmp_path) as one:
        socket, _ = await one.join()
        write_config(tmp_path, '"n2", "n3", "n4"')
        await one.coordinator.reload()
        async with asyncio.timeout(10):
            while not socket.closed:
                await socket.receive()
        assert one.coordinator.sessions.connected() == []
        other, _ = await one.join(msgspec.structs.replace(HELLO, node="n4"))
        await other.close()


async def test_what_was_counted_of_a_retired_node_is_not_shown_any_more(tmp_path: Path) -> None:
    write_config(tmp_path)
    async with running(tmp_path) as one:
        metrics = one.coordinator.metrics
        for node in ("n1", "n2"):
            metrics.observe(Observe("closeranks_commits_total", 1, (("node", node), ("volume", "photos"))))
        socket, _ = await one.join()
        await announce(socket, 1)
        write_config(tmp_path, '"n2", "n3", "n4"')
        await one.coordinator.reload()
        async with asyncio.timeout(10):
            while not socket.closed:
                await socket.receive()
        shown = (await metrics.exposition(""))[0].decode()
        assert 'node="n1"' not in shown
        assert 'closeranks_commits_total{node="n2",volume="photos"} 1.0' in shown


async def test_what_audits_ask_for_can_not_be_foreseen(tmp_path: Path) -> None:
    write_config(tmp_path)
    async with running(tmp_path) as one:
        assert isinstance(one.coordinator.fleet._rng, random.SystemRandom)


async def test_a_receipt_waits_for_the_judgement_of_its_own_root_and_no_longer(tmp_path: Path) -> None:
    write_config(tmp_path)
    async with running(tmp_path) as one:
        core, waiting = one.coordinator._deciding, frozenset({"n1"})
        first, second = (
            Receipt(("n1", "photos", "id", seq, bytes([seq]) * 16), lambda: None) for seq in (1, 2)
        )
        core._unjudged = waiting
        assert core._judged(Step((), unjudged=waiting), first) == []
        assert core._judged(Step((), unjudged=waiting), None) == []
        assert core._judged(Step((), unjudged=waiting, judged_first=True), second) == [first]
        core._unjudged = frozenset()
        assert core._judged(Step(()), None) == [second]
        assert core._judged(Step(()), None) == []


async def test_nothing_that_an_agent_reports_stops_the_coordinator(tmp_path: Path) -> None:
    write_config(tmp_path)
    kinds: tuple[type[wire.Message], ...] = (
        wire.VolumeStatus, wire.FenceAnswer, wire.ConvergeProgress, wire.ConvergeResult, wire.VerifyResult,
        wire.TrashAnswer, wire.Beat, wire.Want, wire.Objects, wire.Commit, wire.Announce,
    )  # fmt: skip
    rng = random.Random(7)
    async with running(tmp_path) as one:
        for _ in range(10):
            socket, _ = await one.join()
            stored = one.coordinator.store.node_root("n1", "photos")
            await announce(socket, 1 if stored is None else stored.seq + 1)
            for kind in rng.sample(kinds, len(kinds)):
                await socket.send_bytes(encode_message(sample(kind, rng)))
            await socket.close()
        for _ in range(500):
            message: Any = sample(rng.choice(kinds[:5]), rng)
            changes: dict[str, Any] = {
                "volume": "photos",
                "action": f"a-{rng.randint(1, 3):06d}",
                "root": None,
            }
            known = {name: value for name, value in changes.items() if hasattr(message, name)}
            one.coordinator.feed(FromAgent("n1", msgspec.structs.replace(message, **known)))
        for asked in (
            QuarantineAsked("n1", "test"),
            ResyncAsked("n1", None, False),
            ResyncAsked("n1", "photos", True),
        ):
            await one.coordinator.ask(asked)
        await asyncio.sleep(0.5)
        now = runtime.clock()
        assert one.coordinator.fleet.fleet_view(now)
        assert one.coordinator.fleet.node_view(now, "n1")
        assert not one.work.done(), one.work


async def test_a_coordinator_goes_on_where_the_heap_can_not_be_tended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none() -> bool:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(main.heap, "GIVE_BACK_EVERY_S", 0.02)
    monkeypatch.setattr(main.heap, "give_back", none)
    monkeypatch.setattr(main, "_leave_in_time", lambda: None)  # it ends the process that runs the tests
    config = load_coordinator_config(write_config(tmp_path), environ={})
    store = open_store(Path(config.state_dir), config.fleet.digest)
    try:
        stop = asyncio.Event()
        running = asyncio.create_task(main._until_stopped(Coordinator(config, store), Collector(), stop))
        async with asyncio.timeout(10):
            while caplog.text.count("can't start new thread") < 2:
                assert not running.done(), "it ended as if it had been told to"
                await asyncio.sleep(0.01)
            stop.set()
            assert await running == 0
    finally:
        await store.close()


async def test_whoever_looks_sees_what_is_durable_also_while_events_never_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers have their moment after each write: not half of a step, nor what a crash would take back."""
    write_config(tmp_path)
    monkeypatch.setattr(deciding, "SETTLED_MAX_S", 30.0)
    async with running(tmp_path) as one:
        fleet, ended, looks = one.coordinator.fleet, False, 0
        stored: list[int | None] = []  # the fleet's limit, as of each write

        async def storm() -> None:
            while not ended:
                one.coordinator.feed(FromAgent("n2", wire.Activity(1000, (), (), ())))
                await asyncio.sleep(0)

        async def limit() -> None:
            number = 0
            while not ended:
                number += 1
                await one.coordinator.ask(SpeedAsked(None, 1_000_000 + number))

        async def look() -> None:
            nonlocal looks
            while len(stored) < 10:
                await one.coordinator.settled()
                assert fleet._under_way is None, "no step is under way"
                assert fleet._world.speed.fleet == stored[-1]
                looks += 1
                await asyncio.sleep(0)

        write = one.coordinator.store.write

        async def noted(batch: Batch) -> None:
            await write(batch)
            for kind, _, blob in batch.records:
                if kind == "speed" and blob is not None:
                    stored.append(msgspec.msgpack.decode(blob, type=SpeedRecord).fleet)

        monkeypatch.setattr(one.coordinator.store, "write", noted)
        await one.coordinator.ask(SpeedAsked(None, 1_000_000))
        busy = [asyncio.create_task(storm()), asyncio.create_task(limit())]
        await asyncio.wait_for(asyncio.gather(*(look() for _ in range(20))), 60)
        assert looks > 20
        ended = True
        await asyncio.gather(*busy)


async def test_nothing_is_sent_or_answered_before_it_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that takes its time: until it has answered nobody hears of what was decided."""
    write_config(tmp_path)
    async with running(tmp_path) as one:
        begun, may_end, story = asyncio.Event(), asyncio.Event(), list[str]()
        write, carry_out = one.coordinator.store.write, one.coordinator._deciding._carry_out

        async def slow(batch: Batch) -> None:
            if any(kind == "speed" for kind, _, _ in batch.records):
                begun.set()
                await may_end.wait()
                story.append("stored")
            await write(batch)

        def noted(effect: Effect) -> None:
            if isinstance(effect, Persist) and any(kind == "speed" for kind, _, _ in effect.records):
                story.append("carried out")
            carry_out(effect)

        monkeypatch.setattr(one.coordinator._deciding, "_carry_out", noted)
        monkeypatch.setattr(one.coordinator.store, "write", slow)
        asking = asyncio.create_task(one.coordinator.ask(SpeedAsked(None, 1_000_000)))
        asking.add_done_callback(lambda _: story.append("answered"))
        await asyncio.wait_for(begun.wait(), 10)
        assert story == []
        may_end.set()
        await asyncio.wait_for(asking, 10)
        await asyncio.sleep(0)
        assert story == ["stored", "carried out", "answered"]


class SlowDisk:
    """Of a running coordinator: `writing` is a write that holds on until `go_on`. `story`: what came of it."""

    def __init__(self, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch) -> None:
        self.writing, self._may_end, self.story = asyncio.Event(), asyncio.Event(), list[str]()
        self._write, self._carry_out = coordinator.store.write, coordinator._deciding._carry_out
        monkeypatch.setattr(coordinator.store, "write", self._slow)
        monkeypatch.setattr(coordinator._deciding, "_carry_out", self._noted)

    async def _slow(self, batch: Batch) -> None:
        self.writing.set()
        await self._may_end.wait()
        await self._write(batch)
        self._may_end.clear()
        self.story += sorted(
            {f"{kind} stored" for kind, _, _ in batch.records} & {"hold stored", "speed stored"}
        )

    def _noted(self, effect: Effect) -> None:
        if isinstance(effect, Send) and isinstance(effect.message, wire.Hold):
            self.story.append("told of its hold")
        self._carry_out(effect)

    async def go_on(self) -> None:
        self.writing.clear()
        self._may_end.set()

    async def held_on(self) -> None:
        async with asyncio.timeout(10):
            await self.writing.wait()


RUNAWAY = wire.Activity(1000, (wire.VolumeActivity("photos", 5, 10**12, 5),), (), ())


async def test_a_runaway_is_held_while_the_disk_keeps_what_came_before_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may fill the disk that the coordinator writes to, too. In force at once, told when it is durable."""
    write_config(tmp_path, policy="writers")
    async with running(tmp_path) as one:
        coordinator = one.coordinator
        sockets = [
            (await one.join(msgspec.structs.replace(HELLO, node=node)))[0] for node in ("n1", "n2", "n3")
        ]
        for socket in sockets:
            await announce(socket, 1)
            await socket.send_bytes(encode_message(wire.Beat((wire.VolumeBeat("photos", 1, 0, None),))))
        async with asyncio.timeout(10):
            while any(node.record.phase != "in_rank" for node in coordinator.fleet._world.nodes.values()):
                await asyncio.sleep(0.01)
        await coordinator.settled()
        disk = SlowDisk(coordinator, monkeypatch)
        asking = asyncio.create_task(coordinator.ask(SpeedAsked(None, 1_000_000)))
        await disk.held_on()
        assert not coordinator.fleet._world.held
        assert coordinator.overtake(FromAgent("n1", RUNAWAY))
        assert ("n1", "photos") in coordinator.fleet._world.held, "in force"
        looking = asyncio.create_task(coordinator.settled())
        await asyncio.sleep(0.05)
        assert (disk.story, looking.done()) == ([], False), "nobody is told yet"
        await disk.go_on()
        await asyncio.wait_for(asking, 10)
        await disk.held_on()
        assert (disk.story, looking.done()) == (["speed stored"], False)
        await disk.go_on()
        await asyncio.wait_for(looking, 10)
        async with asyncio.timeout(10):
            while len(disk.story) < 3:
                await asyncio.sleep(0.01)
        assert disk.story == ["speed stored", "hold stored", "told of its hold"]
        monkeypatch.undo()
        for socket in sockets:
            await socket.close()


async def test_whoever_looks_waits_for_the_end_of_a_long_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would else do the rest of it without a pause, and everybody would wait for that."""
    write_config(tmp_path)
    monkeypatch.setattr(deciding, "SETTLED_MAX_S", 0.01)
    async with running(tmp_path) as one:
        coordinator = one.coordinator
        await coordinator.caught_up()
        stepping, ended, begun = Fleet._stepping, False, 0

        def long(fleet: Fleet, now: Now, event: Event) -> Generator[None, None, Callable[[Now], Step]]:
            nonlocal begun
            begun += 1
            while not ended:
                yield
            return (yield from stepping(fleet, now, event))

        monkeypatch.setattr(Fleet, "_stepping", long)
        asking = [asyncio.create_task(coordinator.ask(SpeedAsked(None, 1_000_000 + n))) for n in range(2)]
        async with asyncio.timeout(10):
            while coordinator.fleet._under_way is None:
                await asyncio.sleep(0)

        async def look() -> tuple[int, object]:
            await coordinator.settled()
            return begun, coordinator.fleet._under_way

        looking = asyncio.create_task(look())
        await asyncio.sleep(0.05)
        assert not looking.done(), "it was waited for longer than a disk is"
        assert await asyncio.wait_for(coordinator.settled(0.01), 10) is False, "who can do without is told so"
        ended = True
        assert await asyncio.wait_for(looking, 10) == (1, None), "before the next step of the same write"
        await asyncio.wait_for(asyncio.gather(*asking), 10)
        assert await coordinator.settled(0.01)


async def test_a_scrape_in_the_middle_of_a_long_step_shows_the_moment_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that merges 200,000 changes takes seconds: a scraper would find nobody there."""
    write_config(tmp_path)
    monkeypatch.setattr(deciding, "SETTLED_MAX_S", 0.01)
    monkeypatch.setattr(metrics, "STEP_MAX_S", 0.01)
    async with running(tmp_path) as one:
        coordinator = one.coordinator
        await coordinator.caught_up()

        async def age() -> float:
            body, _ = await asyncio.wait_for(coordinator.metrics.exposition(""), 10)
            found = re.search(r"^closeranks_state_age_seconds (\S+)$", body.decode(), re.MULTILINE)
            assert found is not None
            return float(found[1])

        assert await age() == 0.0
        stepping, ended = Fleet._stepping, False

        def long(fleet: Fleet, now: Now, event: Event) -> Generator[None, None, Callable[[Now], Step]]:
            while not ended:
                yield
            return (yield from stepping(fleet, now, event))

        monkeypatch.setattr(Fleet, "_stepping", long)
        asking = asyncio.create_task(coordinator.ask(SpeedAsked(None, 1_000_000)))
        async with asyncio.timeout(10):
            while coordinator.fleet._under_way is None:
                await asyncio.sleep(0)
        assert await age() > 0.0
        assert coordinator.fleet._under_way is not None, "nobody did the rest of it"
        monkeypatch.setattr(metrics, "SHOWN_MAX_S", 0.0)
        waiting = asyncio.create_task(age())
        await asyncio.sleep(0.05)
        assert not waiting.done(), "what is too old is not shown"
        ended = True
        assert await asyncio.wait_for(waiting, 10) == 0.0
        await asyncio.wait_for(asking, 10)


async def test_readers_have_their_moment_behind_so_many_writes_that_were_overtaken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deciding, "SKIPPED_MAX", 2)
    write_config(tmp_path)
    async with running(tmp_path) as one:
        coordinator = one.coordinator
        await coordinator.caught_up()
        disk = SlowDisk(coordinator, monkeypatch)
        asking = asyncio.create_task(coordinator.ask(SpeedAsked(None, 1_000_000)))
        await disk.held_on()

        async def look() -> int | None:
            await coordinator.settled()
            return coordinator.fleet._world.speed.fleet

        looking = asyncio.create_task(look())
        for number in range(2):
            assert coordinator.overtake(SpeedAsked(None, 2_000_000 + number))
            await disk.go_on()
            await disk.held_on()
            assert not looking.done()
        queued = coordinator._deciding.queued
        assert coordinator.overtake(SpeedAsked(None, 3_000_000))
        assert coordinator._deciding.queued == queued + 1, "it waits"
        await disk.go_on()
        assert await asyncio.wait_for(looking, 10) == 2_000_001
        await disk.held_on()
        await disk.go_on()
        await asyncio.wait_for(asking, 10)
        monkeypatch.undo()


async def test_what_overtakes_is_bounded_and_passes_no_session_that_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deciding, "OVERTAKING_MAX", 3)
    write_config(tmp_path)
    async with running(tmp_path) as one:
        coordinator = one.coordinator
        await coordinator.caught_up()
        disk, idle = SlowDisk(coordinator, monkeypatch), FromAgent("n1", wire.Activity(1000, (), (), ()))
        asking = asyncio.create_task(coordinator.ask(SpeedAsked(None, 1_000_000)))
        await disk.held_on()
        queued = coordinator._deciding.queued
        for _ in range(5):
            assert coordinator.overtake(idle)
        assert coordinator._deciding.queued == queued + 2
        monkeypatch.setattr(deciding, "QUEUE_HIGH", queued + 1)
        assert not coordinator.overtake(idle), "so much waits that it has to wait where it comes from"
        monkeypatch.setattr(deciding, "QUEUE_HIGH", 2000)
        await disk.go_on()
        await asyncio.wait_for(asking, 10)
        asking = asyncio.create_task(coordinator.ask(SpeedAsked(None, 2_000_000)))
        await disk.held_on()
        coordinator.feed(Disconnected("n1", "session"))
        queued = coordinator._deciding.queued
        assert coordinator.overtake(idle)
        assert coordinator._deciding.queued == queued + 1, "behind it"
        await disk.go_on()
        await asyncio.wait_for(asking, 10)
        monkeypatch.undo()


async def test_a_fault_of_the_core_in_what_overtakes_ends_the_coordinator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_coordinator_config(write_config(tmp_path), environ={})
    store = open_store(Path(config.state_dir), config.fleet.digest)
    try:
        coordinator = Coordinator(config, store)
        disk = SlowDisk(coordinator, monkeypatch)
        running = asyncio.create_task(coordinator._deciding.run())
        coordinator.feed(SpeedAsked(None, 1_000_000))
        await disk.held_on()

        def broken(*_: object) -> Step:
            raise AssertionError("a fault")

        monkeypatch.setattr(coordinator.fleet, "step", broken)
        with pytest.raises(AssertionError, match="a fault"):
            coordinator.overtake(FromAgent("n1", RUNAWAY))
        await disk.go_on()
        with pytest.raises(AssertionError, match="a fault"):
            await asyncio.wait_for(running, 10)
    finally:
        monkeypatch.undo()
        await store.close()


async def test_a_core_that_is_broken_decides_nothing_more_though_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It went on for as long as there was no room, and what it then decided was in force."""
    config = load_coordinator_config(write_config(tmp_path), environ={})
    store = open_store(Path(config.state_dir), config.fleet.digest)
    try:
        coordinator = Coordinator(config, store)
        tries = asyncio.Event()

        async def full(_batch: Batch) -> None:
            tries.set()
            await asyncio.sleep(0.01)
            raise StoreFull(28, "no room")

        monkeypatch.setattr(store, "write", full)
        monkeypatch.setattr(deciding, "STORE_RETRY_S", 0.01)
        running = asyncio.create_task(coordinator._deciding.run())
        coordinator.feed(SpeedAsked(None, 1_000_000))
        await asyncio.wait_for(tries.wait(), 10)

        def broken(*_: object) -> Step:
            raise AssertionError("a fault")

        monkeypatch.setattr(coordinator.fleet, "step", broken)
        with pytest.raises(AssertionError, match="a fault"):
            coordinator.overtake(FromAgent("n1", RUNAWAY))
        monkeypatch.setattr(coordinator.fleet, "step", lambda *_: pytest.fail("it goes on"))
        with pytest.raises(AssertionError, match="a fault"):
            coordinator.overtake(FromAgent("n1", RUNAWAY))
        with pytest.raises(AssertionError, match="a fault"):
            await asyncio.wait_for(running, 10)
    finally:
        monkeypatch.undo()
        await store.close()


async def test_sessions_are_not_read_on_while_too_much_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deciding, "QUEUE_HIGH", 20)
    monkeypatch.setattr(deciding, "QUEUE_LOW", 10)
    config = load_coordinator_config(write_config(tmp_path), environ={})
    store = open_store(Path(config.state_dir), config.fleet.digest)
    try:
        coordinator = Coordinator(config, store)
        for _ in range(20):
            coordinator.feed(FromAgent("n2", wire.Activity(1000, (), (), ())))
        await asyncio.wait_for(coordinator.room(), 10)
        coordinator.feed(FromAgent("n2", wire.Activity(1000, (), (), ())))
        readers = [asyncio.create_task(coordinator.room()) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(reader.done() for reader in readers)
        work = asyncio.create_task(coordinator.run())
        await asyncio.wait_for(asyncio.gather(*readers), 10)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
    finally:
        await store.close()


async def test_a_thousand_trees_that_are_announced_at_once_share_each_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tmp_path)
    rounds = [0]

    def foresee(_volume: str, _root: bytes) -> Iterator[None]:
        for _ in range(2):
            time.sleep(slices.ROUND_S / 4)
            rounds[-1] += 1
            yield

    async with running(tmp_path) as one:
        monkeypatch.setattr(one.coordinator.fleet, "foresee", foresee)
        asked = [
            asyncio.create_task(one.coordinator.foreseen("photos", bytes([number]) * 16))
            for number in range(40)
        ]
        while not all(task.done() for task in asked):
            await asyncio.sleep(0)
            rounds.append(0)
    assert sum(rounds) == 80
    assert max(rounds) <= slices.WOKEN
