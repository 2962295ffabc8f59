"""What a kernel gives to a process, simulated: clocks by node, threads, a store's writer, a disk's size.

Installed once in a process that plays one seed. File systems are real (below /dev/shm): their own stamps come from the
real clock, so nothing may be concluded from them. Every file counts as written a moment ago, and is read by each scan.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import queue
import random
import secrets
import threading
import time
import types
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from aiohttp import connector

from closeranks_agent.converge import rounds, workbench
from closeranks_agent.disk import hashing, look, saying, signature, worker
from closeranks_agent.hands import disks
from closeranks_agent.scrub import scrubber
from closeranks_coordinator.storage import sqlite, writer

from .loop import PROCESS, Loop

WALL = 1_700_000_000.0
_REAL = {name: getattr(time, name) for name in ("monotonic", "time")}


def install(loop: Loop, seed: int, skew_s: dict[str, float]) -> None:
    """From now on this process lives on the loop's time."""

    def monotonic() -> float:
        return loop.now

    def wall() -> float:
        process = PROCESS.get()
        return WALL + loop.now + skew_s.get(process.node if process else "", 0.0)

    fakes: dict[str, Callable[..., Any]] = {
        "monotonic": monotonic, "time": wall, "monotonic_ns": lambda: int(monotonic() * 1e9),
        "time_ns": lambda: int(wall() * 1e9), "clock_gettime_ns": lambda _: int(wall() * 1e9),
    }  # fmt: skip
    _put(time, **fakes)
    _replace_defaults({_REAL["monotonic"]: monotonic, _REAL["time"]: wall})
    for module in (look, hashing, signature):
        _put(module, is_settled=lambda _ctime_ns, _read_at_ns: False)
    _put(disks, _look=lambda path: (Path(path).stat().st_dev, 10**12, 9 * 10**11))
    _put(os, statvfs=_of_a_fixed_size(os.statvfs), fstatvfs=_of_a_fixed_size(os.fstatvfs))
    _put(saying, threading=types.SimpleNamespace(Thread=_Thread, Lock=threading.Lock))
    _put(disks, threading=types.SimpleNamespace(Thread=_Thread, Lock=threading.Lock))
    _put(scrubber, threading=_threads_that_do_nothing())
    _put(writer, threading=_threads_that_do_nothing())
    for module in (worker, rounds, workbench):
        _put(module, ThreadPoolExecutor=_executor_on(loop))
    _put(connector, monotonic=monotonic)
    _put(sqlite, Writer=_writer_on(loop))
    dice = random.Random(f"{seed}/secrets")
    _put(secrets, token_hex=lambda count=16: dice.randbytes(count).hex())
    random.seed(seed)
    _seed_unseeded(seed)


def _put(place: object, **what: object) -> None:
    """In place of what a module has under these names. What has moved elsewhere would go on as it was."""
    for name, value in what.items():
        assert hasattr(place, name), f"{place} has no {name} to be replaced"
        setattr(place, name, value)


def _of_a_fixed_size(real: Callable[..., os.statvfs_result]) -> Callable[..., os.statvfs_result]:
    """The disk below is everybody's: an agent tells of its room when that changes by a hundredth, whoever took it."""

    def look(path: Any) -> os.statvfs_result:
        is_so = real(path)
        blocks = 10**12 // is_so.f_frsize
        free = blocks * 9 // 10
        return os.statvfs_result((*is_so[:2], blocks, free, free, *is_so[5:], is_so.f_fsid))

    return look


def _seed_unseeded(seed: int) -> None:
    """Dice that the shells make without a seed get one."""
    real, count = random.Random, iter(range(10**9))

    class Seeded(real):  # type: ignore[misc,valid-type]
        def __init__(self, given: Any = None) -> None:
            super().__init__(f"{seed}/{next(count)}" if given is None else given)

    _put(random, Random=Seeded)


def _replace_defaults(changes: dict[Any, Any]) -> None:
    """Functions that took a clock as a default have kept the real one."""
    for function in [one for one in gc.get_objects() if inspect.isfunction(one)]:
        if not (function.__module__ or "").startswith("closeranks_"):
            continue
        if function.__defaults__:
            function.__defaults__ = tuple(_changed(one, changes) for one in function.__defaults__)
        if function.__kwdefaults__:
            function.__kwdefaults__ = {
                key: _changed(one, changes) for key, one in function.__kwdefaults__.items()
            }


def _changed(value: Any, changes: dict[Any, Any]) -> Any:
    return next((new for old, new in changes.items() if value is old), value)


class _Thread:
    """A thread whose work is done when it is started."""

    def __init__(self, target: Callable[..., None], args: tuple[Any, ...] = (), **_: Any) -> None:
        self._target, self._args = target, args

    def start(self) -> None:
        self._target(*self._args)

    def join(self, timeout: float | None = None) -> None:
        """It has ended."""


def _threads_that_do_nothing() -> types.SimpleNamespace:
    class Idle(_Thread):
        def start(self) -> None:
            """What it would do is done elsewhere, or not at all."""

        def is_alive(self) -> bool:
            return False

    names = {name: getattr(threading, name) for name in ("Lock", "RLock", "Event", "Condition", "get_ident")}
    return types.SimpleNamespace(Thread=Idle, **names)


def _executor_on(loop: Loop) -> type[ThreadPoolExecutor]:
    class OnLoop(ThreadPoolExecutor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            asked: Future[Any] = Future()
            if self._shutdown:
                raise RuntimeError("cannot schedule new futures after shutdown")

            def work() -> None:
                if not asked.set_running_or_notify_cancel():
                    return
                try:
                    asked.set_result(fn(*args, **kwargs))
                except BaseException as error:  # noqa: BLE001 - whoever waits gets it
                    asked.set_exception(error)

            loop.run_in_executor(self, work)
            return asked

    return OnLoop


def _writer_on(loop: Loop) -> type[writer.Writer]:
    """The store's writer: the same code on the loop, where a transaction takes a moment."""

    class Queue(queue.SimpleQueue[Any]):
        def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
            super().put(item)
            process = PROCESS.get()
            loop.call_later(loop.rng.random() * (process.slow_s if process else 0.002), self.drain)

        drain: Callable[[], None]

    class OnLoop(writer.Writer):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self._queue = Queue()
            self._queue.drain = self._drain
            self._is_closed = False

        def _drain(self) -> None:
            while not self._is_closed:
                try:
                    first = self._queue.get_nowait()
                except queue.Empty:
                    return
                if first is None:
                    self._end()
                elif isinstance(first, writer._Call):
                    first.run(self._connection)
                else:
                    after: Any = self._write_group(self._gather(first))
                    if isinstance(after, writer._Call):
                        after.run(self._connection)
                    elif after is not None:
                        self._end()

        def _end(self) -> None:
            self._is_closed = True
            self._connection.close()

        def close(self) -> None:
            self._drain()
            if not self._is_closed:
                self._end()

    return OnLoop


def ended(task: asyncio.Task[Any]) -> BaseException | None:
    """What a task ended with, if it did."""
    return task.exception() if task.done() and not task.cancelled() else None
