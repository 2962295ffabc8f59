"""Decay as it looks to the agent: other bytes under the stat that the index has.

No program can write a file and leave its ctime alone, so the row's stat is brought up to the file's and its digest left
as it was. `tests/e2e` changes the bytes below a real file system.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from closeranks_agent.disk.records import StatSignature
from closeranks_agent.disk.rows import Delta
from closeranks_agent.disk.volume import Volume


def decay(volume: Volume, path: Path, data: bytes) -> None:
    """Other bytes, and a row that takes the file's stat for the one it knows."""
    key = os.fsencode(path.relative_to(os.fsdecode(volume.path))).replace(b"/", b"\0")
    before = volume.record(key)
    assert before is not None
    path.write_bytes(data)
    known = Delta({key: dataclasses.replace(before, stat=StatSignature.of(path.stat()), settled=True)})
    with volume.history.index.database.transaction():
        volume.history.index.write(known, volume.chunk_bytes, volume.algorithm.width)
