"""Which of a volume's durable steps may be told: those whose number stands beside the files as well.

The index lies in the state directory, its witness on the data disk. A data disk that stands still may hold up who
wrote to it, but neither who asks the index nor the beats that say that this node lives. So a number is written beside
the files after the index's lock is free again, and until then nobody hears of the step. Who is killed in between has
told nobody either: the next start writes the number before anything is sent (`begin`).

A number that can not be written is told all the same: one that is too low does no harm but where the state directory
alone is put back. Rejected: writing it under the lock (a frozen disk made its node look silent).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from .witness import Witness

log = logging.getLogger("closeranks.history")

WAIT_S: Final = 0.2  # a disk that moves takes microseconds


class Saying:
    """Any thread. Whoever holds the index's lock calls `durable` alone, which never waits."""

    def __init__(self, volume: str, seq: int) -> None:
        self._volume = volume
        self._lock = threading.Lock()  # one number after the other is written
        self._durable = self._said = seq
        self._witness: Witness | None = None
        self._written = -1  # what the witness says
        self._why_not = ""  # why it could not be told last
        self._apart = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def is_witnessed(self) -> bool:
        """Whether there is a witness."""
        return self._witness is not None

    @property
    def said(self) -> int:
        """Up to this number steps may be told."""
        return self._said

    def begin(self, witness: Witness) -> None:
        """From now on numbers stand there too, the last one at once. Raises OSError."""
        with self._lock:
            seq = self._durable
            witness.begin(seq)
            self._witness, self._written = witness, seq

    def durable(self, seq: int) -> None:
        """The last step in the index has this number."""
        self._durable = seq

    def say(self) -> None:
        """What is durable may be told, as soon as its number stands beside the files."""
        with self._lock:
            seq = self._durable
            if self._witness is not None and self._written != seq:
                try:
                    self._witness.tell(seq)
                except OSError as error:
                    self.not_kept(error)
                else:
                    self._written, self._why_not = seq, ""
            self._said = seq

    def say_apart(self, then: Callable[[], None]) -> None:
        """The same for who must not wait for a disk: on a thread of its own, WAIT_S are waited for it, then `then`."""
        with self._apart:
            if self._thread is not None:
                return  # it goes on until nothing is left
            name = f"saying-{self._volume}"
            thread = self._thread = threading.Thread(
                target=self._say_all, args=(then,), name=name, daemon=True
            )
        thread.start()
        thread.join(WAIT_S)

    def _say_all(self, then: Callable[[], None]) -> None:
        while True:
            self.say()
            with self._apart:
                if self._said == self._durable:
                    self._thread = None
                    break
        then()

    def not_kept(self, error: OSError) -> None:
        """The next step, or scan, tries again."""
        if str(error) != self._why_not:
            log.warning(
                "%s: the number of the last step is not kept beside the files: %s", self._volume, error
            )
        self._why_not = str(error)
