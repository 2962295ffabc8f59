"""Pausing and freezing: only where allowed, only what wrote, shown, recorded and undone. Own children only."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from closeranks_agent.config import AgentConfig
from closeranks_agent.disk.records import StateUnavailable
from closeranks_agent.hands import freezing, pausing, reactions
from closeranks_agent.hands.attribution import Attribution
from closeranks_agent.hands.processes import stat_of
from closeranks_agent.hands.reactions import Reactions
from closeranks_agent.state import AgentState, KeptHold, PausedProcess
from closeranks_proto import messages as wire
from closeranks_proto.parts import Hand
from link_world import World, config_of, until, world_of

BOTH = "[agent.reactions]\nallow_pause = true\nallow_freeze = true\n"
PAUSE = "[agent.reactions]\nallow_pause = true\n"


def hold(name: str = "h-1", volume: str = "photos", *, pause: bool = True, freeze: bool = False) -> wire.Hold:
    return wire.Hold(name, volume, "rate", "41 GB in 6 minutes", pause, freeze)


class Node:
    """Reactions over a real state, with the writers that a test names."""

    def __init__(self, base: Path, extra: str) -> None:
        self.base = base
        self.config: AgentConfig = config_of(base, 1, extra)
        self.state = AgentState(base / "state")
        self.attribution = Attribution()
        self.hands: list[Hand] = []
        self.said: list[wire.HoldAnswer] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.reactions = Reactions(self.state, lambda: self.config, self, self._post, self._spawn)

    def recent(self, volume: str, within_s: float) -> tuple[Hand, ...]:
        return tuple(self.hands) if volume == "photos" else ()

    def started(self, hand: Hand) -> int | None:
        return self.attribution.started(hand)

    def _post(self, message: wire.AgentMessage) -> None:
        assert isinstance(message, wire.HoldAnswer)
        self.said.append(message)

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.append(task)
        return task

    def wrote(self, pid: int) -> Hand:
        hand = self.attribution.of(pid)
        assert hand is not None
        self.hands.append(hand)
        return hand

    async def take(self, message: wire.Hold | wire.Unhold) -> str:
        """The answer in words."""
        await self.reactions.take(message)
        return self.said[-1].detail if self.said else ""

    def restart(self) -> Reactions:
        """A new agent process over the same state."""
        self.state.close()
        self.state = AgentState(self.base / "state")
        self.reactions = Reactions(self.state, lambda: self.config, self, self._post, self._spawn)
        return self.reactions


@pytest.fixture
async def make_node(tmp_path: Path) -> AsyncIterator[Callable[..., Node]]:
    made: list[Node] = []

    def make(extra: str = BOTH) -> Node:
        made.append(Node(tmp_path, extra))
        return made[-1]

    yield make
    for node in made:
        for task in node.tasks:
            task.cancel()
        await asyncio.gather(*node.tasks, return_exceptions=True)
        node.state.close()


@pytest.fixture
def child() -> Iterator[Callable[[], int]]:
    """Starts a process of the test's own, as a child of init's: none that this process started itself.

    An agent never pauses what it started, so the writer is started by a process that is not an ancestor.
    """
    pids: list[int] = []

    def start() -> int:
        program = (
            "import os, sys\n"
            "if os.fork(): os._exit(0)\n"
            "os.setsid()\n"
            "pid = os.fork()\n"
            "if pid: print(pid, flush=True); os._exit(0)\n"
            "os.dup2(os.open('/dev/null', os.O_RDWR), 1)\n"
            "os.execv('/bin/sleep', ['sleep', '120'])\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, check=True, start_new_session=True
        )
        pids.append(int(done.stdout))
        return pids[-1]

    yield start
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def is_stopped(pid: int) -> bool:
    found = stat_of(pid)
    return found is not None and found.state == "T"


# --- pausing -------------------------------------------------------------------------------------


async def test_writers_are_paused_and_go_on_when_the_hold_ends(
    make_node: Callable[..., Node], child: Callable[[], int]
) -> None:
    node, pid, other = make_node(), child(), child()
    await until(lambda: os.readlink(f"/proc/{pid}/exe").endswith("sleep"))
    hand = node.wrote(pid)
    said = await node.take(hold())
    await until(lambda: is_stopped(pid))
    assert not is_stopped(other), "it did not write"
    assert f"{pid} {hand.exe}" in said
    assert "SIGSTOP" in said
    assert [one.pid for one in node.state.holds[0].paused] == [pid]
    said = await node.take(wire.Unhold("h-1"))
    await until(lambda: not is_stopped(pid))
    assert f"{pid} {hand.exe}" in said
    assert "SIGCONT" in said
    assert node.state.holds == ()


async def test_nothing_is_paused_or_frozen_where_the_owner_does_not_allow_it(
    make_node: Callable[..., Node], child: Callable[[], int]
) -> None:
    node, pid = make_node(""), child()
    node.wrote(pid)
    said = await node.take(hold(freeze=True))
    assert "allow_pause = false" in said
    assert "allow_freeze = false" in said
    assert not is_stopped(pid)
    assert node.state.holds[0].paused == ()


async def test_a_hold_that_asks_for_neither_does_nothing_and_ends_with_an_answer(
    make_node: Callable[..., Node], child: Callable[[], int]
) -> None:
    node, pid = make_node(), child()
    node.wrote(pid)
    await node.reactions.take(hold(pause=False))
    assert node.said == []
    assert not is_stopped(pid)
    assert await node.take(wire.Unhold("h-1")) == "nothing had to be let go"


async def test_the_end_of_an_unknown_hold_is_answered_without_words(make_node: Callable[..., Node]) -> None:
    node = make_node()
    assert await node.take(wire.Unhold("h-9")) == ""
    assert [one.hold for one in node.said] == ["h-9"]


async def test_a_hold_of_a_disk_pauses_nobody(
    make_node: Callable[..., Node], child: Callable[[], int]
) -> None:
    node, pid = make_node(), child()
    node.wrote(pid)
    said = await node.take(hold(volume="", freeze=True))
    assert "the hold is of a disk" in said
    assert "no volume was frozen" in said
    assert not is_stopped(pid)


async def test_the_agent_its_ancestors_its_children_and_init_are_never_paused(
    make_node: Callable[..., Node],
) -> None:
    node = make_node()
    own = await asyncio.create_subprocess_exec("/bin/sleep", "60")
    try:
        node.wrote(os.getppid())
        node.wrote(own.pid)
        node.wrote(1)
        said = await node.take(hold())
        assert "no process was paused" in said
        assert f"{os.getppid()}" in said
        assert "this agent runs under it" in said
        assert "this agent started it" in said
        assert "the system's first process" in said
        assert not is_stopped(own.pid)
    finally:
        own.kill()
        await own.wait()
    itself = stat_of(os.getpid())
    assert itself is not None
    assert "runs under" in pausing.why_not(PausedProcess(os.getpid(), itself.started, ""))


@pytest.mark.skipif(not os.path.isdir("/proc/2"), reason="a pid namespace shows no kernel thread")
def test_a_kernel_thread_is_never_paused() -> None:
    found = stat_of(2)
    assert found is not None
    assert pausing.why_not(PausedProcess(2, found.started, "[kthreadd]")) == "it is the kernel's"


async def test_another_process_with_the_number_of_a_writer_is_not_touched(
    make_node: Callable[..., Node], child: Callable[[], int]
) -> None:
    node, pid = make_node(), child()
    node.wrote(pid)
    node.attribution._known[pid].started -= 1
    assert "it had ended" in await node.take(hold())
    assert not is_stopped(pid)
    found = stat_of(pid)
    assert found is not None
    os.kill(pid, signal.SIGSTOP)
    await until(lambda: is_stopped(pid))
    assert pausing.let_go(PausedProcess(pid, found.started - 1, "")) == "it had ended"
    assert is_stopped(pid)


async def test_what_somebody_else_had_stopped_stays_stopped(
    make_node: Callable[..., Node], child: Callable[[], int]
) -> None:
    node, pid = make_node(), child()
    node.wrote(pid)
    os.kill(pid, signal.SIGSTOP)
    await until(lambda: is_stopped(pid))
    assert "somebody else had stopped it" in await node.take(hold())
    await node.take(wire.Unhold("h-1"))
    assert is_stopped(pid)


async def test_a_process_that_two_holds_want_paused_goes_on_after_both(
    make_node: Callable[..., Node], child: Callable[[], int]
) -> None:
    node, pid = make_node(), child()
    node.wrote(pid)
    await node.take(hold("h-1"))
    await node.take(hold("h-2"))
    assert "another hold wants it paused" in await node.take(wire.Unhold("h-1"))
    await until(lambda: is_stopped(pid))  # on a busy machine it stands a moment after the signal
    await node.take(wire.Unhold("h-2"))
    await until(lambda: not is_stopped(pid))


async def test_a_repeated_hold_pauses_what_writes_now_and_keeps_the_rest(
    make_node: Callable[..., Node], child: Callable[[], int]
) -> None:
    node, first, second = make_node(), child(), child()
    node.wrote(first)
    await node.take(hold())
    node.wrote(second)
    said = await node.take(hold())
    assert f"{first} " in said
    assert f"{second} " in said
    await node.take(wire.Unhold("h-1"))
    await until(lambda: not is_stopped(first) and not is_stopped(second))


async def test_the_next_agent_process_lets_go_of_what_this_one_paused(
    make_node: Callable[..., Node], child: Callable[[], int]
) -> None:
    node, pid = make_node(), child()
    node.wrote(pid)
    await node.take(hold())
    await node.restart().resume()
    assert is_stopped(pid), "the hold stands"
    assert f"{pid} " in await node.take(wire.Unhold("h-1"))
    await until(lambda: not is_stopped(pid))


async def test_a_hold_that_the_coordinator_does_not_mention_is_announced_to_it(
    make_node: Callable[..., Node], child: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reactions, "ANNOUNCE_AFTER_S", 0.0)
    node, pid = make_node(), child()
    node.wrote(pid)
    await node.take(hold())
    node.said.clear()
    await node.restart().announce()
    assert [one.hold for one in node.said] == ["h-1"]
    assert f"{pid} " in node.said[0].detail
    monkeypatch.setattr(reactions, "ANNOUNCE_AFTER_S", 0.05)
    announcing = asyncio.create_task(node.reactions.announce())
    await asyncio.sleep(0)
    await node.take(hold())
    node.said.clear()
    await announcing
    assert node.said == [], "the coordinator has just told of it"


async def test_what_was_done_before_the_machine_started_anew_is_forgotten(
    make_node: Callable[..., Node], child: Callable[[], int]
) -> None:
    node, pid = make_node(), child()
    found = stat_of(pid)
    assert found is not None
    paused = (PausedProcess(pid, found.started, "x"),)
    node.state.set_holds((KeptHold("h-1", "photos", "rate", "why", "another boot", paused),))
    await node.reactions.resume()
    assert node.state.holds == ()


async def test_a_permission_that_is_taken_back_lets_go(
    make_node: Callable[..., Node], child: Callable[[], int]
) -> None:
    node, pid = make_node(), child()
    node.wrote(pid)
    await node.take(hold())
    node.config = config_of(node.base, 1, "")
    await node.reactions.permits_changed()
    await until(lambda: not is_stopped(pid))
    assert node.state.holds[0].paused == ()


async def test_nothing_is_paused_that_can_not_be_recorded(
    make_node: Callable[..., Node], child: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, pid = make_node(), child()
    node.wrote(pid)

    def full(*_: object) -> None:
        raise StateUnavailable(wire.Problem("no_space", "the disk is full"))

    monkeypatch.setattr(node.state, "set_holds", full)
    said = await node.take(hold())
    assert "the disk is full" in said
    assert not is_stopped(pid)


async def test_holds_are_bounded_and_idle_ones_give_way(make_node: Callable[..., Node]) -> None:
    node = make_node()
    for number in range(reactions.HOLDS_MAX + 5):
        await node.reactions.take(hold(f"h-{number}", pause=False))
    assert len(node.state.holds) == reactions.HOLDS_MAX
    assert node.state.holds[-1].hold == f"h-{reactions.HOLDS_MAX + 4}"
    busy = tuple(msgspec.structs.replace(one, frozen="/srv") for one in node.state.holds)
    node.state.set_holds(busy)
    assert "holds stand on this node already" in await node.take(hold("h-more"))
    node.state.set_holds(())


async def test_a_process_that_ends_while_paused_is_told(
    make_node: Callable[..., Node], child: Callable[[], int]
) -> None:
    node, pid = make_node(), child()
    node.wrote(pid)
    await node.take(hold())
    os.kill(pid, signal.SIGKILL)
    await until(lambda: (found := stat_of(pid)) is None or found.state == "Z")
    assert "it had ended" in await node.take(wire.Unhold("h-1"))


# --- hooks ---------------------------------------------------------------------------------------


async def test_hooks_are_told_of_a_hold_and_its_end_once_each(
    make_node: Callable[..., Node], tmp_path: Path
) -> None:
    told = tmp_path / "told"
    words = "$0 $CLOSERANKS_NODE $CLOSERANKS_HOLD $CLOSERANKS_GUARD $CLOSERANKS_VOLUME $CLOSERANKS_REASON"
    hooks = "".join(
        f"{key} = ['/bin/sh', '-c', 'echo \"{words}\" >> {told}', '{key}']\n"
        for key in ("on_hold", "on_unhold")
    )
    node = make_node(f"[agent.hooks]\n{hooks}")
    for message in (hold(pause=False), hold(pause=False), wire.Unhold("h-1"), wire.Unhold("h-1")):
        await node.reactions.take(message)
    await asyncio.gather(*node.tasks)
    assert told.read_text().splitlines() == [
        "on_hold n1 h-1 rate photos 41 GB in 6 minutes",
        "on_unhold n1 h-1 rate photos 41 GB in 6 minutes",
    ]
    assert any("hook /bin/sh ran" in one.detail for one in node.said)


# --- freezing ------------------------------------------------------------------------------------


async def test_a_volume_that_is_no_mount_of_its_own_can_not_be_frozen(make_node: Callable[..., Node]) -> None:
    node = make_node()
    said = await node.take(hold(pause=False, freeze=True))
    assert "it is not a mount of its own" in said
    assert node.state.holds[0].frozen == ""
    assert os.access(node.base / "tree", os.W_OK)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """The volume's tree as a mount of its own, with an option that must survive."""
    from fleet.tmpfs import Tmpfs

    with Tmpfs(tmp_path / "tree", 1 << 20) as mount:
        subprocess.run(["mount", "-o", "remount,bind,nosuid,noatime", str(mount.path)], check=True)
        yield mount.path
        subprocess.run(["mount", "-o", "remount,bind,rw", str(mount.path)], check=False)


