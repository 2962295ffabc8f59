"""Keeping a volume watched: what is said while that is not possible."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest

from closeranks_agent.disk.records import VolumeGone
from closeranks_agent.watching import Watching
from closeranks_proto.messages import Problem


async def test_that_a_root_is_gone_is_said_once_and_not_at_each_attempt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gone = VolumeGone(Problem("not_mounted", "its root is gone"))

    def open_root() -> int:
        raise gone

    def nothing(*_: object) -> None:
        return None

    nobody, volume = cast(Any, SimpleNamespace()), cast(Any, SimpleNamespace(open_root=open_root))
    watching = Watching("photos", "auto", nobody, nobody, nothing, nothing)
    with caplog.at_level(logging.INFO, "closeranks.watch"):
        for _ in range(3):  # each round tries to open it, scans, and closes what is of no use
            await watching.ensure(volume)
            await watching.close(str(gone))
    assert [one.getMessage() for one in caplog.records] == [
        "photos: not watched, scans see what changes: the volume can not be opened: its root is gone"
    ]
