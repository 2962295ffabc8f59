"""Objects in both directions, acknowledgements and farewells: a session believes digests, and keeps to its bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from closeranks_agent import session
from closeranks_agent.disk.records import StateUnavailable
from closeranks_agent.disk.volume import Volume
from closeranks_agent.runtime import Agent
from closeranks_proto import limits
from closeranks_proto import messages as wire
from closeranks_proto.digests import XXH3_128
from link_world import Talk, World, until, world_of


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_of(tmp_path) as made:
        yield made


async def settled(world: World) -> tuple[Talk, wire.Announce]:
    """The first session, with its announcement acknowledged."""
    talk = await world.coordinator.talk(0)
    announce = await talk.hear(wire.Announce)
    await talk.say(wire.Ack("photos", announce.seq))
    return talk, announce


async def answers(talk: Talk, request: int) -> list[wire.Objects]:
    """All frames that answer a Want, up to the last."""
    await talk.hear(wire.Objects, lambda one: one.request == request and one.last)
    return [one for one in talk.all(wire.Objects) if one.request == request]


async def test_what_the_coordinator_gives_is_what_was_asked_for(world: World) -> None:
    """In several frames, and what it lacks is absent."""
    async with world.agent() as agent:
        talk, _ = await settled(world)
        blobs = [b"one", b"two"]
        digests = tuple(XXH3_128.of(blob) for blob in (*blobs, b"lacking"))
        asked = asyncio.create_task(agent.link.want("photos", digests))
        want = await talk.hear(wire.Want)
        assert want.digests == digests
        await talk.say(wire.Objects("photos", want.request, (b"one",), (), False))
        await talk.say(wire.Objects("photos", want.request + 7, (b"of nobody's question",), (), True))
        await talk.say(wire.Objects("photos", want.request, (b"two",), digests[2:], True))
        assert await asked == {digests[0]: b"one", digests[1]: b"two"}


async def test_bytes_that_were_not_asked_for_end_the_session_and_the_question(world: World) -> None:
    async with world.agent() as agent:
        talk, _ = await settled(world)
        asked = asyncio.create_task(agent.link.want("photos", (XXH3_128.of(b"one"),)))
        want = await talk.hear(wire.Want)
        await talk.say(wire.Objects("photos", want.request, (b"another",), (), True))
        with pytest.raises(ConnectionError):
            await asked
        await until(lambda: talk.ended)
        assert "not asked for" in agent.link.trouble
        await world.coordinator.talk(1)


async def test_more_digests_than_one_question_may_have_are_several_questions(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "WANT_MAX_DIGESTS", 2)
    async with world.agent() as agent:
        talk, _ = await settled(world)
        blobs = {XXH3_128.of(b"%d" % number): b"%d" % number for number in range(5)}
        asked = asyncio.create_task(agent.link.want("photos", tuple(blobs)))
        for number in range(3):
            want = await talk.hear(wire.Want, lambda one, at=number: one.request == at + 1)
            assert len(want.digests) == (2, 2, 1)[number]
            objects = tuple(blobs[digest] for digest in want.digests)
            await talk.say(wire.Objects("photos", want.request, objects, (), True))
        assert await asked == blobs


def digests_of(agent: Agent) -> tuple[bytes, ...]:
    """All pages of the tree."""
    volume = agent.volumes["photos"]
    assert volume.root is not None
    return tuple(digest for digest, _ in volume.tree.pages(volume.root, lambda _: False))


async def test_objects_leave_in_bounded_frames_and_what_is_missing_is_said_last(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FRAME_TARGET_BYTES", 3000)
    for number in range(300):
        (world.tree / f"f{number}").write_bytes(b"%d" % number)
    async with world.agent() as agent:
        talk, _ = await settled(world)
        known = digests_of(agent)
        assert len(known) >= 3
        await talk.say(wire.Want("photos", 5, (bytes(16), *known, bytes([1]) * 16)))
        frames = await answers(talk, 5)
        assert len(frames) > 2
        given = [blob for frame in frames for blob in frame.objects]
        assert [XXH3_128.of(blob) for blob in given] == list(known)
        assert [frame.last for frame in frames] == [False] * (len(frames) - 1) + [True]
        assert [frame.missing for frame in frames if frame.missing] == [(bytes(16), bytes([1]) * 16)]
        assert all(sum(map(len, frame.objects)) <= 3000 or len(frame.objects) == 1 for frame in frames)


async def test_objects_that_can_not_be_read_now_are_missing_and_cost_no_session(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.agent() as agent:
        talk, announce = await settled(world)
        known = digests_of(agent)

        def fails(_self: Volume, _digest: bytes) -> bytes | None:
            raise StateUnavailable(wire.Problem("no_space", "the disk is full"))

        with monkeypatch.context() as during:
            during.setattr(Volume, "object", fails)
            await talk.say(wire.Want("photos", 5, known))
            assert [frame.missing for frame in await answers(talk, 5)] == [known]
        await talk.say(wire.Want("photos", 6, (announce.root,)))
        assert (await answers(talk, 6))[0].objects
        assert len(world.coordinator.talks) == 1


async def test_a_coordinator_that_reads_nothing_costs_the_session_and_not_the_memory(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "OUTBOX_MAX_MESSAGES", 3)
    async with world.agent() as agent:
        talk, _ = await settled(world)
        for request in range(5):
            agent.link.post(wire.TrashAnswer(request, (), None, ""))
        await until(lambda: talk.ended)
        await world.coordinator.talk(1)


async def test_a_farewell_for_a_day_is_not_believed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator's word is no reason to stay away for so long."""
    monkeypatch.setattr(session, "GOODBYE_MAX_S", 0.05)
    async with world.agent():
        talk, _ = await settled(world)
        await talk.say(wire.Goodbye(86400.0))
        await talk.socket.close()
        await world.coordinator.talk(1)