def can_write(place: Path) -> bool:
    try:
        (place / "new").write_bytes(b"x")
    except OSError:
        return False
    return True


@pytest.mark.root
async def test_a_volume_is_frozen_and_thawed(make_node: Callable[..., Node], mounted: Path) -> None:
    node = make_node()
    said = await node.take(hold(pause=False, freeze=True))
    assert f"{mounted} is mounted read-only" in said
    assert "a repair has to wait" in said
    assert not can_write(mounted)
    said = await node.take(wire.Unhold("h-1"))
    assert "is writable again" in said
    assert can_write(mounted)
    mount = freezing.mount_at(str(mounted))
    assert mount is not None
    assert {"nosuid", "noatime"} <= set(mount.options)


@pytest.mark.root
async def test_the_next_agent_process_thaws_what_this_one_froze(
    make_node: Callable[..., Node], mounted: Path
) -> None:
    node = make_node()
    await node.take(hold(pause=False, freeze=True))
    await node.restart().resume()
    assert not can_write(mounted)
    await node.take(wire.Unhold("h-1"))
    assert can_write(mounted)


@pytest.mark.root
async def test_a_volume_that_two_holds_freeze_is_thawed_after_both(
    make_node: Callable[..., Node], mounted: Path
) -> None:
    node = make_node()
    await node.take(hold("h-1", pause=False, freeze=True))
    await node.take(hold("h-2", pause=False, freeze=True))
    assert "another hold wants it read-only" in await node.take(wire.Unhold("h-1"))
    assert not can_write(mounted)
    await node.take(wire.Unhold("h-2"))
    assert can_write(mounted)


