"""One seed of whole programs, from the first scan until the fleet has come back; ends the process."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from ..invariants import Violation, hold
from ..regressions import FOUND_BY_SHELLS
from . import kernel
from .drive import Drive, PowerCut
from .host import Host
from .later import Later, ask_for_trash
from .loop import Loop
from .world import ACCUSING, FILES, GOAL_MAX_S, NAMED_MAX_S, World

POLICIES = ("quorum", "writers", "any-writer")
PLACES = (*FILES, "a/new.jpg", "new/deep/file")
STORY_SHOWN = 40
LOST_S = 150.0  # until somebody gives up what an image has not got, and nobody else
FAULTS = (
    "cut",
    "part",
    "slow",
    "kill",
    "kill_coordinator",
    "clock",
    "slow_disk",
    "rogue",
    "trash",
    "power",
    "power_coordinator",
    "bad_disk",
)
# Those that came later have dice of their own, so that the worlds of older seeds stay what they were.
LATER = ("put_back", "index_lost", "collect")
LATER_SHARE = 0.2


def play(seed: int, story: bool, faults: frozenset[str] | None = None) -> None:
    """Prints one line of JSON, or why it failed, and leaves with 0 or 1: what is dead is never cleaned up."""
    gc.disable()  # what it would end, and when, must not depend on how much was allocated
    base = Path(tempfile.mkdtemp(prefix="closeranks-sim-", dir="/dev/shm"))
    loop = Loop(seed)
    rng = random.Random(f"{seed}/plan")
    skew_s: dict[str, float] = {}
    kernel.install(loop, seed, skew_s)
    asyncio.set_event_loop(loop)
    world = World(loop, base, seed, rng.choice(POLICIES), rng.choice((3, 3, 4, 5)), skew_s)
    chosen = frozenset(one for one in FAULTS if rng.random() < 0.5)
    later = Later(world, random.Random(f"{seed}/later"))
    coming = frozenset(one for one in LATER if later.rng.random() < LATER_SHARE)
    later.chosen = frozenset() if seed in FOUND_BY_SHELLS else coming
    if faults is not None:
        assert faults <= {*FAULTS, *LATER}, f"these are faults: {(*FAULTS, *LATER)}"
        chosen, later.chosen = faults.difference(LATER), faults.intersection(LATER)
    logging.getLogger().addHandler(world.faults)
    broken: list[BaseException] = []
    loop.set_exception_handler(lambda _, context: _note(world, broken, context))
    status = 0
    try:
        loop.run_until_complete(_play(world, chosen, later, broken))
        print(
            json.dumps(
                {"seed": seed, "seconds": loop.now - 1000.0, "digest": world.digest, "deeds": world.deeds}
            )
        )
    except BaseException as error:  # noqa: BLE001 - whatever it is, this process tells of it and ends
        status = 1
        only = "" if faults is None else f" SIM_ARGS='--faults {','.join(sorted(faults))}'"
        name = error.name if isinstance(error, Violation) else "no_fault_of_our_own"
        print(
            f"{name}: {error!r}\nagain: make sim-shells SEEDS={seed}-{seed}{only}\n{world.policy}, "
            f"{sorted(chosen | later.chosen)}"
        )
        print("\n".join(world.story[-STORY_SHOWN:]))
        if not isinstance(error, Violation):
            traceback.print_exc()
    if story:
        print("\n".join(world.story))
    shutil.rmtree(base, ignore_errors=True)
    sys.stdout.flush()
    os._exit(status)


def _note(world: World, broken: list[BaseException], context: dict[str, Any]) -> None:
    error = context.get("exception")
    if isinstance(error, PowerCut):
        return  # that is how somebody ends who was cut off
    if isinstance(error, AssertionError):
        broken.append(error)
    elif error is not None:
        world.faults.found.append(f"{context.get('message')}: {error!r}")


async def _play(world: World, chosen: frozenset[str], later: Later, broken: list[BaseException]) -> None:
    rng, loop = world.rng, world.loop
    world.start_coordinator()
    for host in world.hosts.values():
        host.start()
    await _until(world, broken, 60.0)
    hold("no_fault_of_our_own", world.steps, "the core takes its steps where nobody looks")
    world.note("all are in rank")
    end = loop.now + rng.choice((20.0, 40.0))
    while loop.now < end:
        await asyncio.sleep(rng.random() * 1.5)
        _deed(world, chosen)
        later.deed()
        _look(world, broken)
    world.note("the faults end")
    loop.network.heal()
    for drive in world.taps.drives.values():
        drive.fails = drive.cut_in = None
    for host in world.hosts.values():
        if host.process is None or host.process.dead:
            host.start()
        assert host.process is not None
        host.process.slow_s = 0.002
    if world.process is None or world.process.dead:
        world.start_coordinator()
    await _until(world, broken, GOAL_MAX_S)
    world.check_disks()
    world.check_accepted()
    world.note("all is well")
    if world.policy != "any-writer":
        await _corrupt(world, broken)


async def _corrupt(world: World, broken: list[BaseException]) -> None:
    """One file is changed where nobody may: it is named, and repaired."""
    host = world.hosts[world.names[-1]]
    name = next(one for one, (_, content) in host.files().items() if content)
    host.write(name, world.fresh("canary"))
    end = world.loop.now + NAMED_MAX_S
    while not any(
        one.kind in ACCUSING
        and one.node == host.name
        and name.replace("/", "\0").encode() in one.paths
        and one.is_open
        for one in world.core.incidents.values()
    ):
        hold("named_in_time", world.loop.now < end, f"{host.name} {name} is not named")
        await asyncio.sleep(0.2)
        _look(world, broken)
    await _until(world, broken, GOAL_MAX_S)


def _look(world: World, broken: list[BaseException]) -> None:
    for violation in (*world.violations, *world.promises.broken):
        raise violation
    if broken:
        raise broken[0]
    programs: list[World | Host] = [world, *world.hosts.values()]
    for one in programs:
        if one.work is not None and one.process is not None and not one.process.dead:
            error = kernel.ended(one.work)
            if error is not None:
                raise error
    world.check_faults()


async def _until(world: World, broken: list[BaseException], limit_s: float) -> None:
    """Until the goal, with people who do what the screen says."""
    end, lost_at = world.loop.now + limit_s, world.loop.now + LOST_S
    await asyncio.sleep(0.5)
    while not world.is_goal():
        if world.loop.now > end:
            hold("comes_back", False, f"after {limit_s:.0f} s: {'; '.join(world.stands())}")
        await asyncio.sleep(2.0)
        _look(world, broken)
        await world.attend()
        if world.deeds["put_back"] and world.loop.now > lost_at:
            await world.mourn()


def _deed(world: World, chosen: frozenset[str]) -> None:
    """Somebody does something, or something breaks."""
    rng, network = world.rng, world.loop.network
    host = world.hosts[rng.choice(world.names)]
    if rng.random() < 0.5:
        _write(world)
        return
    if not chosen:
        return
    deed = rng.choice(sorted(chosen))
    world.deeds[deed] += 1
    match deed:
        case "cut" if network.pipes:
            rng.choice(network.pipes).reset()
        case "part":
            pair = frozenset((host.name, rng.choice(("", *world.names))))
            network.parted.add(pair)
            world.note(f"{sorted(pair)} are parted")
            world.loop.call_later(10 * rng.random(), network.parted.discard, pair)
        case "slow":
            network.slow_s = rng.choice((0.0, 0.3))
        case "kill":
            if host.process is not None and not host.process.dead:
                host.kill()
                world.check_disks()
                world.note(f"{host.name} is killed")
                world.loop.call_later(0.2 + 5 * rng.random(), host.start)
        case "kill_coordinator":
            if world.coordinator is not None:
                world.kill_coordinator()
                world.loop.call_later(0.2 + 4 * rng.random(), world.start_coordinator)
        case "clock":
            world.skew_s[rng.choice(("", *world.names))] = rng.choice((-3600.0, -5.0, 5.0, 3600.0))
        case "slow_disk" if host.process is not None:
            host.process.slow_s = rng.choice((0.002, 0.3))
        case "power" if host.running is not None:
            names = rng.random() < 0.5
            host.drive.arm(rng.randint(1, 10 if names else 150), names)
        case "power_coordinator" if world.running is not None:
            world.drive.arm(rng.randint(1, 60), False)
        case "bad_disk":
            failing: World | Host = rng.choice((host, host, world))
            if failing.running is not None:  # a program that is about to start ends, and is started again
                _fail(world, failing.drive)
        case "trash" if world.coordinator is not None:
            ask_for_trash(world, host)
        case "rogue" if host.name not in world.writers:
            host.write(
                rng.choice(PLACES), world.fresh(f"rogue on {host.name}") if rng.random() < 0.7 else None
            )
        case _:
            pass


def _fail(world: World, drive: Drive) -> None:
    """Its calls fail for a while: all, or some of them."""
    drive.fails = world.rng.choice((errno.EIO, errno.ENOSPC))
    drive.share = world.rng.choice((0.02, 0.3, 1.0))
    world.note(f"{drive.base.rsplit('/', 1)[1]}: the disk says {errno.errorcode[drive.fails]}")

    def over() -> None:
        drive.fails = None

    world.loop.call_later(8 * world.rng.random(), over)


def _write(world: World) -> None:
    """What is meant: on a writer, or by the site on all nodes."""
    rng = world.rng
    name, content = rng.choice(PLACES), None if rng.random() < 0.2 else world.fresh("site")
    if world.writers:
        world.hosts[rng.choice(world.writers)].write(name, content)
    else:
        world.meant[name] = content
        for host in world.hosts.values():
            host.write(name, content)
