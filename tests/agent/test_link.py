"""The agent's session: nothing is lost over reconnects, and nothing that a coordinator says ends the agent."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import msgspec
import pytest

from closeranks_agent import link, session, statuses
from closeranks_agent.disk.records import StateUnavailable
from closeranks_agent.disk.volume import Volume
from closeranks_agent.runtime import Agent
from closeranks_agent.state import AgentState
from closeranks_proto import messages as wire
from closeranks_proto.entries import Entry, Kind, encode_entry
from link_world import SETTINGS, Talk, World, config_of, until, world_of


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


async def test_the_first_scan_is_announced_then_every_change_is_a_commit(world: World) -> None:
    (world.tree / "a").write_bytes(b"1")
    async with world.agent():
        talk, announce = await settled(world)
        (world.tree / "b").write_bytes(b"2")
        commit = await talk.hear(wire.Commit)
        assert (commit.seq, commit.base_root) == (announce.seq + 1, announce.root)
        beat = await talk.hear(wire.Beat, lambda one: one.volumes and one.volumes[0].last_seq >= commit.seq)
        assert talk.heard.index(commit) < talk.heard.index(beat)


async def test_what_was_not_acknowledged_is_sent_again(world: World) -> None:
    async with world.agent():
        talk, announce = await settled(world)
        (world.tree / "b").write_bytes(b"2")
        commit = await talk.hear(wire.Commit)
        world.coordinator.acked = (("photos", announce.seq, announce.root),)
        await talk.socket.close()
        again = await (await world.coordinator.talk(1)).hear(wire.Commit)
        assert (again.seq, again.root) == (commit.seq, commit.root)


async def test_what_was_accepted_without_its_ack_is_not_sent_again(world: World) -> None:
    async with world.agent() as agent:
        talk, _ = await settled(world)
        (world.tree / "b").write_bytes(b"2")
        commit = await talk.hear(wire.Commit)
        world.coordinator.acked = (("photos", commit.seq, commit.root),)
        await talk.socket.close()
        second = await world.coordinator.talk(1)
        await second.hear(wire.Beat, lambda one: one.volumes)
        assert not second.all(wire.Commit)
        assert not second.all(wire.Announce)
        assert agent.volumes["photos"].first_seq == commit.seq + 1


async def test_what_a_welcome_was_for_the_next_pause_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that ended is no failed try: the pause behind it does not grow."""
    told: list[float | None] = []

    class Told:
        def __init__(self, rng: object) -> None: ...

        def after(self, lived_s: float | None) -> float:
            told.append(lived_s)
            return 0.01

    monkeypatch.setattr(link, "Pauses", Told)
    async with world.agent():
        for number in range(2):
            await (await world.coordinator.talk(number)).socket.close()
        await world.coordinator.talk(2)
        assert len(told) == 2
        assert all(lived_s is not None for lived_s in told)
        world.coordinator.first = wire.Refused("unknown_node", "no", 0.0)
        await world.coordinator.talks[2].socket.close()
        await until(lambda: len(told) >= 5)
    assert told[3:5] == [None, None]


@pytest.mark.parametrize("lost", ["all", "root", "later"])
async def test_a_coordinator_that_knows_another_history_gets_an_announcement(world: World, lost: str) -> None:
    (world.tree / "a").write_bytes(b"1")
    async with world.agent() as agent:
        talk, announce = await settled(world)
        await until(lambda: agent.volumes["photos"].first_seq > announce.seq)
        seq = {"all": 0, "root": announce.seq, "later": announce.seq + 40}[lost]
        world.coordinator.acked = (("photos", seq, None if lost != "later" else bytes(16)),)
        await talk.socket.close()
        again = await (await world.coordinator.talk(1)).hear(wire.Announce)
        assert again.seq > max(seq, announce.seq)
        assert again.root == announce.root


async def test_a_node_whose_index_is_gone_numbers_on_from_the_coordinator(world: World) -> None:
    (world.tree / "a").write_bytes(b"1")
    world.coordinator.acked = (("photos", 7, bytes(16)),)
    async with world.agent():
        talk = await world.coordinator.talk(0)
        announce = await talk.hear(wire.Announce)
        assert announce.seq > 7
        first = await talk.hear(wire.Beat, lambda one: bool(one.volumes))
        assert talk.heard.index(announce) < talk.heard.index(first), "no scan vouches for the old root"


