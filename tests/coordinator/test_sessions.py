"""Sessions over real sockets: who is let in, and what reaches the core in which order."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web

from closeranks_coordinator.core.model import (
    Connected,
    Disconnected,
    DuplicateRefused,
    FromAgent,
    RootStored,
    Scanned,
    Watched,
)
from closeranks_coordinator.storage.store import Batch
from closeranks_proto import messages as wire
from closeranks_proto.digests import XXH3_128
from closeranks_proto.entries import Entry, Kind, encode_entry
from session_world import CONFIG, HELLO, VOLUME, World, announce, tree, world_of


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_of(tmp_path) as made:
        yield made


async def test_a_known_node_is_welcomed_with_its_volumes(world: World) -> None:
    _, welcome = await world.join()
    assert [one.name for one in welcome.volumes] == ["photos"]
    assert welcome.acked == (("photos", 0, None),)
    [event] = await world.core.saw(Connected)
    assert isinstance(event, Connected)
    assert event.address == "127.0.0.1:7342"


async def test_an_agent_that_leaves_before_it_is_taken_is_no_fault(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    prepares, ended = web.WebSocketResponse.prepare, asyncio.Event()

    async def left(socket: web.WebSocketResponse, request: web.BaseRequest) -> object:
        while request.transport is not None:
            request.transport.abort()
            await asyncio.sleep(0)
        ended.set()
        return await prepares(socket, request)

    monkeypatch.setattr(web.WebSocketResponse, "prepare", left)
    app = web.Application()
    app.add_routes(world.sessions.routes())
    runner = web.AppRunner(app)  # as the program does: nothing is cancelled by who hangs up
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as http, asyncio.timeout(20):
        with pytest.raises(aiohttp.ClientError):
            await http.ws_connect(f"http://127.0.0.1:{runner.addresses[0][1]}/v1/agent")
        await ended.wait()
    await runner.cleanup()
    assert [one.getMessage() for one in caplog.records if one.levelname == "ERROR"] == []


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        (
            wire.Hello(wire.PROTOCOL, wire.PROTOCOL, "t", "n9", "a", ("xxh3-128",), ":1", 0, None, ()),
            "unknown_node",
        ),
        (wire.Hello(7, 9, "t", "n1", "a", ("xxh3-128",), ":1", 0, None, ()), "protocol"),
        (wire.Hello(wire.PROTOCOL, wire.PROTOCOL, "t", "n1", "a", ("blake3",), ":1", 0, None, ()), "digest"),
    ],
)
async def test_who_can_not_be_served_is_told_why(world: World, hello: wire.Hello, code: str) -> None:
    agent = await world.dial()
    await agent.say(hello)
    refused = await agent.hear()
    assert isinstance(refused, wire.Refused)
    assert refused.code == code
    assert world.core.events == []


async def test_a_second_agent_with_the_same_name_is_refused_and_told_of(world: World) -> None:
    await world.join()
    agent = await world.dial()
    await agent.say(
        wire.Hello(wire.PROTOCOL, wire.PROTOCOL, "t", "n1", "agent-b", ("xxh3-128",), ":1", 0, None, ())
    )
    refused = await agent.hear()
    assert isinstance(refused, wire.Refused)
    assert refused.code == "duplicate_node"
    await world.core.saw(DuplicateRefused)


async def test_a_machine_rebuilt_right_after_its_end_waits_and_is_no_second_one(world: World) -> None:
    first, _ = await world.join()
    await first.socket.close()
    await world.core.saw(Disconnected)
    agent = await world.dial()
    await agent.say(
        wire.Hello(wire.PROTOCOL, wire.PROTOCOL, "t", "n1", "agent-b", ("xxh3-128",), ":1", 0, None, ())
    )
    refused = await agent.hear()
    assert isinstance(refused, wire.Refused)
    assert refused.code == "draining"
    assert "let in after 10 s at most" in refused.message
    assert not [one for one in world.core.events if isinstance(one, DuplicateRefused)]


async def test_the_same_agent_dialling_again_replaces_its_session(world: World) -> None:
    first, _ = await world.join()
    await world.join()
    assert await first.ended()
    assert world.sessions.connected() == ["n1"]


@pytest.mark.parametrize("frame", [b"", b"\xc1", b"\x91\x63", b"x" * 100])
async def test_garbage_ends_the_session_and_nothing_is_believed(world: World, frame: bytes) -> None:
    agent, _ = await world.join()
    await agent.socket.send_bytes(frame)
    assert await agent.ended()
    await world.core.saw(Disconnected)


async def test_an_acknowledged_root_is_in_the_store(world: World) -> None:
    agent, _ = await world.join()
    _, built, pages = tree(500)
    await announce(agent, built, pages)
    stored = world.core.store.node_root("n1", "photos")
    assert stored is not None
    assert (stored.seq, stored.root) == (1, built.root)
    assert world.core.store.has(built.root)
    [event] = await world.core.saw(RootStored)
    assert isinstance(event, RootStored)
    assert event.root == built.root
    assert world.core.foresaw == [("photos", built.root)], (
        "what a large difference is, is found out ahead of the step"
    )


async def test_a_scan_is_reported_only_after_the_commits_it_found(world: World) -> None:
    agent, _ = await world.join()
    _, built, pages = tree(500)
    await agent.say(wire.Beat((wire.VolumeBeat("photos", 1, 5),)))
    await announce(agent, built, pages)
    await world.core.saw(Scanned)
    kinds = [type(event) for event in world.core.events if isinstance(event, (RootStored, Scanned))]
    assert kinds == [RootStored, Scanned]


async def test_after_a_reconnect_the_agent_hears_what_is_stored(world: World) -> None:
    agent, _ = await world.join()
    _, built, pages = tree(500)
    await announce(agent, built, pages)
    await agent.socket.close()
    await world.core.saw(Disconnected)
    _, welcome = await world.join()
    assert welcome.acked == (("photos", 1, built.root),)


async def test_the_core_is_told_whether_an_agent_has_steps_that_nobody_has_heard_of(world: World) -> None:
    agent, _ = await world.join()
    made, built, pages = tree(500)
    await announce(agent, built, pages)
    await agent.socket.close()
    await world.core.saw(Disconnected)
    edited = made.edit(built.root, [(b"f00000", None)])
    had = (wire.VolumeHello("photos", edited.root, 2, 2, built.root),)
    agent, _ = await world.join(msgspec.structs.replace(HELLO, volumes=had))
    commit = wire.Commit("photos", 2, built.root, edited.root, (wire.Edit(b"f00000", None),), "scan", 0)
    await agent.say(commit)
    await world.core.saw(RootStored, 3)
    connected = [event.unheard for event in world.core.events if isinstance(event, Connected)]
    told = [(event.cause, event.heard) for event in world.core.events if isinstance(event, RootStored)]
    assert connected == [(), ("photos",)]
    assert told == [("scan", True), ("known", False), ("scan", True)]


@pytest.mark.parametrize("had", ["older", "not open"])
async def test_nothing_of_an_agent_that_went_back_is_heard_before_it_has_told(world: World, had: str) -> None:
    """Its state was put back, or its volume is mounted later: what it names is not what is stored."""
    agent, _ = await world.join()
    made, built, pages = tree(500)
    await announce(agent, built, pages)
    edited = made.edit(built.root, [(b"f00000", None)])
    await agent.say(
        wire.Commit("photos", 2, built.root, edited.root, (wire.Edit(b"f00000", None),), "scan", 0)
    )
    await world.core.saw(RootStored, 2)
    await agent.socket.close()
    await world.core.saw(Disconnected)
    older = wire.VolumeHello("photos", built.root, 1, 2, built.root)
    hello = older if had == "older" else wire.VolumeHello("photos", None, 0, 1, None)
    agent, welcome = await world.join(msgspec.structs.replace(HELLO, volumes=(hello,)))
    assert welcome.acked == (("photos", 2, edited.root),)
    if had == "older":
        await agent.say(wire.Announce("photos", 3, built.root, wire.PUT_BACK, 0))
    else:
        await agent.say(wire.Beat((wire.VolumeBeat("photos", 2, 0),)))
    await world.core.saw(RootStored, 4)
    connected = [event.unheard for event in world.core.events if isinstance(event, Connected)]
    told = [(event.cause, event.heard) for event in world.core.events if isinstance(event, RootStored)]
    assert connected == [(), ("photos",)]
    assert told[2:] == [("known", False), (wire.PUT_BACK if had == "older" else "known", True)]


async def test_objects_are_given_in_bounded_bundles_and_what_is_missing_is_said(world: World) -> None:
    agent, _ = await world.join()
    made, built, pages = tree(20_000)
    await announce(agent, built, pages)
    wanted = tuple(digest for digest, _ in made.pages(built.root, lambda _: False))[:200]
    await agent.say(wire.Want("photos", 7, (*wanted, bytes(16))))
    found: list[bytes] = []
    bundles = 0
    while True:
        message = await agent.hear()
        assert isinstance(message, wire.Objects)
        found += message.objects
        bundles += 1
        if message.last:
            break
    assert message.missing == (bytes(16),)
    assert [XXH3_128.of(blob) for blob in found] == list(wanted)
    assert bundles > 1


async def test_what_an_agent_reports_reaches_the_core_unchanged(world: World) -> None:
    agent, _ = await world.join()
    answer = wire.FenceAnswer(3, True, "hook ran", True)
    await agent.say(answer)
    [event] = await world.core.saw(FromAgent)
    assert event == FromAgent("n1", answer)


async def test_a_volume_that_is_not_the_nodes_breaks_the_protocol(world: World) -> None:
    agent, _ = await world.join()
    await agent.say(wire.Announce("secrets", 1, bytes(16), "scan", 0))
    assert await agent.ended()


async def test_draining_says_goodbye(world: World) -> None:
    agent, _ = await world.join()
    await world.sessions.drain()
    assert isinstance(await agent.hear(), wire.Goodbye)
    assert await agent.ended()


async def test_connections_of_one_agent_at_once_leave_one_session(world: World) -> None:
    await world.join()
    agents = [await world.dial() for _ in range(3)]
    for agent in agents:
        await agent.say(HELLO)
    await world.core.saw(Connected, 4)
    await world.core.saw(Disconnected, 3)
    open_sessions: set[str] = set()
    for event in world.core.events:
        if isinstance(event, Connected):
            assert not open_sessions, "the older one ends first"
            open_sessions.add(event.session)
        elif isinstance(event, Disconnected):
            open_sessions.discard(event.session)
    assert len(open_sessions) == 1


async def test_a_root_that_the_core_does_not_know_is_announced_again(world: World) -> None:
    agent, _ = await world.join()
    _, built, pages = tree()
    await announce(agent, built, pages)
    await agent.socket.close()
    await world.core.saw(Disconnected)
    world.core.forgot = True
    again, welcome = await world.join()
    assert welcome.acked == (("photos", 1, None),)
    await announce(again, built, pages, 2)
    assert len(await world.core.saw(RootStored, 2)) == 2


async def test_a_scan_of_an_agent_that_counts_from_the_beginning_vouches_for_nothing(world: World) -> None:
    agent, _ = await world.join()
    _, built, pages = tree()
    await announce(agent, built, pages, 5)
    await agent.say(wire.Beat((wire.VolumeBeat("photos", 1, 5),)))
    await agent.say(wire.FenceAnswer(1, True, "", True))
    await world.core.saw(FromAgent)
    assert not [event for event in world.core.events if isinstance(event, Scanned)]


async def test_the_first_scan_of_an_agent_that_is_always_behind_gets_through(world: World) -> None:
    agent, _ = await world.join()
    _, built, pages = tree()
    for seq in (1, 50, 100):
        await agent.say(wire.Beat((wire.VolumeBeat("photos", seq, 5),)))
    await announce(agent, built, pages, 1)
    await world.core.saw(Scanned)


@pytest.mark.parametrize("address", ["nonsense", "host:99999", "http://host:1", "host:", "a b:1", ":x"])
async def test_an_address_that_peers_can_not_dial_is_refused(world: World, address: str) -> None:
    agent = await world.dial()
    await agent.say(msgspec.structs.replace(HELLO, address=address))
    refused = await agent.hear()
    assert isinstance(refused, wire.Refused)
    assert refused.code == "bad_hello"


async def test_questions_that_were_given_up_are_forgotten(world: World) -> None:
    await world.join()
    answer: asyncio.Future[wire.TrashAnswer] = asyncio.get_running_loop().create_future()
    assert world.sessions.answer_trash("n1", answer) == 1
    claim = world.sessions._claims["n1"]
    assert claim.session is not None
    answer.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not claim.session._trash


async def test_draining_does_not_wait_for_a_peer_that_reads_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("closeranks_coordinator.session.CLOSE_MAX_S", 0.3)
    made, built, pages = tree(60_000)
    agent, _ = await world.join()
    await announce(agent, built, pages)
    pages_of = [digest for digest, _ in made.pages(built.root, lambda _: False)]
    agent.socket._response.connection.transport.pause_reading()  # type: ignore[union-attr]
    for request in range(40):
        await agent.say(wire.Want("photos", request, tuple(pages_of[:256])))
    await asyncio.sleep(0.5)
    async with asyncio.timeout(4.0):
        await world.sessions.drain()
    agent.socket._response.close()


def second(hello: wire.Hello = HELLO) -> wire.Hello:
    return msgspec.structs.replace(hello, node="n2", agent_id="agent-b")


async def test_a_second_node_with_the_same_tree_is_asked_for_nothing_though_both_came_at_once(
    world: World,
) -> None:
    one, _ = await world.join()
    two, _ = await world.join(second())
    _, built, pages = tree(2000)
    await one.say(wire.Announce("photos", 1, built.root, "scan", 0))
    want = await one.hear()
    assert isinstance(want, wire.Want)
    await two.say(wire.Announce("photos", 1, built.root, "scan", 0))
    while isinstance(want, wire.Want):
        objects = tuple(pages[digest] for digest in want.digests)
        await one.say(wire.Objects("photos", want.request, objects, (), True))
        want = await one.hear()
    assert want == wire.Ack("photos", 1)
    assert await two.hear() == wire.Ack("photos", 1)
    await world.core.saw(RootStored, 2)


async def test_the_next_node_is_asked_when_the_one_before_it_hangs_up(world: World) -> None:
    one, _ = await world.join()
    two, _ = await world.join(second())
    _, built, pages = tree(2000)
    await one.say(wire.Announce("photos", 1, built.root, "scan", 0))
    assert isinstance(await one.hear(), wire.Want)
    waiting = asyncio.create_task(announce(two, built, pages))
    await one.socket.close()
    await waiting
    stored = world.core.store.node_root("n2", "photos")
    assert stored is not None
    assert stored.root == built.root


async def test_who_announces_anew_while_it_waits_is_asked_for_the_newer_tree(world: World) -> None:
    one, _ = await world.join()
    two, _ = await world.join(second())
    made, built, pages = tree(2000)
    newer = made.edit(built.root, [(b"f00007", None)])
    await one.say(wire.Announce("photos", 1, built.root, "scan", 0))
    want = await one.hear()
    assert isinstance(want, wire.Want)
    await two.say(wire.Announce("photos", 1, bytes(16), "scan", 0))
    waiting = asyncio.create_task(announce(two, newer, pages | newer.pages, seq=2))
    await one.say(wire.Objects("photos", want.request, tuple(pages[one] for one in want.digests), (), True))
    while isinstance(want := await one.hear(), wire.Want):
        await one.say(
            wire.Objects("photos", want.request, tuple(pages[one] for one in want.digests), (), True)
        )
    await waiting
    stored = world.core.store.node_root("n2", "photos")
    assert stored is not None
    assert (stored.seq, stored.root) == (2, newer.root)


async def test_contents_are_wanted_of_writers_only_and_reach_the_core_with_their_node(world: World) -> None:
    _, welcome = await world.join()
    assert welcome.carry == ()
    written = msgspec.structs.replace(HELLO, node="n2", agent_id="agent-b")
    changed = (replace(VOLUME, policy="writers", writers=("n2",)),)
    world.core.fleet_config = replace(CONFIG, volumes=changed)
    writer, welcome = await world.join(written)
    assert welcome.carry == ("photos",)
    await writer.say(wire.Carried("photos", (b"body", b"other")), wire.Beat(()), wire.Want("photos", 1, ()))
    await writer.hear()
    assert world.core.bodies == [("n2", b"body", b"other")]


async def test_contents_of_a_volume_that_is_not_the_nodes_break_the_protocol(world: World) -> None:
    agent, _ = await world.join()
    await agent.say(wire.Carried("elsewhere", (b"body",)))
    assert await agent.ended()
    assert world.core.bodies == []


async def test_a_commit_is_acknowledged_when_what_the_core_makes_of_it_is_durable(world: World) -> None:
    """Not before: a crash would leave a root of which nobody knows any more whose doing it was."""
    agent, _ = await world.join()
    made, built, pages = tree()
    await announce(agent, built, pages)
    world.core.prompt = False
    key, value = b"f00003", encode_entry(Entry(Kind.FILE, 1, XXH3_128.of(b"new"), 0o644))
    root = made.edit(built.root, [(key, value)]).root
    commit = wire.Commit("photos", 2, built.root, root, (wire.Edit(key, value, None),), "push", 0)
    await agent.say(commit, commit, wire.Want("photos", 1, (built.root,)))
    assert isinstance(await agent.hear(), wire.Objects), "the answer to what was said last comes first"
    stored = world.core.store.node_root("n1", "photos")
    assert stored is not None
    assert (stored.seq, stored.root) == (1, built.root)
    await world.core.write()
    assert await agent.hear() == wire.Ack("photos", 2)
    stored = world.core.store.node_root("n1", "photos")
    assert stored is not None
    assert (stored.seq, stored.root) == (2, root)
    await agent.say(commit)
    assert await agent.hear() == wire.Ack("photos", 2), "one that came again, too"


async def test_a_session_begins_when_what_the_one_before_told_is_durable(world: World) -> None:
    agent, _ = await world.join()
    _, built, pages = tree()
    world.core.prompt = False
    await agent.say(wire.Announce("photos", 1, built.root, "scan", 0))
    want = await agent.hear()
    assert isinstance(want, wire.Want)
    await agent.say(wire.Objects("photos", want.request, tuple(pages[one] for one in want.digests), (), True))
    await world.core.saw(RootStored)
    await agent.socket.close()
    await world.core.saw(Disconnected)
    world.core.prompt = True
    _, welcome = await world.join()
    assert welcome.acked == (("photos", 1, built.root),)


async def test_a_proof_that_comes_while_a_commit_is_stored_is_as_young_as_its_agent_said(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else no proof would be young enough for a verdict while the disk is busy with commits."""
    agent, _ = await world.join()
    made, built, pages = tree(50)
    await announce(agent, built, pages)
    storing, write = asyncio.Event(), world.core.store.write
    go_on = asyncio.Event()

    async def slowly(batch: Batch) -> None:
        storing.set()
        await go_on.wait()
        await write(batch)

    monkeypatch.setattr(world.core.store, "write", slowly)
    edited = made.edit(built.root, [(b"f00007", None)])
    edits = (wire.Edit(b"f00007", None),)
    await agent.say(wire.Commit("photos", 2, built.root, edited.root, edits, "watch", 0))
    await storing.wait()
    await asyncio.sleep(0.05)  # else it is taken for as old as what it came with
    sent = time.monotonic()
    await agent.say(wire.Beat((wire.VolumeBeat("photos", 2, None, 0),)))
    await asyncio.sleep(0.2)  # the time that the disk takes
    go_on.set()
    [event] = await world.core.saw(Watched)
    assert isinstance(event, Watched)
    assert sent <= event.seen_mono <= sent + 0.15


