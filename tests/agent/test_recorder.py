"""What one scan found is gathered before it is written: rows as they are, edits as somebody else has to make them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from closeranks_agent.disk.attributed import HandOf
from closeranks_agent.disk.recorder import Recorder
from closeranks_agent.disk.records import Record, StatSignature
from closeranks_agent.disk.rows import Delta
from closeranks_proto.messages import Edit, Hand


class Commits:
    """A volume's history that keeps what it is told: (rows, edits) of each commit."""

    root: bytes | None = b"root"
    unfinished = False

    def __init__(self) -> None:
        self.told: list[tuple[dict[bytes, Record | None], dict[bytes, Edit]]] = []

    def stow(self, delta: Delta) -> None:
        raise AssertionError("few changes are committed")

    def grow(self, frontier: bytes) -> None:
        raise AssertionError("few changes are committed")

    def commit(
        self, delta: Delta, edits: Mapping[bytes, Edit], cause: str, seen_mono: float,
        hand_of: HandOf | None = None, sizes: Mapping[bytes, int] | None = None,
    ) -> None:  # fmt: skip
        self.told.append((dict(delta.rows), dict(edits)))

    def found(self, cause: str, seen_mono: float, force: bool = False, hands: Sequence[Hand] = ()) -> None:
        raise AssertionError("few changes are committed")


@pytest.fixture
def history() -> Commits:
    return Commits()


@pytest.fixture
def recorder(history: Commits) -> Recorder:
    return Recorder(history, "scan", False, lambda: None)


@pytest.fixture
def stat(tmp_path: Path) -> StatSignature:
    return StatSignature.of(os.stat(tmp_path))


def test_a_path_that_came_back_before_anybody_was_told_is_no_change(
    history: Commits, recorder: Recorder, stat: StatSignature
) -> None:
    """Else the root that is told has what no row has, and no later look finds a difference."""
    before, meanwhile = (
        Record(b"a", b"before", stat, None, True),
        Record(b"a", b"meanwhile", stat, None, True),
    )
    recorder.put(meanwhile, True)
    recorder.put(before, False)
    recorder.finish()
    assert history.told == [({b"a": before}, {})]


def test_of_a_path_that_changed_twice_the_last_is_told(
    history: Commits, recorder: Recorder, stat: StatSignature
) -> None:
    last = Record(b"a", b"last", stat, None, True)
    recorder.put(Record(b"a", b"first", stat, None, True), True)
    recorder.put(last, True)
    recorder.finish()
    assert history.told == [({b"a": last}, {b"a": Edit(b"a", b"last", None)})]


def test_a_path_that_came_after_its_removal_is_there(
    history: Commits, recorder: Recorder, stat: StatSignature
) -> None:
    there = Record(b"a", b"there", stat, None, True)
    recorder.remove(b"a")
    recorder.put(there, True)
    recorder.remove(b"b")
    recorder.finish()
    assert history.told == [
        ({b"a": there, b"b": None}, {b"a": Edit(b"a", b"there", None), b"b": Edit(b"b", None, None)})
    ]
