"""The reading processes, as whoever has much to read sees them: questions go out, answers come in any order.

    with Readers(root_fd, setup) as readers:
        while work or readers.busy:
            while work and readers.has_room:
                readers.ask(DIRECTORIES, [key, ...], tag)
            for question, parts in readers.answers(0.1): ...

Processes start with the first question, one for each core that this process may use, and end with `close`: at
rest there are none. A program of one thread may fork them (`forked`, and `start` before it has a second thread),
which saves what a new interpreter takes to load; an agent has threads, and never forks. One that dies is replaced,
and what it was asked is asked again, alone and without mapping; what ends two readers is given back unanswered
(`parts` is None), and whoever asked reads it in its own way, which maps nothing. So nothing is lost and nothing
waits for ever. DEATHS_MAX ends the attempt: then everything comes back unanswered.

For a scrub: `Setup.keep_cache` leaves the page cache as it was found, `Setup.idle` takes only what nobody else
wants; `FILES` reads the names that are asked for; a limit is kept by asking at its pace (a question of 64
files is some 5 ms of reading).

One thread uses it, also to start them. The processes die with the thread that asks first, and with its process.
"""

from __future__ import annotations

import contextlib
import logging
import marshal
import os
import select
import signal
import socket
import struct
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Protocol

from .wire import FAULT, RANGES, RECEIVE_BYTES, UNDER_WAY, Setup, pack

log = logging.getLogger("closeranks.readers")

READERS_MAX: Final = 8  # more are of no use to one index
DEATHS_MAX: Final = 16
TRIES_MAX: Final = 2
_LENGTH: Final = struct.Struct("<Q")


@dataclass(slots=True)
class Question:
    """`tag` is the asker's. `tries` counts the readers that ended on it."""

    kind: int
    items: list[Any]
    tag: Any = None
    tries: int = 0


class _Process(Protocol):
    """What of `subprocess.Popen` is needed."""

    @property
    def pid(self) -> int: ...
    def kill(self) -> None: ...
    def wait(self) -> int: ...


@dataclass(frozen=True, slots=True)
class _Forked:
    """A child of this process that runs no other program."""

    pid: int

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)  # its number is nobody else's until `wait`

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@dataclass(slots=True, eq=False)
class _Reader:
    channel: socket.socket
    process: _Process
    asked: deque[Question] = field(default_factory=deque)
    buffer: bytearray = field(default_factory=bytearray)
    fault: str = ""  # of its own, as it said before it ended