@pytest.mark.root
async def test_what_was_read_only_already_stays_so(make_node: Callable[..., Node], mounted: Path) -> None:
    node = make_node()
    await asyncio.to_thread(freezing.freeze, str(mounted))
    assert "it was read-only already" in await node.take(hold(pause=False, freeze=True))
    await node.take(wire.Unhold("h-1"))
    assert not can_write(mounted)


@pytest.mark.root
async def test_a_volume_with_a_file_open_for_writing_is_frozen_when_it_is_closed(
    make_node: Callable[..., Node], mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reactions, "FREEZE_RETRY_S", 0.02)
    node = make_node()
    with (mounted / "open").open("wb"):
        assert "not frozen yet" in await node.take(hold(pause=False, freeze=True))
        assert node.state.holds[0].frozen == ""
        assert can_write(mounted)
    await until(lambda: node.state.holds[0].frozen)
    await until(lambda: "is mounted read-only" in node.said[-1].detail)
    assert not can_write(mounted)
    await node.take(wire.Unhold("h-1"))
    assert can_write(mounted)


@pytest.mark.root
async def test_a_hold_that_ends_before_it_could_freeze_freezes_nothing_later(
    make_node: Callable[..., Node], mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reactions, "FREEZE_RETRY_S", 0.02)
    node = make_node()
    with (mounted / "open").open("wb"):
        await node.take(hold(pause=False, freeze=True))
        await node.take(wire.Unhold("h-1"))
    await asyncio.gather(*node.tasks)
    assert can_write(mounted)


