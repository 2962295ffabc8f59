"""What a watcher tells of the writes that it sees: for the report of activity and for the ledger of writers.

Told where it is seen first, before anything is committed: a guard that waited for the commit of a file that
still grows would wait for the whole of it. What the agent itself wrote (converge, push) is never told.
"""

from __future__ import annotations

from typing import Protocol

from closeranks_proto.parts import Hand


class Written(Protocol):
    """Every method may be called from any thread, returns at once and never raises."""

    def note(self, volume: str, files: int, size_bytes: int, hand: Hand | None = None) -> None:
        """So many paths changed and so many bytes were written since the last note; `hand` None: unknown.

        Of a file that still grows: the growth since it was told of last, with `files` 0 after the first time.
        """

    def pending(self, volume: str, paths: int) -> None:
        """So many paths have changed and are not committed yet."""

    def ahead(self, volume: str, size_bytes: int) -> None:
        """So many of the bytes of a note are found by a scan later, which shall not tell of them again."""
