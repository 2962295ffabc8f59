"""What converge wrote for an incident: the list that its proof re-reads. One ledger for each incident.

A key stands here, durably, before its step is applied: a kill in between costs one needless re-read, never
a missing one. Paths whose special mode bits were withheld stand here with the value that they should have.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable

import msgpack

from .ledger import Ledger

_PREFIX = b"written-"


def _name(incident: str) -> bytes:
    return _PREFIX + hashlib.blake2b(incident.encode(), digest_size=16).hexdigest().encode()


class Written:
    """The list of one incident ("" for converges that belong to none). Not thread-safe."""

    def __init__(self, trash_fd: int, incident: str) -> None:
        self._ledger = Ledger(trash_fd, _name(incident))
        self._ledger.prepare()

    def add(self, keys: Iterable[bytes]) -> None:
        """Durable when it returns. Raises OSError."""
        self._ledger.prepare()
        self._ledger.append(msgpack.packb(("wrote", key)) for key in keys)
        self._ledger.sync()

    def withhold(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """(key, target value) of paths whose special mode bits were not written."""
        records = [msgpack.packb(("withheld", key, target)) for key, target in pairs]
        if records:
            self._ledger.append(records)
            self._ledger.sync()

    def read(self) -> tuple[list[bytes], dict[bytes, bytes]]:
        """(keys written, ascending; the last target value of each path withheld)."""
        keys: set[bytes] = set()
        withheld: dict[bytes, bytes] = {}
        for record in self._ledger.read():
            match record:
                case ("wrote", bytes(key)):
                    keys.add(key)
                case ("withheld", bytes(key), bytes(target)):
                    withheld[key] = target
                case _:
                    raise self._ledger.damaged()
        return sorted(keys), withheld

    def close(self) -> None:
        self._ledger.close()


def forget_closed(trash_fd: int, incidents: Collection[str]) -> None:
    """Drop the lists of all incidents but these: their nodes were released, or a person took over."""
    kept = {_name(incident) for incident in incidents}
    for text in os.listdir(trash_fd):
        name = os.fsencode(text)
        if name.startswith(_PREFIX) and name not in kept:
            os.unlink(name, dir_fd=trash_fd)
