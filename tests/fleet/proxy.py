"""A TCP door that counts: every byte of payload between an agent and its coordinator, by direction."""

from __future__ import annotations

import contextlib
import socket
import threading


class CountingProxy:
    """Listens on a free loopback port and passes connections on to `target`."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.up = 0  # bytes from those who dialled
        self.down = 0
        self.connections = 0
        self.blocked = False
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def reset(self) -> None:
        with self._lock:
            self.up = self.down = self.connections = 0

    @property
    def total(self) -> int:
        with self._lock:
            return self.up + self.down

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Break every connection, as a network would."""
        with self._lock:
            sockets = list(self._open)
        for peer in sockets:
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)

    def block(self) -> None:
        """Nobody passes until `unblock`: connections are cut, new ones ended at once."""
        self.blocked = True
        self.cut()

    def unblock(self) -> None:
        self.blocked = False

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # closed
            if self.blocked:
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self.target), timeout=5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            with self._lock:
                self.connections += 1
                self._open |= {near, far}
            for source, sink, way in ((near, far, "up"), (far, near, "down")):
                threading.Thread(target=self._pump, args=(source, sink, way), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        try:
            while data := source.recv(65536):
                with self._lock:
                    if way == "up":
                        self.up += len(data)
                    else:
                        self.down += len(data)
                sink.sendall(data)
        except OSError:
            pass  # the other side is gone; both ends are closed below
        for peer in (source, sink):
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open.discard(source)
        source.close()