async def test_a_resync_is_answered_by_one_announcement(world: World) -> None:
    async with world.agent():
        talk, announce = await settled(world)
        (world.tree / "b").write_bytes(b"2")
        commit = await talk.hear(wire.Commit)
        say = wire.Resync("photos", commit.seq, "test")
        await talk.say(say, say)
        again = await talk.hear(wire.Announce, lambda one: one.seq != announce.seq)
        assert (again.seq, again.root) == (commit.seq + 1, commit.root)
        await talk.say(wire.Resync("photos", commit.seq, "late"), wire.Ack("photos", again.seq))
        (world.tree / "c").write_bytes(b"3")
        following = await talk.hear(wire.Commit, lambda one: one.seq > again.seq)
        assert following.base_root == again.root
        assert len(talk.all(wire.Announce)) == 2


async def test_a_resync_about_an_announcement_is_answered_by_another_one(world: World) -> None:
    """Passed over as one about what was sent before it, it would leave the coordinator without a tree for ever."""
    async with world.agent():
        talk, first = await settled(world)
        await talk.say(wire.Resync("photos", first.seq, "test"))
        second = await talk.hear(wire.Announce, lambda one: one.seq > first.seq)
        await talk.say(wire.Resync("photos", second.seq, "test"))
        third = await talk.hear(wire.Announce, lambda one: one.seq > second.seq)
        await talk.say(wire.Ack("photos", third.seq))
        (world.tree / "b").write_bytes(b"2")
        following = await talk.hear(wire.Commit)
        assert following.base_root == third.root


async def test_an_announced_root_can_be_fetched_while_the_tree_goes_on(world: World) -> None:
    for number in range(300):
        (world.tree / f"f{number}").write_bytes(b"%d" % number)
    async with world.agent() as agent:
        talk = await world.coordinator.talk(0)
        announce = await talk.hear(wire.Announce)
        for number in range(300):
            (world.tree / f"f{number}").write_bytes(b"other %d" % number)
        volume = agent.volumes["photos"]
        await until(lambda: volume.last_seq > announce.seq)
        volume.history.objects.sweep(volume.tree, [announce.root, volume.root or b""], force=True)
        await talk.say(wire.Want("photos", 1, (announce.root,)))
        answer = await talk.hear(wire.Objects)
        assert len(answer.objects) == 1
        assert answer.missing == ()


