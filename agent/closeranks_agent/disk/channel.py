"""Messages between the agent and a process of its own over a socket pair: a length, then marshalled values.

Both ends are the same program, so the format needs no version. What a message holds is bounded by who sends it.
"""

from __future__ import annotations

import marshal
import socket
import struct
import subprocess
import sys
from typing import Any, Final

_HEADER: Final = struct.Struct("<Q")
_READ_BYTES: Final = 1 << 20


def receive(channel: socket.socket) -> Any:
    """One message; None where the other end is gone. Raises OSError."""
    header = channel.recv(_HEADER.size, socket.MSG_WAITALL)
    if len(header) < _HEADER.size:
        return None
    left = _HEADER.unpack(header)[0]
    parts: list[bytes] = []
    while left:
        part = channel.recv(min(left, _READ_BYTES))
        if not part:
            return None
        parts.append(part)
        left -= len(part)
    return marshal.loads(b"".join(parts))


def send(channel: socket.socket, message: tuple[Any, ...]) -> None:
    """Raises OSError."""
    body = marshal.dumps(message)
    channel.sendall(_HEADER.pack(len(body)) + body)


def start(module: str) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """A process that runs `module` with the number of its end as argument, and our end. Raises OSError."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError:
            ours.close()
            raise
    return ours, process


def own_end() -> socket.socket:
    """In such a process: its end."""
    return socket.socket(fileno=int(sys.argv[1]))
