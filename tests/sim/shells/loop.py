"""An event loop on invented time, with a network in memory and threads that are none.

Whoever waits lets time pass at once: the loop's selector never waits, it advances the clock. Work for executors is
done on the loop after a seeded delay, in its order where the executor has one thread. Everything that a process of a
node has planned carries that process in its context; once it is killed, none of it happens.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import itertools
import random
import selectors
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

EVENTS_MAX = 20_000_000


class Process:
    """One process of one node (or of the coordinator: "")."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.dead = False
        self.slow_s = 0.002  # what a piece of a thread's work may take


PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


_numbers = itertools.count()


class _Task(asyncio.Task[Any]):
    """Tasks stand in sets, whose order follows their hash: by number, not by where they lie in memory."""

    def __init__(self, *args: Any, **more: Any) -> None:
        self._number = next(_numbers)
        super().__init__(*args, **more)

    def __hash__(self) -> int:
        return self._number


class _Future(asyncio.Future[Any]):
    """Futures likewise."""

    def __init__(self, *args: Any, **more: Any) -> None:
        self._number = next(_numbers)
        super().__init__(*args, **more)

    def __hash__(self) -> int:
        return self._number


class _Selector(selectors.SelectSelector):
    """Never waits: it lets time pass."""

    loop: Loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits for ever"
        if timeout > 0:
            self.loop.now += timeout
        return []