async def test_at_most_the_credit_is_under_way(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world.agent():
        talk, _ = await settled(world)
        for number in range(25):
            (world.tree / f"f{number}").write_bytes(b"x")
            count = len(talk.all(wire.Commit))
            if count < 16:
                await until(lambda seen=count: len(talk.all(wire.Commit)) > seen)  # type: ignore[misc]
        await asyncio.sleep(0.5)
        commits = talk.all(wire.Commit)
        assert len(commits) == 16
        await talk.say(wire.Ack("photos", commits[-1].seq))
        await talk.hear(wire.Commit, lambda one: one.seq > commits[-1].seq)


HOSTILE: dict[str, wire.Message | bytes] = {
    "no message": b"\xc1",
    "ack of the future": wire.Ack("photos", 2**40),
    "ack of a foreign volume": wire.Ack("elsewhere", 1),
    "resync of a foreign volume": wire.Resync("elsewhere", 1, ""),
    "want of a foreign volume": wire.Want("elsewhere", 1, ()),
    "too large a want": wire.Want("photos", 1, tuple(bytes([at % 256]) * 16 for at in range(257))),
    "a second welcome": wire.Welcome(1, "s", "xxh3-128", 16, 5.0, (), ()),
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_hostile_frames_cost_the_session_only(world: World, what: str) -> None:
    async with world.agent():
        talk, _ = await settled(world)
        said = HOSTILE[what]
        if isinstance(said, bytes):
            await talk.socket.send_bytes(said)
        else:
            await talk.say(said)
        await until(lambda: talk.ended)
        await world.coordinator.talk(1)


WELCOMES: dict[str, dict[str, object]] = {
    "digest": {"digest": "md5"},
    "chunk_bytes": {"settings": (msgspec.structs.replace(SETTINGS, chunk_bytes=0),)},
    "odd chunk_bytes": {"settings": (msgspec.structs.replace(SETTINGS, chunk_bytes=4097),)},
    "seq": {"acked": (("photos", 2**63 - 1, None),)},
    "refused for ever": {"first": wire.Refused("unknown_node", "no", 1e9)},
    "not a welcome": {"first": wire.Ack("photos", 1)},
}


@pytest.mark.parametrize("what", WELCOMES)
async def test_a_hostile_welcome_is_survived_and_forgotten(
    world: World, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("closeranks_agent.link.GOODBYE_MAX_S", 0.1)
    good = dict(vars(world.coordinator))
    for name, value in WELCOMES[what].items():
        setattr(world.coordinator, name, value)
    async with world.agent() as agent:
        await until(lambda: world.coordinator.talks and world.coordinator.talks[0].ended)
        if what != "seq":
            assert agent.state.settings is None
        for name in WELCOMES[what]:
            setattr(world.coordinator, name, good[name])
        seen = len(world.coordinator.talks)
        await until(lambda: any(talk.all(wire.Announce) for talk in world.coordinator.talks[seen:]))


async def test_ignore_patterns_that_nobody_understands_are_that_volumes_problem(world: World) -> None:
    world.coordinator.settings = (msgspec.structs.replace(SETTINGS, ignore=("!",)),)
    async with world.agent() as agent:
        talk = await world.coordinator.talk(0)
        status = await talk.hear(wire.VolumeStatus)
        assert status.problem is not None
        world.coordinator.settings = (SETTINGS,)
        await talk.socket.close()
        await (await world.coordinator.talk(1)).hear(wire.Announce)
        assert agent.ready is None


async def test_a_state_directory_that_fails_holds_the_stream_up_and_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = True
    pending = Volume.pending

    def sometimes(self: Volume, after_seq: int, limit: int) -> list[wire.Commit | wire.Announce]:
        if failing:
            raise StateUnavailable(wire.Problem("no_space", "the disk is full"))
        return pending(self, after_seq, limit)

    monkeypatch.setattr(Volume, "pending", sometimes)
    async with world.agent():
        talk = await world.coordinator.talk(0)
        await talk.hear(wire.Beat)
        failing = False
        await talk.hear(wire.Announce)
        assert len(world.coordinator.talks) == 1


async def test_an_index_that_is_made_anew_in_a_session_is_announced(world: World) -> None:
    (world.tree / "a").write_bytes(b"1")
    async with world.agent() as agent:
        talk, _ = await settled(world)
        for number in range(3):
            (world.tree / f"f{number}").write_bytes(b"x")
            commit = await talk.hear(wire.Commit, after=len(talk.heard))
            await talk.say(wire.Ack("photos", commit.seq))
        volume = agent.volumes["photos"]
        await until(lambda: volume.first_seq > commit.seq)

        def lose() -> None:
            volume._damaged = True
            volume._close_history()

        await volume.run(lose)
        again = await talk.hear(wire.Announce, lambda one: one.seq > commit.seq)
        assert again.root == commit.root


async def test_new_settings_are_streamed_only_when_the_tree_was_read_by_them(world: World) -> None:
    (world.tree / "a").write_bytes(b"1")
    (world.tree / "b").write_bytes(b"2")
    async with world.agent():
        talk, announce = await settled(world)
        world.coordinator.settings = (msgspec.structs.replace(SETTINGS, ignore=("b",)),)
        world.coordinator.acked = (("photos", announce.seq, None),)
        await talk.socket.close()
        second = await world.coordinator.talk(1)
        again = await second.hear(wire.Announce)
        assert again.root != announce.root
        assert {one.root for one in second.all(wire.Announce)} == {again.root}


async def test_what_is_not_ignored_any_more_is_watched(world: World) -> None:
    (world.tree / "d").mkdir()
    still = msgspec.structs.replace(SETTINGS, scan_interval_s=3600.0)
    world.coordinator.settings = (msgspec.structs.replace(still, ignore=("d",)),)
    async with world.agent(watch="inotify"):
        talk, announce = await settled(world)
        world.coordinator.settings = (still,)
        world.coordinator.acked = (("photos", announce.seq, None),)
        await talk.socket.close()
        second = await world.coordinator.talk(1)
        again = await second.hear(wire.Announce)
        await second.say(wire.Ack("photos", again.seq))
        await second.hear(wire.Beat, lambda one: one.volumes and one.volumes[0].last_seq >= again.seq)
        (world.tree / "d" / "new").write_bytes(b"1")
        commit = await second.hear(wire.Commit)
        assert (commit.cause, [edit.key for edit in commit.edits]) == ("watch", [b"d\0new"])


async def test_an_ask_is_answered_by_a_commit_and_a_beat_that_vouches_for_it(world: World) -> None:
    world.coordinator.settings = (msgspec.structs.replace(SETTINGS, scan_interval_s=3600.0),)
    async with world.agent(watch="inotify") as agent:
        talk, _ = await settled(world)
        await until(lambda: agent.watching()["photos"].covered)
        for number in range(5):
            (world.tree / f"f{number}").write_bytes(b"1")
            after = len(talk.heard)
            asked = asyncio.get_running_loop().time()
            await talk.say(wire.Ask("photos"))
            key = b"f%d" % number

            def proves(beat: wire.Beat, asked: float = asked) -> bool:
                age_ms = beat.volumes[0].watched_age_ms if beat.volumes else None
                since_ms = (asyncio.get_running_loop().time() - asked) * 1000
                return age_ms is not None and age_ms <= since_ms

            beat = await talk.hear(wire.Beat, proves, after)
            commits = [one for one in talk.all(wire.Commit) if any(edit.key == key for edit in one.edits)]
            assert commits
            assert talk.heard.index(commits[0]) < talk.heard.index(beat)
            assert beat.volumes[0].last_seq >= commits[0].seq
            await talk.say(wire.Ack("photos", commits[-1].seq))


async def test_a_busy_writer_costs_few_statuses(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statuses, "STATUS_MIN_S", 0.0)
    async with world.agent(watch="inotify"):
        talk, _ = await settled(world)
        for number in range(20):
            (world.tree / f"f{number}").write_bytes(b"1")
            commit = await talk.hear(wire.Commit, after=len(talk.heard))
            await talk.say(wire.Ack("photos", commit.seq))
        assert len(talk.all(wire.VolumeStatus)) <= 2


async def test_a_problem_is_told_at_once_however_often_counts_are_told(world: World) -> None:
    async with world.agent() as agent:
        talk, _ = await settled(world)
        await talk.hear(wire.VolumeStatus)
        volume = agent.volumes["photos"]
        await volume.run(volume.condition.trouble, wire.Problem("io_error", "the disk fails"))
        await talk.hear(wire.VolumeStatus, lambda one: one.problem is not None)


async def test_a_volume_comes_and_goes_with_the_coordinators_word(world: World) -> None:
    async with world.agent() as agent:
        talk, announce = await settled(world)
        world.coordinator.settings, world.coordinator.acked = (), ()
        await talk.socket.close()
        second = await world.coordinator.talk(1)
        await second.hear(wire.Beat)
        assert not agent.volumes
        world.coordinator.settings = (SETTINGS,)
        world.coordinator.acked = (("photos", announce.seq, announce.root),)
        await second.socket.close()
        third = await world.coordinator.talk(2)
        await third.hear(wire.Beat, lambda one: one.volumes)
        assert agent.ready is None
        await third.say(wire.Verify("a-1", "photos", "", 0))
        verified = await third.hear(wire.VerifyResult)
        assert verified.root == announce.root


async def test_a_coordinator_that_never_answers_the_handshake_is_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("closeranks_proto.limits.HANDSHAKE_TIMEOUT_S", 0.2)
    dialled = 0

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal dialled
        dialled += 1
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        world.port = server.sockets[0].getsockname()[1]
        async with world.agent():
            await until(lambda: dialled >= 2)


async def test_a_fault_in_a_session_costs_the_session_only(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    worth = statuses.worth_telling

    def sometimes(last: wire.VolumeStatus, now: wire.VolumeStatus) -> bool:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise KeyError("a fault")
        return worth(last, now)

    monkeypatch.setattr(statuses, "worth_telling", sometimes)
    async with world.agent():
        await world.coordinator.talk(1)


async def test_an_agent_at_rest_costs_under_200_bytes_a_second(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = os.statvfs(world.tree)  # others write to ours meanwhile, and what their disk holds is told
    monkeypatch.setattr(os, "statvfs", lambda path: disk)
    monkeypatch.setattr(os, "fstatvfs", lambda fd: disk)
    (world.tree / "a").write_bytes(b"1")
    world.coordinator.settings = (msgspec.structs.replace(SETTINGS, scan_interval_s=1.0),)
    async with world.agent():
        talk, _ = await settled(world)
        await talk.hear(wire.Beat, lambda one: one.volumes)
        before, started = talk.bytes, time.monotonic()
        for _ in range(4):  # from beat to beat: a fixed window may hold one more than it has seconds
            await talk.hear(wire.Beat, lambda one: one.volumes, after=len(talk.heard))
        assert (talk.bytes - before) / (time.monotonic() - started) < 60


@pytest.mark.parametrize("stood_s", [0.0, 1.2])
async def test_what_came_while_the_process_stood_still_is_not_taken(
    world: World, monkeypatch: pytest.MonkeyPatch, stood_s: float
) -> None:
    """A push that lay in the connection may be of a truth that has long gone on."""
    monkeypatch.setattr(session, "RAN_EVERY_S", 0.05)
    (world.tree / "a").write_bytes(b"1")
    async with world.agent() as agent:
        talk, _ = await settled(world)
        volume = agent.volumes["photos"]
        assert volume.root is not None
        before = volume.tree.lookup(volume.root, b"a")
        monkeypatch.setattr("closeranks_proto.limits.SILENT_AFTER_S", 0.9)
        await talk.say(wire.Push("photos", 1, (wire.PushEdit(b"a", before, None),), ()))
        time.sleep(stood_s)  # noqa: ASYNC251 (everything here stands still)
        if stood_s:
            await world.coordinator.talk(1)
        else:
            await talk.hear(wire.Commit)
        assert (world.tree / "a").exists() == bool(stood_s)


def test_a_text_that_no_receiver_takes_is_clipped() -> None:
    from closeranks_proto.wire import clipped, decode_agent_message, encode_message

    problem = wire.Problem("io_error", "é\udcff" * 5000)
    unreadable = (wire.Unreadable(b"k", "unreadable", "x" * 9000),)
    status = wire.VolumeStatus("photos", problem, 1, 1, 1, unreadable, 1, 1, 1, None)
    assert decode_agent_message(encode_message(clipped(status)))
    fine = wire.Commit(
        "photos", 1, b"a", b"b", (wire.Edit(b"k", encode_entry(Entry(Kind.DIRECTORY, mode=0))),), "scan", 0
    )
    assert clipped(fine) is fine


async def test_small_contents_go_ahead_of_their_commit_where_the_coordinator_wants_them(world: World) -> None:
    world.coordinator.carry = ("photos",)
    async with world.agent(watch="inotify") as agent:
        talk, _ = await settled(world)
        await until(lambda: agent.watching()["photos"].covered)
        (world.tree / "new").write_bytes(b"what it holds")
        await talk.hear(wire.Commit)
        kinds = [type(one) for one in talk.heard if isinstance(one, wire.Carried | wire.Commit)]
        assert kinds[:2] == [wire.Carried, wire.Commit]
        assert talk.all(wire.Carried)[0].bodies == (b"what it holds",)


@pytest.mark.parametrize("why", ["not wanted", "limited"])
async def test_contents_stay_here_where_they_are_not_wanted_or_bytes_are_counted(
    world: World, why: str
) -> None:
    world.coordinator.carry = () if why == "not wanted" else ("photos",)
    async with world.agent(watch="inotify") as agent:
        talk, _ = await settled(world)
        if why == "limited":
            await talk.say(wire.Limits(None, 10_000))
            await until(lambda: agent.speed.limited)
        await until(lambda: agent.watching()["photos"].covered)
        (world.tree / "new").write_bytes(b"what it holds")
        await talk.hear(wire.Commit)
        assert talk.all(wire.Carried) == []


async def test_an_unknown_host_is_said_in_words(tmp_path: Path) -> None:
    """It was "unknown error -2"."""
    config = config_of(tmp_path, 1)
    config = replace(config, coordinator="http://no-such-host.invalid:7340")
    async with aiohttp.ClientSession() as http:
        agent = Agent(config, AgentState(tmp_path / "state"), http)
        task = asyncio.create_task(agent.link.run())
        async with asyncio.timeout(10):
            while not agent.link.trouble:
                await asyncio.sleep(0.01)
        task.cancel()
        agent.state.close()
    assert "no-such-host.invalid:7340: the host name is not known (" in agent.link.trouble
