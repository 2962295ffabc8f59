"""The limit of open files is raised to what the system allows, and a fleet that is too large for it is told."""

from __future__ import annotations

import resource

import pytest

from closeranks_coordinator import descriptors


class Limits:
    """The process's limits, as the kernel keeps them."""

    def __init__(self, soft: int, hard: int) -> None:
        self.now = (soft, hard)

    def getrlimit(self, _: int) -> tuple[int, int]:
        return self.now

    def setrlimit(self, _: int, limits: tuple[int, int]) -> None:
        soft, hard = limits
        assert hard == self.now[1], "the hard limit stays"
        if hard != resource.RLIM_INFINITY and (soft == resource.RLIM_INFINITY or soft > hard):
            raise ValueError("current limit exceeds maximum limit")
        self.now = limits


def given(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int) -> Limits:
    limits = Limits(soft, hard)
    for name in ("getrlimit", "setrlimit"):
        monkeypatch.setattr(descriptors.resource, name, getattr(limits, name))
    return limits


def test_the_soft_limit_becomes_the_hard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = given(monkeypatch, 1024, 524_288)
    assert descriptors.raise_limit(1000) is None
    assert limits.now == (524_288, 524_288)


def test_too_few_for_the_fleet_is_told_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, 1024, 1024)
    assert descriptors.raise_limit(16) is None
    told = descriptors.raise_limit(1000)
    assert told is not None
    assert "may open 1024 files" in told
    assert "1000 nodes needs 2256" in told
    assert "LimitNOFILE=2256" in told


def test_without_a_hard_limit_it_takes_what_the_fleet_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = given(monkeypatch, 1024, resource.RLIM_INFINITY)
    assert descriptors.raise_limit(1000) is None
    assert limits.now == (2256, resource.RLIM_INFINITY)


def test_where_there_is_no_limit_nothing_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = given(monkeypatch, resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert descriptors.raise_limit(100_000) is None
    assert limits.now == (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
