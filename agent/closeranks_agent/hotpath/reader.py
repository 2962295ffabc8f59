"""The reading process: questions in, rows and digests out. Started or forked by `readers`, ends with its socket.

It is expected to die (a mapped file that shrinks, a bad sector below a mapping, the kernel short of memory); it
holds nothing that anybody would miss. It dies with whoever started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import socket
import sys
from typing import Any, Final

from closeranks_proto.paths import path_of

from ..beneath import open_beneath
from ..disk.listing import file_state
from ..disk.signature import clock_ns, pack_state
from .directory import FILE_FLAGS, DirectoryReader
from .large import HOLES_REST_NS
from .wire import DIRECTORIES, FAULT, FAULT_MAX_CHARS, FILES, GLANCES, RANGES, Setup, pack, receive

_PR_SET_PDEATHSIG: Final = 1
_IOPRIO_WHO_PROCESS, _IOPRIO_IDLE = 1, 3 << 13
_SYS_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30, "riscv64": 30}
_NICE: Final = 19
_libc = ctypes.CDLL(None, use_errno=True)


def answer(reader: DirectoryReader, root_fd: int, kind: int, items: list[Any]) -> list[Any]:
    """One answer for each item: what was found, or the number of the error that prevented it."""
    found: list[Any] = []
    for item in items:
        try:
            match kind:
                case _ if kind == DIRECTORIES:
                    found.append(tuple(reader.directory(item)))
                case _ if kind == FILES:
                    found.append(tuple(reader.files(*item)))
                case _ if kind == RANGES:
                    found.append(_range(reader, root_fd, *item))
                case _:
                    assert kind == GLANCES
                    found.append(reader.glance(item))
        except OSError as error:
            found.append(error.errno or -1)
    return found


def _range(
    reader: DirectoryReader, root_fd: int, key: bytes, signature: bytes, size: int, first: int, count: int,
    mapped: bool,
) -> bytes:  # fmt: skip
    """Chunk digests; b"" where the file is not what it was."""
    try:
        fd = open_beneath(root_fd, path_of(key), FILE_FLAGS | os.O_NOATIME)
    except PermissionError:
        fd = open_beneath(root_fd, path_of(key), FILE_FLAGS)
    try:
        _, *state = file_state(os.fstat(fd))
        if pack_state(*state) != signature:
            return b""
        chunk_bytes = reader.setup.chunk_bytes
        offset = first * chunk_bytes
        end = min(offset + count * chunk_bytes, size)
        rested = clock_ns() - state[2] > HOLES_REST_NS
        digests = reader.ranges.digests(fd, offset, end, mapped, rested)
        _, *state = file_state(os.fstat(fd))
        return digests if pack_state(*state) == signature else b""
    finally:
        os.close(fd)


def serve(channel: socket.socket, root_fd: int) -> None:
    """Answer until the other end closes."""
    given = receive(channel)
    if given is None:
        return
    setup = Setup(*given)
    if setup.idle:
        _yield_to_others()
    reader = DirectoryReader(setup, root_fd)
    gc.freeze()
    gc.disable()  # rows are no cycles, and looking for some among them takes a twentieth of the time
    while (question := receive(channel)) is not None:
        channel.sendall(pack(answer(reader, root_fd, *question)))


def _yield_to_others() -> None:
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    number = _SYS_IOPRIO_SET.get(os.uname().machine)
    if number is not None:
        _libc.syscall(
            ctypes.c_long(number),
            ctypes.c_int(_IOPRIO_WHO_PROCESS),
            ctypes.c_int(0),
            ctypes.c_int(_IOPRIO_IDLE),
        )


def run(channel: socket.socket, root_fd: int, parent: int) -> int:
    """Serve process `parent`, whose child this is, until it closes its end or is gone. The exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it decides
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return 0  # it was too late
    with channel:
        try:
            serve(channel, root_fd)
        except ConnectionError:
            return 0
        except Exception as error:  # noqa: BLE001 (it is told; a traceback of ours would be cut by our end)
            channel.sendall(pack((FAULT, _in_words(error)[:FAULT_MAX_CHARS])))
            return 1
    return 0


def _in_words(error: Exception) -> str:
    """What it is and where it came up; `traceback` would take longer to load than a reader does."""
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    assert where is not None
    module = os.path.basename(where.tb_frame.f_code.co_filename)
    return f"{type(error).__name__}: {error} ({module}, line {where.tb_lineno})"


def main() -> int:
    channel_fd, root_fd, parent = map(int, sys.argv[1:])
    return run(socket.socket(fileno=channel_fd), root_fd, parent)


if __name__ == "__main__":
    raise SystemExit(main())
