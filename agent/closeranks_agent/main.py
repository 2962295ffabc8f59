"""The agent's process: locks its state, listens, scans and streams, drains on SIGTERM.

Exit codes (RULES §5): 0 after SIGTERM, 1 fault, 2 configuration, 3 cannot listen, 4 state directory locked.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import threading
from pathlib import Path

import aiohttp
import uvloop
from aiohttp import web

from closeranks_proto import heap
from closeranks_proto.errors import CloseranksError, UserError
from closeranks_proto.limits import DRAIN_TIMEOUT_S

from .config import AgentConfig
from .disk.private import ensure_private
from .runtime import Agent
from .state import AgentState, StateLocked
from .web import build_app

log = logging.getLogger("closeranks.agent")

GARBAGE_OBJECTS = (
    10_000  # made since the last look for dead cycles: a megabyte or two, and half of the time for it
)
STOP_MAX_S = 9.5  # DRAIN_TIMEOUT_S and what closing the ports takes


def run(config: AgentConfig) -> int:
    """Run until SIGTERM or SIGINT; the exit code."""
    heap.settle()
    try:
        _check_volumes(config)
    except UserError as error:
        log.error("%s", error)
        return 2
    try:
        state = AgentState(Path(config.state_dir))
    except StateLocked as error:
        log.error("%s", error)
        return 4
    except (CloseranksError, OSError) as error:
        log.error("the state directory %s can not be used: %s", config.state_dir, error)
        return 1
    try:
        return uvloop.run(_main(config, state))
    finally:
        state.close()


async def _main(config: AgentConfig, state: AgentState) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0), trust_env=False
    ) as http:
        agent = Agent(config, state, http)
        loop.add_signal_handler(signal.SIGHUP, agent.reread)
        runner = web.AppRunner(build_app(agent), access_log=None, shutdown_timeout=2.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, config.listen.host, config.listen.port, reuse_address=True)
            await site.start()
        except OSError as error:
            log.error(
                "can not listen on %s: %s. Another program has this port, or the address is not this machine's: "
                "change [agent] listen.",
                config.listen,
                error.strerror or error,
            )
            await runner.cleanup()
            return 3
        port = runner.addresses[0][1]
        agent.address = _advertised(config, port)
        log.info("agent of %s listens on %s port %d (process ready)", config.node, config.listen.host, port)
        gc.freeze()  # what is loaded by now stays
        gc.set_threshold(GARBAGE_OBJECTS)
        try:
            return await _until_stopped(agent, stop)
        finally:
            await runner.cleanup()


async def _until_stopped(agent: Agent, stop: asyncio.Event) -> int:
    work = asyncio.create_task(agent.run())
    waiting = asyncio.create_task(stop.wait())
    tending = asyncio.create_task(heap.tend(asyncio.sleep, asyncio.to_thread, log.error))
    await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    tending.cancel()
    if work.done():
        agent.stop()
        fault = work.exception()
        setup = _user_error(fault)
        if setup is not None:
            log.error("%s", setup)
            return 2
        log.error("the agent stops because of a fault of its own", exc_info=fault)
        return 1
    log.info("stopping")
    _leave_in_time()
    agent.stop()
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError, TimeoutError):
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            await asyncio.gather(work, return_exceptions=True)
            await agent.close()
    log.info("stopped")
    return 0


def _leave_in_time() -> None:
    """SIGTERM ends the process within 10 s, also when a thread hangs in a dead file system.

    What was promised is on disk; the next start goes on from there.
    """

    def leave() -> None:
        log.warning("a disk or a peer did not answer in time; stopped without it")
        os._exit(0)

    watch = threading.Timer(STOP_MAX_S, leave)
    watch.daemon = True
    watch.start()


def _user_error(fault: BaseException | None) -> UserError | None:
    """The mistake in the set-up that ended the agent, if it was one."""
    if isinstance(fault, BaseExceptionGroup):
        return next((found for one in fault.exceptions if (found := _user_error(one)) is not None), None)
    return fault if isinstance(fault, UserError) else None


def _check_volumes(config: AgentConfig) -> None:
    """Before anything runs: no tree's private directory is somebody else's. Raises UserError."""
    for volume in config.volumes:
        try:
            root_fd = os.open(volume.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            log.warning("%s: %s can not be opened yet: %s", volume.name, volume.path, error.strerror)
            continue
        private = None if volume.private_dir is None else os.fsencode(volume.private_dir)
        try:
            ensure_private(root_fd, os.fsencode(volume.path), private, volume.name)
        except OSError as error:
            log.warning("%s: its private directory can not be made yet: %s", volume.name, error.strerror)
        finally:
            os.close(root_fd)


def _advertised(config: AgentConfig, port: int) -> str:
    """host:port for peers; ":port" where the coordinator must add the host that it sees."""
    if config.advertise is not None:
        return str(config.advertise)
    if config.listen.concrete:
        host = f"[{config.listen.host}]" if ":" in config.listen.host else config.listen.host
        return f"{host}:{port}"
    return f":{port}"