class Loop(asyncio.SelectorEventLoop):
    """`now` is in seconds of the simulated world."""

    def __init__(self, seed: int) -> None:
        selector = _Selector()
        selector.loop = self
        self.now = 1000.0
        self.rng = random.Random(f"{seed}/loop")
        self.network = Network(self)
        self.handled = 0
        self._free: dict[int, float] = {}  # by executor: when its one thread has done what it has
        super().__init__(selector)
        self.set_task_factory(lambda loop, coro, **more: _Task(coro, loop=loop, **more))

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(loop=self)

    def time(self) -> float:
        return self.now

    def _alive(self, callback: Callable[..., Any], context: contextvars.Context | None) -> Callable[..., Any]:
        process = PROCESS.get() if context is None else context.get(PROCESS)
        if process is None:
            return callback

        def call(*args: Any) -> None:
            self.handled += 1
            if not process.dead:
                callback(*args)

        return call

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        return super().call_soon(self._alive(callback, context), *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return super().call_at(when, self._alive(callback, context), *args, context=context)

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = self.create_future()
        process = PROCESS.get()
        delay = self.rng.random() * (0.002 if process is None else process.slow_s)
        at = self.now + delay
        if isinstance(executor, ThreadPoolExecutor) and executor._max_workers == 1:
            at = self._free[id(executor)] = max(self._free.get(id(executor), 0.0), self.now) + delay

        def work() -> None:
            if answer.cancelled():
                return
            try:
                result = func(*args)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - whoever waits gets it
                if not answer.done():
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(result)

        self.call_at(at, work)
        return answer

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:
        return self.network.listen(protocol_factory, str(host), int(port))

    async def connect(
        self, factory: Callable[[], asyncio.Protocol], host: str, port: int
    ) -> asyncio.Protocol:
        return await self.network.connect(factory, host, port)


class Network:
    """Hosts by address; who is parted from whom; how long bytes are on their way."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.servers: dict[tuple[str, int], Server] = {}
        self.hosts: dict[str, str] = {}  # node to address
        self.parted: set[frozenset[str]] = set()  # of nodes, in both directions
        self.slow_s = 0.0
        self.pipes: list[Pipe] = []

    def delay(self) -> float:
        return 0.0005 + self.loop.rng.random() * (0.002 + self.slow_s)

    def passes(self, one: str, other: str) -> bool:
        return frozenset((one, other)) not in self.parted

    def listen(self, factory: Callable[[], asyncio.Protocol], host: str, port: int) -> Server:
        if (host, port) in self.servers:
            raise OSError(errno.EADDRINUSE, "somebody listens there")
        server = self.servers[host, port] = Server(self, factory, host, port)
        return server

    async def connect(
        self, factory: Callable[[], asyncio.Protocol], host: str, port: int
    ) -> asyncio.Protocol:
        source = PROCESS.get()
        await asyncio.sleep(self.delay())
        server = self.servers.get((host, port))
        if server is None or server.process is None or server.process.dead:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens there")
        assert source is not None, "a node dials"
        if not self.passes(source.node, server.process.node):
            await asyncio.sleep(30.0)
            raise TimeoutError
        mine, theirs = factory(), server.context.run(server.factory)
        pipe = Pipe(self, (source, server.process))
        near = Transport(pipe, 0, mine, contextvars.copy_context(), (host, port))
        far = Transport(
            pipe, 1, theirs, server.context.copy(), (self.hosts.get(source.node, "10.9.9.9"), 40000)
        )
        pipe.ends = (near, far)
        self.pipes.append(pipe)
        mine.connection_made(near)
        self.loop.call_soon(theirs.connection_made, far, context=far.context)
        return mine

    def killed(self, process: Process) -> None:
        """Its kernel closes what it had open."""
        for address, server in list(self.servers.items()):
            if server.process is process:
                del self.servers[address]
        for pipe in [one for one in self.pipes if process in one.processes]:
            pipe.reset()

    def heal(self) -> None:
        self.parted.clear()
        self.slow_s = 0.0
        for pipe in list(self.pipes):
            pipe.push()


class Pipe:
    """One connection. Bytes come in order; a parted one holds them back."""

    def __init__(self, network: Network, processes: tuple[Process, Process]) -> None:
        self.network, self.processes = network, processes
        self.ends: tuple[Transport, Transport] = ()  # type: ignore[assignment]
        self.flight: tuple[list[tuple[float, bytes | None]], ...] = ([], [])  # by receiver; None: the end
        self.last = [0.0, 0.0]
        self.open = True

    def send(self, to: int, data: bytes | None) -> None:
        if self.processes[1 - to].dead:
            return  # cut off in the middle of what it did
        loop = self.network.loop
        at = self.last[to] = max(self.last[to], loop.now + self.network.delay())
        self.flight[to].append((at, data))
        loop.call_at(at, self.push, context=contextvars.Context())

    def push(self) -> None:
        if not self.network.passes(*(one.node for one in self.processes)):
            return
        for to in (0, 1):
            flight, end = self.flight[to], self.ends[to]
            while self.open and flight and flight[0][0] <= self.network.loop.now and not end.paused:
                _, data = flight.pop(0)
                if data is None:
                    end.over(None)
                elif not self.processes[to].dead:
                    end.context.copy().run(end.protocol.data_received, data)

    def reset(self) -> None:
        """It breaks: both ends lose what is under way."""
        if self.open:
            self.open = False
            for end in self.ends:
                end.over(ConnectionResetError(errno.ECONNRESET, "the connection was reset"))


class Transport(asyncio.Transport):
    """One end of a pipe."""

    def __init__(
        self,
        pipe: Pipe,
        side: int,
        protocol: asyncio.Protocol,
        context: contextvars.Context,
        peer: tuple[str, int],
    ) -> None:
        super().__init__({"peername": peer, "sockname": ("", 0)})
        self.pipe, self.side, self.protocol, self.context = pipe, side, protocol, context
        self.paused = self.closing = self.gone = False

    def write(self, data: Any) -> None:
        if not self.closing and not self.gone:
            self.pipe.send(1 - self.side, bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            self.pipe.send(1 - self.side, None)
            self.over(None)

    def abort(self) -> None:
        self.pipe.reset()

    def over(self, error: Exception | None) -> None:
        """This end learns that it is over."""
        if self.gone:
            return
        self.gone = self.closing = True
        if all(end.gone for end in self.pipe.ends) and self.pipe in self.pipe.network.pipes:
            self.pipe.network.pipes.remove(self.pipe)
        self.pipe.network.loop.call_soon(self.protocol.connection_lost, error, context=self.context.copy())

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False
        self.pipe.network.loop.call_soon(self.pipe.push, context=contextvars.Context())

    def is_reading(self) -> bool:
        return not self.paused

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is always room."""

    def can_write_eof(self) -> bool:
        return False

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol  # type: ignore[assignment]


class _Socket:
    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address

    def getsockname(self) -> tuple[str, int]:
        return self._address


class Server:
    """Somebody who listens."""

    def __init__(
        self, network: Network, factory: Callable[[], asyncio.Protocol], host: str, port: int
    ) -> None:
        self.network, self.factory = network, factory
        self.address = (host, port)
        self.context = contextvars.copy_context()
        self.process = PROCESS.get()
        self.sockets = [_Socket(self.address)]

    def close(self) -> None:
        self.network.servers.pop(self.address, None)

    def close_clients(self) -> None:
        """Those that are left end by themselves."""

    def is_serving(self) -> bool:
        return self.address in self.network.servers

    async def wait_closed(self) -> None:
        """It has closed."""
