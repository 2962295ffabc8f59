"""Contents of small files that were replaced a moment ago."""

from __future__ import annotations

import pytest

from closeranks_agent.disk import recent
from closeranks_agent.disk.recent import Recent


def test_a_version_is_known_by_its_path_and_its_digest() -> None:
    kept = Recent()
    kept.keep(b"a", b"1", b"first")
    kept.keep(b"a", b"2", b"second")
    assert (kept.get(b"a", b"1"), kept.get(b"a", b"2")) == (b"first", b"second")
    assert kept.get(b"b", b"1") is None


def test_the_oldest_gives_way_when_there_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "ALL_MAX_BYTES", 10)
    kept = Recent()
    for digest in (b"1", b"2", b"3"):
        kept.keep(b"a", digest, b"12345")
    assert [kept.get(b"a", digest) is None for digest in (b"1", b"2", b"3")] == [True, False, False]


def test_the_same_version_again_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "ALL_MAX_BYTES", 10)
    kept = Recent()
    for _ in range(9):
        kept.keep(b"a", b"1", b"12345")
    kept.keep(b"a", b"2", b"12345")
    assert kept.get(b"a", b"1") == b"12345"


def test_what_is_old_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(recent.time, "monotonic", lambda: now[0])
    kept = Recent()
    kept.keep(b"a", b"1", b"12345")
    now[0] += recent.KEEP_S + 1
    kept.keep(b"b", b"2", b"12345")
    assert kept.get(b"a", b"1") is None