class Readers:
    """Below one root, which stays the caller's and open, by one setup."""

    def __init__(self, root_fd: int, setup: Setup, count: int | None = None, forked: bool = False) -> None:
        self._root_fd, self.setup, self._forked = root_fd, setup, forked
        self._count = count or min(len(os.sched_getaffinity(0)), READERS_MAX)
        self._readers: list[_Reader] = []
        self._waiting: deque[Question] = deque()
        self._unanswered: deque[Question] = deque()
        self._deaths = 0
        self._inbox = memoryview(bytearray(RECEIVE_BYTES))

    def __enter__(self) -> Readers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        return [reader.process.pid for reader in self._readers]

    @property
    def count(self) -> int:
        """How many processes there are at most."""
        return self._count

    @property
    def busy(self) -> bool:
        """Whether an answer is still to come."""
        return bool(self._waiting or self._unanswered or any(reader.asked for reader in self._readers))

    @property
    def has_room(self) -> bool:
        """Whether another question would keep nobody waiting."""
        return len(self._waiting) < self._count

    def start(self) -> None:
        """Have them ready before the first question."""
        while len(self._readers) < self._count and self._deaths <= DEATHS_MAX:
            try:
                self._readers.append(self._start())
            except OSError as error:
                log.warning("no further process can be started to read with: %s", error)
                self._deaths = DEATHS_MAX + 1

    def ask(self, kind: int, items: list[Any], tag: Any = None) -> None:
        """At most QUESTION_MAX_BYTES of keys and names."""
        self._waiting.append(Question(kind, items, tag))
        self._hand_out()

    def answers(self, wait_s: float) -> Iterator[tuple[Question, Sequence[Any] | None]]:
        """What has come, after waiting at most that long for the first. None: no reader survived the question."""
        self._hand_out()
        found: list[tuple[Question, Sequence[Any] | None]] = []
        while self._unanswered:
            found.append((self._unanswered.popleft(), None))
        asked = {reader.channel.fileno(): reader for reader in self._readers if reader.asked}
        if asked:
            poll = select.poll()
            for fd in asked:
                poll.register(fd, select.POLLIN)
            for fd, _ in poll.poll(0 if found else int(wait_s * 1000)):
                found += self._receive(asked[fd])
        self._hand_out()
        yield from found

    def close(self) -> None:
        """End them. What was asked is forgotten."""
        for reader in self._readers:
            reader.channel.close()
            reader.process.kill()  # it holds nothing but descriptors
        for reader in self._readers:
            reader.process.wait()
        self._readers.clear()
        self._waiting.clear()
        self._unanswered.clear()

    # --- questions -----------------------------------------------------------------------------

    def _hand_out(self) -> None:
        while self._waiting:
            reader = self._free()
            if reader is None:
                return
            question = self._waiting.popleft()
            items = question.items
            if question.tries and question.kind == RANGES:
                items = [(*item[:-1], False) for item in items]  # nothing is mapped that has ended a reader
            reader.asked.append(question)
            try:
                reader.channel.sendall(pack((question.kind, items)))
            except OSError:
                self._lost(reader)

    def _free(self) -> _Reader | None:
        """A reader that can take a question. All start at once: the second would wait for the first one's answer."""
        self.start()
        if self._deaths > DEATHS_MAX:
            self._give_up()
            return None
        least = min(self._readers, key=lambda reader: len(reader.asked))
        return least if len(least.asked) < UNDER_WAY else None

    def _start(self) -> _Reader:
        channel, theirs = socket.socketpair()
        try:
            with theirs:
                if self._forked and threading.active_count() == 1:
                    process: _Process = self._fork(channel, theirs)
                else:
                    process = self._spawn(theirs)
        except OSError:
            channel.close()
            raise
        reader = _Reader(channel, process)
        with contextlib.suppress(OSError):  # it is found out when it is asked
            channel.sendall(pack(tuple(self.setup)))
        return reader

    def _spawn(self, theirs: socket.socket) -> _Process:
        import subprocess  # a fifth of what a short command takes to start

        words = [sys.executable, "-P", "-m", f"{__package__}.reader"]
        words += [str(theirs.fileno()), str(self._root_fd), str(os.getpid())]
        return subprocess.Popen(
            words, pass_fds=(theirs.fileno(), self._root_fd), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def _fork(self, channel: socket.socket, theirs: socket.socket) -> _Process:
        from . import reader  # loaded once, for all of them

        parent = os.getpid()
        pid = os.fork()
        if pid:
            return _Forked(pid)
        code = 1
        try:
            for ours in (channel, *(other.channel for other in self._readers)):
                ours.close()  # else it would not see the end of its own, nor the others of theirs
            code = reader.run(theirs, self._root_fd, parent)
        finally:
            os._exit(code)

    # --- answers -------------------------------------------------------------------------------

    def _receive(self, reader: _Reader) -> list[tuple[Question, Sequence[Any] | None]]:
        """The answers that are whole now."""
        try:
            count = reader.channel.recv_into(self._inbox)
        except OSError:
            count = 0
        if not count:
            self._lost(reader)
            return []
        buffer = reader.buffer
        buffer += self._inbox[:count]
        found: list[tuple[Question, Sequence[Any] | None]] = []
        at = 0
        while len(buffer) - at >= _LENGTH.size:
            end = at + _LENGTH.size + _LENGTH.unpack_from(buffer, at)[0]
            if len(buffer) < end:
                break
            with memoryview(buffer)[at + _LENGTH.size : end] as body:
                message = marshal.loads(body)
            if isinstance(message, tuple):
                assert message[0] == FAULT
                reader.fault = message[1]
            else:
                found.append((reader.asked.popleft(), message))
            at = end
        del buffer[:at]
        return found

    def _lost(self, reader: _Reader) -> None:
        """It ended. What it was working on is asked again, by itself; what waited behind that is not its fault."""
        self._readers.remove(reader)
        reader.channel.close()
        reader.process.kill()
        code = reader.process.wait()
        self._deaths += 1
        # A signal is expected, anything else is our fault.
        level = logging.INFO if code < 0 and not reader.fault else logging.WARNING
        told = reader.fault or _end_of(code)
        log.log(level, "a reading process ended (%s); what it was asked is asked again", told)
        culprits, others = list(reader.asked)[:1], list(reader.asked)[1:]
        self._waiting.extendleft(reversed(others))
        for question in culprits:
            question.tries += 1
            if question.tries >= TRIES_MAX and len(question.items) == 1:
                self._unanswered.append(question)
                continue
            # One by one, so that the next death names the item.
            for item in question.items:
                self._waiting.append(Question(question.kind, [item], question.tag, min(question.tries, 1)))

    def _give_up(self) -> None:
        for reader in list(self._readers):
            self._unanswered.extend(reader.asked)
            reader.channel.close()
            reader.process.kill()
            reader.process.wait()
        self._readers.clear()
        self._unanswered.extend(self._waiting)
        self._waiting.clear()


def _end_of(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit {code}"