async def test_nothing_is_said_to_an_agent_before_its_welcome(world: World) -> None:
    """The core may still have something for the session before: an agent hangs up on whatever is no Welcome."""

    def send() -> bool:
        answer: asyncio.Future[wire.TrashAnswer] = asyncio.get_running_loop().create_future()
        assert world.sessions.answer_trash("n1", answer) is None
        world.sessions.send("n1", wire.Membership(1, (), ()))
        world.sessions.send_carried("n1", b"frame")
        return True

    world.core.on_caught_up = send
    agent, _ = await world.join()
    await agent.say(wire.Want("photos", 1, ()))
    assert isinstance(await agent.hear(), wire.Objects)


async def test_while_something_waits_to_become_durable_a_node_is_asked_where_it_stands(world: World) -> None:
    """Its stored root may be older than one that is still queued, and would be taken for a way back."""
    agent, _ = await world.join()
    _, built, pages = tree()
    await announce(agent, built, pages)
    await agent.socket.close()
    await world.core.saw(Disconnected)
    world.core.on_caught_up = lambda: False
    _, welcome = await world.join()
    assert welcome.acked == (("photos", 1, None),)
    await world.core.saw(Connected, 2)
    roots = [event for event in world.core.events if isinstance(event, RootStored)]
    assert [event.cause for event in roots] == ["scan"]


async def test_a_session_that_has_ended_leaves_nothing_that_only_the_collector_would_find(
    world: World,
) -> None:
    """Full collections hold everybody up, and are all but never made: see `cycles`."""
    _, built, pages = tree()
    gc.collect()
    gc.disable()
    try:
        ended = []
        for seq in range(1, 6):
            agent, _ = await world.join()
            (session,) = (claim.session for claim in world.sessions._claims.values())
            assert session is not None
            ended.append(weakref.ref(session))
            await announce(agent, built, pages, seq)
            await agent.say(wire.Beat((wire.VolumeBeat("photos", seq, 0, 0),)))
            await world.core.saw(Scanned, seq)
            if seq % 2:
                await agent.socket.send_bytes(b"garbage")  # it ends by an exception
            await agent.socket.close()
            await world.core.saw(Disconnected, seq)
            await session.closed.wait()
        del session, agent
        async with asyncio.timeout(10):  # the last one's task is about to end
            while any(one() is not None for one in ended):
                await asyncio.sleep(0.01)
    finally:
        gc.enable()
