"""How long a file that changes whenever it is read is waited for."""

from __future__ import annotations

import pytest

from closeranks_agent.disk import busy as busy_module
from closeranks_agent.disk.busy import Busy


def test_a_file_is_young_from_when_it_was_first_found_busy() -> None:
    busy = Busy()
    assert busy.is_young(b"f", 10.0, 2.0)
    assert busy.is_young(b"f", 11.9, 2.0)
    assert not busy.is_young(b"f", 12.0, 2.0)
    assert not busy.is_young(b"f", 11.0, 1.0), "a look waits less long than a scan, for the same file"


def test_what_was_steady_once_begins_again() -> None:
    busy = Busy()
    assert busy.is_young(b"f", 10.0, 2.0)
    busy.rests(b"f")
    assert busy.is_young(b"f", 12.5, 2.0)


def test_what_is_not_busy_any_more_is_forgotten() -> None:
    busy = Busy()
    assert busy.is_young(b"gone", 10.0, 2.0)
    assert busy.is_young(b"stays", 10.0, 2.0)
    busy.keep({b"stays"})
    assert busy.is_young(b"gone", 12.5, 2.0)
    assert not busy.is_young(b"stays", 12.5, 2.0)


def test_no_more_are_waited_for_than_are_tracked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy_module, "TRACKED_MAX", 2)
    busy = Busy()
    assert [busy.is_young(b"%d" % number, 10.0, 2.0) for number in range(3)] == [True, True, False]