@pytest.mark.root
async def test_a_busy_volume_is_asked_by_one_task_however_often_its_hold_is_repeated(
    make_node: Callable[..., Node], mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each session repeats the holds that stand, and one task for each of them would go on until the volume rests."""
    monkeypatch.setattr(reactions, "FREEZE_RETRY_S", 0.02)
    node = make_node()

    def asking() -> int:
        return sum("_freeze_later" in repr(task.get_coro()) for task in node.tasks if not task.done())

    with (mounted / "open").open("wb"):
        for _ in range(5):
            assert "not frozen yet" in await node.take(hold(pause=False, freeze=True))
        assert asking() == 1
        await node.take(wire.Unhold("h-1"))
        await until(lambda: not asking())
        assert "not frozen yet" in await node.take(hold("h-1", pause=False, freeze=True))
        assert asking() == 1, "a hold that comes again is tried again"


@pytest.mark.root
async def test_a_volume_that_leaves_the_configuration_is_not_frozen_any_more(
    make_node: Callable[..., Node], mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reactions, "FREEZE_RETRY_S", 0.02)
    node = make_node()
    with (mounted / "open").open("wb"):
        await node.take(hold(pause=False, freeze=True))
        node.config = replace(node.config, volumes=())
        await asyncio.gather(*node.tasks)
    assert can_write(mounted)


# --- in an agent ---------------------------------------------------------------------------------


async def test_an_agent_answers_a_hold_in_words(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await _hold_and_answer(world)


async def _hold_and_answer(world: World) -> None:
    async with world.agent(PAUSE):
        talk = await world.coordinator.talk(0)
        await talk.hear(wire.Beat)
        await talk.say(hold(freeze=True))
        answer = await talk.hear(wire.HoldAnswer)
        assert answer.hold == "h-1"
        assert "no writing process is known" in answer.detail
        assert "allow_freeze = false" in answer.detail
        await talk.say(wire.Unhold("h-1"))
        await talk.hear(wire.HoldAnswer, lambda one: one.detail == "nothing had to be let go")
