"""What a watcher's thread sleeps by: its source's queue, and a bell that any thread may ring."""

from __future__ import annotations

import os
import select
import threading


class Bell:
    """Of one thread, which waits; `ring` from any, also after `close`: a look may end late."""

    def __init__(self, queue: int) -> None:
        """Beside a descriptor that is polled for reading."""
        self._queue = queue
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._poll = select.poll()
        self._poll.register(queue, select.POLLIN)
        self._poll.register(self._fd, select.POLLIN)

    def wait(self, timeout_ms: float) -> bool:
        """Until the time is over, the bell has rung or something is queued: whether something is."""
        ready = {fd for fd, _ in self._poll.poll(timeout_ms)}
        if self._fd in ready:
            os.eventfd_read(self._fd)
        return self._queue in ready

    def ring(self) -> None:
        with self._lock:  # the number may be another file's afterwards
            if self._fd >= 0:
                os.eventfd_write(self._fd, 1)

    def close(self) -> None:
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
