"""One session: what it asks, answers and stores is bounded, and nothing is acknowledged that a crash could take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from closeranks_coordinator import outbox
from closeranks_coordinator import session as module
from closeranks_coordinator.core.model import Connected, Disconnected, FromAgent, RootStored, Scanned, Watched
from closeranks_coordinator.session import Session, _address
from closeranks_coordinator.storage.store import Batch, StoreFull
from closeranks_proto import limits
from closeranks_proto import messages as wire
from closeranks_proto.errors import CodecError
from session_world import CONFIG, HELLO, VOLUME, World, announce, tree, world_of


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_of(tmp_path) as made:
        yield made


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def session_of(world: World, node: str = "n1") -> Session:
    claim = world.sessions._claims[node]
    assert claim.session is not None
    return claim.session


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


# --- what it stores -------------------------------------------------------------------------------


async def test_while_the_store_is_full_nothing_is_acknowledged_and_then_all_is(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "STORE_RETRY_S", 0.01)
    agent, _ = await world.join()
    _, built, pages = tree(500)
    write, tries = world.core.store.write, []

    async def full(batch: Batch) -> None:
        tries.append(batch)
        if len(tries) <= 3:
            raise StoreFull("the disk is full")
        await write(batch)

    monkeypatch.setattr(world.core.store, "write", full)
    await announce(agent, built, pages)
    stored = world.core.store.node_root("n1", "photos")
    assert stored is not None
    assert (stored.root, world.core.store.has(built.root)) == (built.root, True)
    assert len([one for one in caplog.records if "can be stored" in one.getMessage()]) == 1


async def test_a_tree_is_durable_before_the_core_is_told_of_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told first, a crash would leave a root in the state of which the pages are nowhere."""
    agent, _ = await world.join()
    _, built, pages = tree(500)
    feed = world.core.feed
    had: list[bool] = []

    def told(event: object, *more: object) -> None:
        if isinstance(event, RootStored):
            had.append(world.core.store.has(event.root))
        feed(event, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(world.core, "feed", told)
    await announce(agent, built, pages)
    assert had == [True]


async def test_what_an_agent_says_of_this_moment_does_not_wait_until_its_commit_is_stored(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a runaway fills the coordinator's own disk that takes a second, in which gigabytes come."""
    agent, _ = await world.join()
    _, built, pages = tree(500)
    write, storing, stored = world.core.store.write, asyncio.Event(), asyncio.Event()

    async def slow(batch: Batch) -> None:
        storing.set()
        await stored.wait()
        await write(batch)

    monkeypatch.setattr(world.core.store, "write", slow)
    told = asyncio.create_task(announce(agent, built, pages))
    async with asyncio.timeout(10):
        await storing.wait()
    await agent.say(
        wire.Beat((wire.VolumeBeat("photos", 1, None, 0),)),
        wire.Activity(50, (), (), ()),
        wire.Activity(60, (), (), ()),
    )
    events = await world.core.saw(FromAgent, 2)
    assert [one.message for one in events if isinstance(one, FromAgent)] == [
        wire.Activity(50, (), (), ()),
        wire.Activity(60, (), (), ()),
    ]
    assert not [one for one in world.core.events if isinstance(one, RootStored)]
    stored.set()
    await told


async def test_another_agent_under_that_name_has_told_nothing_yet(world: World, tmp_path: Path) -> None:
    """A machine built anew: what its forerunner told is not what it has."""
    agent, _ = await world.join()
    _, built, pages = tree()
    await announce(agent, built, pages)
    await agent.socket.close()
    await world.core.saw(Disconnected)
    world.sessions._claims.clear()
    world.sessions._started -= 60.0
    _, welcome = await world.join(msgspec.structs.replace(HELLO, agent_id="agent-new"))
    assert welcome.acked == (("photos", 0, None),)


async def test_a_step_to_a_root_that_another_node_has_is_followed_like_any_other(world: World) -> None:
    """Held against the whole truth at each step, the second replica of a renamed directory was four times slower."""
    made, built, pages = tree(500)
    edits = tuple(wire.Edit(b"f%05d" % n, None) for n in range(10))
    after = made.edit(built.root, [(one.key, one.value) for one in edits])
    for node in ("n1", "n2"):
        agent, _ = await world.join(msgspec.structs.replace(HELLO, node=node, agent_id=node * 16))
        await announce(agent, built, pages)
        await agent.say(wire.Commit("photos", 2, built.root, after.root, edits, "converge", 0))
        assert await agent.hear() == wire.Ack("photos", 2)
    assert world.core.foresaw == [("photos", built.root)] * 2
    told = [event for event in world.core.events if isinstance(event, RootStored)]
    assert [(one.node, one.root) for one in told[1::2]] == [("n1", after.root), ("n2", after.root)]


async def test_a_root_whose_pages_are_gone_is_announced_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, _ = await world.join()
    _, built, pages = tree()
    await announce(agent, built, pages)
    await agent.socket.close()
    await world.core.saw(Disconnected)
    monkeypatch.setattr(world.core.store, "has", lambda digest: digest != built.root)
    _, welcome = await world.join()
    assert welcome.acked == (("photos", 1, None),)


# --- what it vouches for --------------------------------------------------------------------------


async def test_scans_and_watchers_are_proofs_of_their_own(world: World) -> None:
    agent, _ = await world.join()
    _, built, pages = tree()
    await announce(agent, built, pages)
    await agent.say(wire.Beat((wire.VolumeBeat("photos", 1, 4000, None),)))
    await agent.say(wire.Beat((wire.VolumeBeat("photos", 1, None, 1000),)))
    [scanned], [watched] = await world.core.saw(Scanned), await world.core.saw(Watched)
    assert isinstance(scanned, Scanned)
    assert isinstance(watched, Watched)
    assert watched.seen_mono - scanned.started_mono == pytest.approx(3.0, abs=1.0)


async def test_a_proof_waits_for_its_own_volumes_commits_and_for_no_other(world: World) -> None:
    """Of two volumes one is behind: the other's scan is told."""
    world.core.fleet_config = replace(CONFIG, volumes=(replace(VOLUME, name="docs"), VOLUME))
    hello = msgspec.structs.replace(
        HELLO,
        volumes=(wire.VolumeHello("docs", None, 0, 1, None), wire.VolumeHello("photos", None, 0, 1, None)),
    )
    agent, _ = await world.join(hello)
    _, built, pages = tree()
    await announce(agent, built, pages)
    await agent.say(wire.Beat((wire.VolumeBeat("docs", 5, 10), wire.VolumeBeat("photos", 1, 10))))
    events = await world.core.saw(Scanned)
    await agent.say(wire.Want("photos", 1, ()))
    await agent.hear()
    assert [one.volume for one in events if isinstance(one, Scanned)] == ["photos"]


# --- what it answers ------------------------------------------------------------------------------


async def test_an_answer_about_the_trash_reaches_who_asked(world: World) -> None:
    agent, _ = await world.join()
    loop = asyncio.get_running_loop()
    one, other = loop.create_future(), loop.create_future()
    numbers = [world.sessions.answer_trash("n1", asked) for asked in (one, other)]
    await agent.say(
        wire.TrashAnswer(99, (), None, "nobody asked"), wire.TrashAnswer(numbers[1] or 0, (), None, "it")
    )
    assert (await asyncio.wait_for(other, 10)).error == "it"
    assert not one.done()
    await agent.socket.close()
    with pytest.raises(ConnectionError, match="disconnected before it answered"):
        await asyncio.wait_for(one, 10)


async def test_more_digests_than_a_question_may_have_end_the_session(world: World) -> None:
    agent, _ = await world.join()
    most = limits.WANT_MAX_DIGESTS
    await agent.say(wire.Want("photos", 1, tuple(n.to_bytes(16, "big") for n in range(most))))
    answer = await agent.hear()
    assert isinstance(answer, wire.Objects)
    assert len(answer.missing) == most
    await agent.say(wire.Want("photos", 2, tuple(n.to_bytes(16, "big") for n in range(most + 1))))
    assert await agent.ended()


async def test_a_second_greeting_ends_the_session(world: World) -> None:
    agent, _ = await world.join()
    await agent.say(HELLO)
    assert await agent.ended()


async def test_a_beat_of_a_volume_that_is_not_the_nodes_ends_the_session(world: World) -> None:
    agent, _ = await world.join()
    await agent.say(wire.Beat((wire.VolumeBeat("secrets", 1, 5),)))
    assert await agent.ended()


# --- what it sends --------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", ["frames", "bytes"])
async def test_who_does_not_read_what_it_is_sent_loses_its_session(
    world: World, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    """Before it costs more memory than one session may."""
    if bound == "frames":
        monkeypatch.setattr(outbox, "OUTBOX_MAX_FRAMES", 5)
    else:
        monkeypatch.setattr(outbox, "OUTBOX_MAX_BYTES", 1000)
    agent, _ = await world.join()
    session = session_of(world)
    for _ in range(6):  # the writer has no turn in between
        session.outbox.post_frame(b"x" * 180)
    assert session.outbox._frames.qsize() == 5
    assert session.outbox.bytes == 900
    await asyncio.gather(agent.ended(), session.closed.wait())


async def test_contents_ahead_of_a_push_are_dropped_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may as well be fetched, and are no reason to end a session."""
    monkeypatch.setattr(outbox, "OUTBOX_MAX_BYTES", 1000)
    await world.join()
    session = session_of(world)
    for _ in range(6):
        session.outbox.post_carried(b"x" * 180)
    assert session.outbox.bytes == 2 * 180
    assert not session._ending.comes.is_set()


async def test_what_is_queued_leaves_before_a_session_ends(world: World) -> None:
    agent, _ = await world.join()
    session = session_of(world)
    for number in range(20):
        session.outbox.post(wire.Ack("photos", number))
    session.end("the test is over")
    heard = [await agent.hear() for _ in range(20)]
    assert heard == [wire.Ack("photos", number) for number in range(20)]
    assert await agent.ended()


async def test_the_first_reason_is_the_one_that_is_told(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    agent, _ = await world.join()
    session = session_of(world)
    session.end("the first")
    session.end("the second")
    await asyncio.gather(agent.ended(), session.closed.wait())
    assert "n1 disconnected: the first" in [one.getMessage() for one in caplog.records]


async def test_what_fits_no_frame_ends_the_session(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, _ = await world.join()

    def fails(_message: object) -> bytes:
        raise CodecError("a frame of 5 GB")

    monkeypatch.setattr(outbox, "encode_message", fails)
    assert session_of(world).outbox.post(wire.Ack("photos", 1)) is None
    assert await agent.ended()


async def test_a_fault_of_ours_ends_this_session_and_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    agent, _ = await world.join()
    other, _ = await world.join(msgspec.structs.replace(HELLO, node="n2", agent_id="agent-b"))

    def fails(node: str, _message: wire.Carried) -> None:
        raise RuntimeError(f"about {node}")

    monkeypatch.setattr(world.core, "carried", fails)
    await agent.say(wire.Carried("photos", (b"body",)))
    assert await agent.ended()
    assert "session of n1 ended by our own fault" in [one.getMessage() for one in caplog.records]
    await other.say(wire.Want("photos", 1, ()))
    assert isinstance(await other.hear(), wire.Objects)


# --- whose session it is --------------------------------------------------------------------------


async def test_whoever_does_not_greet_first_is_refused(world: World) -> None:
    agent = await world.dial()
    await agent.say(wire.Beat(()))
    refused = await agent.hear()
    assert isinstance(refused, wire.Refused)
    assert refused.code == "bad_hello"
    assert "Beat" in refused.message
    assert world.core.events == []


async def test_while_the_coordinator_goes_down_nobody_is_let_in(world: World) -> None:
    await world.sessions.drain()
    agent = await world.dial()
    await agent.say(HELLO)
    refused = await agent.hear()
    assert isinstance(refused, wire.Refused)
    assert refused.code == "draining"
    assert world.core.events == []


async def test_a_node_that_is_not_listed_any_more_loses_its_session(world: World) -> None:
    agent, _ = await world.join()
    other, _ = await world.join(msgspec.structs.replace(HELLO, node="n2", agent_id="agent-b"))
    world.sessions.retire(["n1", "unknown"])
    assert await agent.ended()
    assert world.sessions.connected() == ["n2"]
    await other.say(wire.Want("photos", 1, ()))
    assert isinstance(await other.hear(), wire.Objects)


async def test_who_has_other_settings_is_told_to_dial_again_at_once(world: World) -> None:
    agent, _ = await world.join()
    world.sessions.restart(["n1", "n2"])
    assert await agent.hear() == wire.Goodbye(0.0)
    assert await agent.ended()


async def test_another_agent_takes_a_name_over_when_the_first_has_been_gone_for_a_while(
    tmp_path: Path,
) -> None:
    clock = Clock()
    async with world_of(tmp_path, clock) as world:
        agent, _ = await world.join()
        await agent.socket.close()
        await world.core.saw(Disconnected)
        other = msgspec.structs.replace(HELLO, agent_id="agent-b")
        clock.now += 9.9
        refused = await world.dial()
        await refused.say(other)
        answer = await refused.hear()
        assert isinstance(answer, wire.Refused)
        assert (answer.code, answer.retry_after_s <= 5.0) == ("draining", True)
        clock.now += 0.2
        await world.join(other)


async def test_a_coordinator_that_has_just_started_lets_in_whom_it_knows_first(tmp_path: Path) -> None:
    """It does not know yet who is there: another agent of that name waits as long as after a farewell."""
    clock = Clock()
    async with world_of(tmp_path, clock) as world:
        agent, _ = await world.join()
        _, built, pages = tree()
        await announce(agent, built, pages)
        await agent.socket.close()
        await world.core.saw(Disconnected)
        world.sessions._claims.clear()  # as a new process
        other = msgspec.structs.replace(HELLO, agent_id="agent-b")
        refused = await world.dial()
        await refused.say(other)
        assert isinstance(await refused.hear(), wire.Refused)
        again, _ = await world.join()
        await again.socket.close()
        await world.core.saw(Disconnected, 2)
        world.sessions._claims.clear()
        clock.now += 10.1
        await world.join(other)


async def test_an_agent_of_a_later_protocol_too_is_let_in_where_it_speaks_this_one(world: World) -> None:
    both = msgspec.structs.replace(HELLO, protocol_min=1, protocol_max=wire.PROTOCOL + 3)
    await world.join(both)
    await world.core.saw(Connected)


@pytest.mark.parametrize(
    ("advertised", "peer", "address"),
    [
        ("host.example:7342", "10.0.0.7", "host.example:7342"),
        (":7342", "10.0.0.7", "10.0.0.7:7342"),
        (":7342", "fe80::7", "[fe80::7]:7342"),
    ],
)
def test_peers_are_told_an_address_that_they_can_dial(advertised: str, peer: str, address: str) -> None:
    assert _address(advertised, peer) == address


async def test_what_is_known_of_each_volume_is_told_behind_the_nodes_coming(world: World) -> None:
    """Told before it, the core would take it for what a session said that is not there yet."""
    world.core.fleet_config = replace(CONFIG, volumes=(replace(VOLUME, name="docs"), VOLUME))
    hello = msgspec.structs.replace(
        HELLO,
        volumes=(wire.VolumeHello("docs", None, 0, 1, None), wire.VolumeHello("photos", None, 0, 1, None)),
    )
    _, built, pages = tree()
    agent, _ = await world.join(hello)
    for volume in ("docs", "photos"):
        await agent.say(wire.Announce(volume, 1, built.root, "scan", 0))
        while not isinstance(message := await agent.hear(), wire.Ack):
            assert isinstance(message, wire.Want)
            objects = tuple(pages[digest] for digest in message.digests)
            await agent.say(wire.Objects(volume, message.request, objects, (), True))
    await agent.socket.close()
    await world.core.saw(Disconnected)
    world.core.known_root = lambda _node, _volume: built.root  # type: ignore[method-assign]
    world.core.events.clear()
    await world.join(hello)
    await world.core.saw(RootStored, 2)
    told = [
        (type(event).__name__, getattr(event, "volume", ""), getattr(event, "cause", ""))
        for event in world.core.events
    ]
    assert told == [("Connected", "", ""), ("RootStored", "docs", "known"), ("RootStored", "photos", "known")]