async def test_an_older_acknowledgement_takes_nothing_back(world: World) -> None:
    async with world.agent() as agent:
        talk, announce = await settled(world)
        (world.tree / "b").write_bytes(b"2")
        commit = await talk.hear(wire.Commit)
        await talk.say(wire.Ack("photos", commit.seq), wire.Ack("photos", announce.seq))
        await agent.link.flushed("photos", 10.0)
        volume = agent.volumes["photos"]
        await until(lambda: volume.first_seq == commit.seq + 1)


async def test_who_waits_for_acknowledgements_waits_for_all_that_it_has_or_for_so_long(
    world: World,
) -> None:
    async with world.agent() as agent:
        talk, announce = await settled(world)
        await agent.link.flushed("photos", 10.0, announce.seq)
        (world.tree / "b").write_bytes(b"2")
        commit = await talk.hear(wire.Commit)
        waiting = asyncio.create_task(agent.link.flushed("photos", 10.0))
        limited = asyncio.create_task(agent.link.flushed("photos", 0.05))
        await limited
        assert not waiting.done()
        await talk.say(wire.Ack("photos", commit.seq))
        await waiting


async def test_nothing_is_vouched_for_while_a_volume_has_a_problem(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its root is gone: what the last scan saw is not there any more."""
    monkeypatch.setattr(limits, "BEAT_INTERVAL_S", 0.5)
    async with world.agent():
        talk, _ = await settled(world)
        await talk.hear(wire.Beat, lambda one: one.volumes and one.volumes[0].scan_started_age_ms is not None)
        world.tree.rename(world.tree.with_name("away"))
        await talk.hear(wire.VolumeStatus, lambda one: one.problem is not None)
        beat = await talk.hear(wire.Beat, lambda one: bool(one.volumes), len(talk.heard))
        assert beat.volumes[0].scan_started_age_ms is None
        assert beat.volumes[0].watched_age_ms is None
