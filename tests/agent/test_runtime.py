"""The fence on a node, and what an agent says of itself."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from closeranks_agent.disk.records import ScanReport, StateUnavailable
from closeranks_agent.runtime import Agent
from closeranks_agent.state import AgentState, OwedHook
from closeranks_proto import messages as wire
from closeranks_proto.messages import FenceState
from link_world import Talk, World, until, world_of


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_of(tmp_path) as made:
        yield made


def hooks(base: Path, quarantine: str = "", release: str = "") -> str:
    told = base / "told"
    return (
        "[agent.hooks]\n"
        f"on_quarantine = ['/bin/sh', '-c', '{quarantine} echo fenced $CLOSERANKS_FENCE_TOKEN >> {told}']\n"
        f"on_release = ['/bin/sh', '-c', '{release} echo released $CLOSERANKS_FENCE_TOKEN >> {told}']\n"
        "timeout_s = 20\n"
    )


def told(base: Path) -> list[str]:
    return (base / "told").read_text().splitlines() if (base / "told").exists() else []


async def connected(world: World) -> Talk:
    talk = await world.coordinator.talk(0)
    await talk.hear(wire.Beat)
    return talk


async def test_a_fence_is_in_force_kept_hooked_and_answered(world: World) -> None:
    async with world.agent(hooks(world.base)) as agent:
        talk = await connected(world)
        await until(lambda: agent.ready is None)
        await talk.say(wire.Fence(3, "two paths differ", "i-1", False))
        answer = await talk.hear(wire.FenceAnswer)
        assert (answer.token, answer.fenced, answer.hook_ok) == (3, True, True)
        assert agent.ready is not None
        assert "two paths differ" in agent.ready
        await talk.say(wire.Unfence(3, "i-1"))
        released = await talk.hear(wire.FenceAnswer, lambda one: not one.fenced)
        assert released.token == 3
        assert agent.ready is None
    assert told(world.base) == ["fenced 3", "released 3"]


async def test_what_can_not_begin_any_more_is_given_up_in_order(
    world: World, recwarn: pytest.WarningsRecorder
) -> None:
    """An order that comes while the agent stops leaves nothing behind that was never awaited."""
    async with world.agent() as agent:
        await connected(world)
    work = asyncio.sleep(0)
    with pytest.raises(RuntimeError):
        agent.spawn(work)
    assert inspect.getcoroutinestate(work) == inspect.CORO_CLOSED
    gc.collect()
    assert [str(one.message) for one in recwarn if "never awaited" in str(one.message)] == []


async def test_a_volume_that_goes_and_comes_again_elsewhere_is_opened_there(world: World) -> None:
    """Both reloads fall between two sessions: the one that is open is of the directory of before."""
    file, (elsewhere, other) = world.base / "agent.toml", (world.base / "elsewhere", world.base / "other")
    for path in (elsewhere, other):
        path.mkdir()
    async with world.agent() as agent:
        await connected(world)
        await until(lambda: "photos" in agent.volumes)
        text = file.read_text()
        file.write_text(text.replace('"photos"', '"docs"').replace(f'"{world.tree}"', f'"{other}"'))
        agent.reread()
        file.write_text(text.replace(f'"{world.tree}"', f'"{elsewhere}"'))
        agent.reread()
        await until(
            lambda: "photos" in agent.volumes and agent.volumes["photos"].path == os.fsencode(elsewhere)
        )


async def test_a_volume_that_goes_is_in_no_metric_any_more(world: World) -> None:
    file, other = world.base / "agent.toml", world.base / "other"
    other.mkdir()
    async with world.agent() as agent:
        await connected(world)
        await until(lambda: 'closeranks_agent_scan_seconds_count{volume="photos"}' in shown(agent))
        text = file.read_text()
        file.write_text(text.replace('"photos"', '"docs"').replace(f'"{world.tree}"', f'"{other}"'))
        agent.reread()
        await until(lambda: "photos" not in shown(agent))
        agent.metrics.scanned("photos", ScanReport(0.0, 1.0, True))
        assert "photos" not in shown(agent), "a scan that ended too late"


def shown(agent: Agent) -> str:
    return generate_latest(agent.metrics.registry).decode()


async def test_a_key_that_can_not_change_while_the_agent_runs_is_named(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    file, other = world.base / "agent.toml", world.base / "other"
    other.mkdir()
    async with world.agent() as agent:
        await connected(world)
        before = agent.config
        text = file.read_text()
        file.write_text(text.replace(f'"{world.tree}"', f'"{other}"'))
        agent.reread()
        assert agent.config is before
        file.write_text(text)
    assert (
        "configuration not changed: path of [[volume]] photos can not change while the agent runs; restart it"
        in caplog.text
    )


async def test_a_repeated_order_is_answered_and_hooked_once(world: World) -> None:
    async with world.agent(hooks(world.base)):
        talk = await connected(world)
        order = wire.Fence(3, "why", "i-1", False)
        await talk.say(order, order)
        await until(lambda: len(talk.all(wire.FenceAnswer)) == 2)
    assert told(world.base) == ["fenced 3"]


async def test_the_fence_stands_while_a_hook_runs_and_hooks_keep_their_order(world: World) -> None:
    async with world.agent(hooks(world.base, quarantine="sleep 0.6;")) as agent:
        talk = await connected(world)
        await talk.say(wire.Fence(3, "why", "i-1", False))
        await until(lambda: agent.state.fence)
        await talk.say(wire.Unfence(3, "i-1"))
        await until(lambda: agent.state.fence is None)
        await talk.hear(wire.FenceAnswer, lambda one: not one.fenced)
        assert [one.fenced for one in talk.all(wire.FenceAnswer)] == [False]
    assert told(world.base) == ["fenced 3", "released 3"]


async def test_late_orders_change_nothing(world: World) -> None:
    async with world.agent() as agent:
        talk = await connected(world)
        await talk.say(
            wire.Fence(5, "why", "i-1", False), wire.Unfence(4, "i-1"), wire.Fence(4, "old", "", False)
        )
        await talk.hear(wire.FenceAnswer)
        assert agent.state.fence is not None
        assert agent.state.fence.token == 5
        await talk.say(wire.Unfence(7, "i-1"), wire.Fence(6, "old", "", False))
        await talk.hear(wire.FenceAnswer, lambda one: not one.fenced)
        assert agent.state.fence is None
        assert agent.state.highest_token == 7


async def test_a_hook_cut_off_by_a_crash_runs_at_the_next_start_and_only_then(world: World) -> None:
    state = AgentState(world.base / "state")
    state.set_fence(FenceState(3, "why", "i-1", 1), OwedHook(True, 3, "i-1", "why"))
    state.close()
    for _ in range(2):
        async with world.agent(hooks(world.base)) as agent:
            await until(lambda: told(world.base))
            await until(lambda: agent.state.owed_hook is None)
            assert agent.ready is not None
    assert told(world.base) == ["fenced 3"]


async def test_a_fence_that_can_not_be_recorded_is_in_force_and_answered_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("closeranks_agent.fence.RECORD_RETRY_S", 0.05)
    failing = True
    set_fence = AgentState.set_fence

    def sometimes(self: AgentState, fence: FenceState | None, owed: OwedHook | None = None) -> None:
        if failing:
            self._fence = fence or self._fence
            raise StateUnavailable(wire.Problem("no_space", "the disk is full"))
        set_fence(self, fence, owed)

    monkeypatch.setattr(AgentState, "set_fence", sometimes)
    async with world.agent(hooks(world.base)) as agent:
        talk = await connected(world)
        await talk.say(wire.Fence(3, "why", "i-1", False))
        await until(lambda: told(world.base))
        assert agent.ready is not None
        assert not talk.all(wire.FenceAnswer)
        failing = False
        await talk.hear(wire.FenceAnswer)
        assert agent.state.highest_token == 3
        failing = True
        await talk.say(wire.Unfence(3, "i-1"))
        await asyncio.sleep(0.2)
        assert agent.state.fence is not None, "what is not recorded does not lift a fence"
        failing = False
        await talk.hear(wire.FenceAnswer, lambda one: not one.fenced)
        assert agent.state.fence is None
    assert told(world.base) == ["fenced 3", "released 3"]


async def test_readiness_does_not_need_the_coordinator_once_it_was_known(world: World) -> None:
    async with world.agent() as agent:
        assert agent.ready is not None
        await until(lambda: agent.ready is None)
    port, world.port = world.port, 1
    async with world.agent() as agent:
        await until(lambda: agent.ready is None)
        assert not agent.link.connected
    world.port = port


async def test_the_membership_of_a_new_session_is_taken_whatever_its_term(world: World) -> None:
    member = wire.Member("n2", "127.0.0.1:2", False, True)
    async with world.agent() as agent:
        talk = await connected(world)
        await talk.say(wire.Membership(9, (member,), ()), wire.Membership(8, (), ()))
        await until(lambda: agent.state.membership_term == 9)
        await talk.socket.close()
        second = await world.coordinator.talk(1)
        await second.say(wire.Membership(1, (), ()), wire.Membership(2, (member,), ()))
        await until(lambda: agent.state.membership_term == 2)
        assert set(agent.members()) == {"n2"}


async def test_whom_it_has_served_is_shown_as_long_as_it_is_in_the_fleet(world: World) -> None:
    members = tuple(wire.Member(name, f"{name}:7342", False, True) for name in ("n2", "n3"))
    async with world.agent() as agent:
        await connected(world)
        for peer in ("n1", "n2"):
            agent.metrics.sent(peer, 5)
        await agent.order(wire.Membership(9, members, ()))
        agent.metrics.sent("n2", 1)
        (family,) = agent.metrics.served.collect()
    found = {one.labels["peer"]: one.value for one in family.samples if one.name.endswith("_total")}
    assert found == {"n2": 6.0}
