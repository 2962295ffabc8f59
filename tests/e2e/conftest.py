"""Fixtures of the end-to-end tests."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from fleet import Fleet, finish
from fleet_fixtures import make_fleet, pytest_runtest_makereport

__all__ = ["lone_coordinator", "make_fleet", "pytest_runtest_makereport"]


@pytest.fixture(scope="module")
def lone_coordinator(tmp_path_factory: pytest.TempPathFactory) -> Generator[Fleet]:
    """A coordinator whose three nodes never came, for requests that change nothing."""
    fleet = Fleet(tmp_path_factory.mktemp("lone"), nodes=3)
    try:
        fleet.start(nodes=[])
        yield fleet
    finally:
        finish(fleet, failed=False)
