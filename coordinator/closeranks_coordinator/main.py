"""The coordinator's process: opens the store, listens, runs, drains on SIGTERM.

Exit codes (RULES §5): 0 after SIGTERM, 1 fault, 2 configuration, 3 cannot listen, 4 state directory locked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from pathlib import Path

import uvloop
from aiohttp import web

from closeranks_proto import heap
from closeranks_proto.errors import UserError
from closeranks_proto.kinds import Address
from closeranks_proto.limits import DRAIN_TIMEOUT_S

from . import gate
from .config import CoordinatorConfig
from .cycles import Collector
from .descriptors import raise_limit
from .runtime import Coordinator
from .storage.sqlite import open_store
from .storage.store import StateLocked, Store
from .web.app import build_app

log = logging.getLogger("closeranks.coordinator")

STOP_MAX_S = 9.5  # DRAIN_TIMEOUT_S and what closing the ports takes


def run(config: CoordinatorConfig) -> int:
    """Run until SIGTERM or SIGINT; the exit code."""
    heap.settle()
    return uvloop.run(_main(config))


async def _main(config: CoordinatorConfig) -> int:
    try:
        store = open_store(Path(config.state_dir), config.fleet.digest)
    except StateLocked as error:
        log.error("%s", error)
        return 4
    except (UserError, OSError) as error:
        log.error("the state directory %s can not be used: %s", config.state_dir, error)
        return 1
    try:
        return await _serve(config, store)
    finally:
        await store.close()


async def _serve(config: CoordinatorConfig, store: Store) -> int:
    loop = asyncio.get_running_loop()
    too_few = raise_limit(len(config.fleet.nodes))
    if too_few is not None:
        log.warning("%s", too_few)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    coordinator = Coordinator(config, store)
    loop.add_signal_handler(signal.SIGHUP, coordinator.reload_soon)
    agents_app = web.Application()
    agents_app.add_routes([*coordinator.sessions.routes(), *gate.routes(lambda: coordinator.fleet_config)])
    runners = [
        web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
        for app in (agents_app, build_app(coordinator))
    ]
    try:
        for runner, key in zip(runners, ("listen_agents", "listen_api"), strict=True):
            await runner.setup()
            address: Address = getattr(config, key)
            try:
                await web.TCPSite(runner, address.host, address.port, reuse_address=True).start()
            except OSError as error:
                log.error(
                    "can not listen on %s: %s. Another program has this port, or the address is not this "
                    "machine's: change [coordinator] %s.",
                    address,
                    error.strerror or error,
                    key,
                )
                return 3
            log.info("%s is %s port %d", key, address.host, runner.addresses[0][1])
        collector = Collector()
        collector.begin()
        coordinator.ready = True
        return await _until_stopped(coordinator, collector, stop)
    finally:
        await asyncio.gather(*(runner.cleanup() for runner in runners))


async def _until_stopped(coordinator: Coordinator, collector: Collector, stop: asyncio.Event) -> int:
    work = asyncio.create_task(coordinator.run())
    waiting = asyncio.create_task(stop.wait())
    heap_tended = heap.tend(asyncio.sleep, asyncio.to_thread, log.error)
    tending = [asyncio.create_task(one) for one in (heap_tended, collector.run())]
    await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
    for task in (waiting, *tending):
        task.cancel()
    if work.done():
        log.error("the coordinator stops because of a fault of its own", exc_info=work.exception())
        return 1
    log.info("stopping")
    _leave_in_time()
    coordinator.ready = False
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            await coordinator.sessions.drain()
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    log.info("stopped")
    return 0


def _leave_in_time() -> None:
    """SIGTERM ends the process within 10 s, also when a disk or a peer hangs: what was promised is on disk."""

    def leave() -> None:
        log.warning("a disk or a peer did not answer in time; stopped without it")
        os._exit(0)

    watch = threading.Timer(STOP_MAX_S, leave)
    watch.daemon = True
    watch.start()
